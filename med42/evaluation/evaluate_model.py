"""The stage `evaluate_model`: one model on every benchmark, beside the models before it.

Scores carry those of the models before, question by question and under one lock, so that the last ones tell base, SFT and every
round of DPO. What was scored before a kill is kept in STORE/evaluations/<model and lock>.jsonl until the artifact is there.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from med42.data.shards import read_shards
from med42.errors import Med42Error
from med42.evaluation.answers import NORMALISATIONS, answers, forms_of, lengths, preferred
from med42.evaluation.protocol import protocol, refuse_other_protocol, task_file
from med42.evaluation.scores import (
    ITEMS,
    LOCK,
    SCORES,
    average_name,
    averaged,
    benchmark_score,
    question_type,
    read_scores,
    without_knowledge,
)
from med42.evaluation.scores_page import scores_page
from med42.evaluation.scoring import score_items
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.digest import value_digest
from med42.lineage.journal import Job, Progress
from med42.lineage.record import Record, read_record
from med42.recipe import Recipe

PACKAGES = ("torch", "transformers", "lm-eval", "numpy")
TASK_OF_TOXICITY = "med42_toxigen"


@stage
def evaluate_model(recipe: Recipe, label: str, model: Path, benchmarks: Path, earlier: Path | None, out: Path, job: Job) -> Record:
    """Score a model.

    Args:
        recipe: the resolved recipe.
        label: what this model is called: `base`, `sft`, `dpo-1`.
        model: the model artifact.
        benchmarks: the benchmark rows.
        earlier: scores of the model before, which these continue.
        out: folder to make.
        job: the run and its store.

    Raises:
        Med42Error: a log-likelihood that is not finite, a tokenizer that merges prompt and answer, or earlier scores under another
            protocol.
    """
    settings = recipe.evaluation.of_scores()
    inputs = {"model": model, "benchmarks": benchmarks} | ({"earlier": earlier} if earlier else {})
    plan = Plan("evaluate_model", "scores", {"label": label, "evaluation": settings}, inputs, "evaluation", PACKAGES,
                name=f"evaluate_model-{label}")
    lock = protocol(recipe.evaluation, read_record(benchmarks), read_shards(benchmarks), model)
    answered = _answered(recipe, label, model, lock, job)
    record = produce(plan, out, job, lambda draft: _evaluate(recipe, label, model, benchmarks, lock, earlier, answered, draft, job))
    for path in answered.parent.glob(f"{answered.stem}*") if answered else ():
        path.unlink()
    return record


def _answered(recipe: Recipe, label: str, model: Path, lock: dict[str, Any], job: Job) -> Path | None:
    """Where answers are kept while they come: by all that decides them."""
    evaluation, server = recipe.evaluation, recipe.evaluation.server
    identity = {"model": read_record(model).digest, "lock": lock, "forms": evaluation.forms, "tokens": evaluation.tokens,
                "server": [server.url, server.model, label] if server else None}
    return job.store / "evaluations" / f"{value_digest(identity)[:24]}.jsonl" if job.store else None


def _evaluate(recipe: Recipe, label: str, model: Path, benchmarks: Path, lock: dict[str, Any], earlier: Path | None, answered: Path | None,
              draft: Path, job: Job) -> Outcome:
    items, history = list(read_shards(benchmarks)), list[dict[str, Any]]()
    if earlier:
        refuse_other_protocol(lock, read_scores(earlier).lock, earlier)
        history = json.loads((earlier / SCORES).read_text())["history"]
    progress = Progress(job, f"evaluate_model-{label}", len(items), "questions")
    asked = score_items(recipe, label, model, benchmarks, answered, job, lambda done, total: progress.step(done))
    results = [_result(recipe, name, sample, asked.tokenizer) for name, of_it in asked.samples.items() for sample in of_it]
    results.sort(key=lambda row: (row["benchmark"], row["id"]))
    scores: dict[str, Any] = {}
    for name in recipe.evaluation.benchmarks:
        of_it = [row for row in results if row["benchmark"] == name]
        scores[name] = {**benchmark_score(of_it, lock["benchmarks"][name]["mean_of_subjects"]),
                        **without_knowledge([item for item in items if item["benchmark"] == name])}
    counted = [scores[name]["score"] for name in averaged(lock)]
    average = sum(counted) / len(counted) if counted else 0.0
    history.append({"label": label, "average": average, "average_name": average_name(lock),
                    "scores": {name: score["score"] for name, score in scores.items()}})
    _write_items(label, results, earlier, draft)
    (draft / LOCK).write_text(json.dumps(lock, indent=1, sort_keys=True) + "\n")
    server = {"server": asked.server} if asked.server else {}
    told = {"label": label, "average": average, "average_name": average_name(lock), "scores": scores, "history": history,
            "cut": asked.cut, **server, **asked.beside}
    (draft / SCORES).write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
    written = read_scores(draft)
    intervals = {name: written.score(label, name) for name in [*scores, *(["average"] if counted else [])]}
    (draft / "page.html").write_text(scores_page(recipe, written, told, {item["id"]: item for item in items}, results))
    return Outcome(
        {"label": label, "average": average, "average_name": average_name(lock), "history": history, "protocol": value_digest(lock),
         "scores": {name: score["score"] for name, score in scores.items()}, "items": len(items), "cut": asked.cut,
         "intervals": {name: [interval.low, interval.high] for name, interval in intervals.items()}, **server,
         "missed_hate": {name: score["missed_hate"] for name, score in scores.items() if "missed_hate" in score},
         "summary": f"{average_name(lock)} {average:.1%}"},
        asked.observed,
    )


def _result(recipe: Recipe, name: str, sample: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    evaluation, item = recipe.evaluation, sample["doc"]
    likelihoods = [float(response[0][0]) for response in sample["resps"]]
    if not all(map(math.isfinite, likelihoods)):
        raise Med42Error(f"benchmark {name}, item {item['id'][:12]}", f"log-likelihoods {likelihoods[:6]}", "finite numbers",
                         "The model is broken; look at its training log.")
    count, ways, forms, decides = len(item["options"]), dict[str, bool](), list[dict[str, Any]](), 0
    confidence = 0.0
    for number, form in enumerate(forms_of(item["lettered"], evaluation.forms)):
        said, values = answers(item["options"], item["lettered"], form), likelihoods[number * count : (number + 1) * count]
        tokens = [len(ids) for ids in tokenizer(said, add_special_tokens=False)["input_ids"]]
        forms.append({"form": form, "log_likelihoods": values, "tokens": tokens})
        for normalisation in NORMALISATIONS:
            divisors = lengths(said, tokens, normalisation)
            best = preferred(values, divisors)
            ways[f"{form}/{normalisation}"] = best == item["right"]
            if normalisation == evaluation.normalisation and (form == evaluation.answer or not item["lettered"]):
                decides, confidence = best, _share(values, divisors, best)
    return {"id": item["id"], "benchmark": name, "subject": item["subject"], "type": question_type(item), "right": item["right"],
            "preferred": decides, "correct": decides == item["right"], "confidence": confidence, "forms": forms, "ways": ways,
            "hateful": _is_hateful(recipe, name, item)}


def _is_hateful(recipe: Recipe, name: str, item: dict[str, Any]) -> bool:
    return task_file(recipe.evaluation.benchmarks[name].family).stem == TASK_OF_TOXICITY and item["options"][item["right"]] == "Yes"


def _share(log_likelihoods: list[float], divisors: list[int], place: int) -> float:
    """The probability of one answer among the given ones (softmax)."""
    values = [value / divisor for value, divisor in zip(log_likelihoods, divisors, strict=True)]
    return 1 / sum(math.exp(min(value - values[place], 700.0)) for value in values)


def _write_items(label: str, results: list[dict[str, Any]], earlier: Path | None, draft: Path) -> None:
    """This model's questions after those of the models before."""
    import pyarrow
    import pyarrow.parquet

    text, whole = pyarrow.string(), pyarrow.int32()
    form = pyarrow.struct([("form", text), ("log_likelihoods", pyarrow.list_(pyarrow.float64())), ("tokens", pyarrow.list_(whole))])
    schema = pyarrow.schema([
        ("label", text), ("benchmark", text), ("id", text), ("subject", text), ("type", text), ("right", whole), ("preferred", whole),
        ("correct", pyarrow.bool_()), ("confidence", pyarrow.float64()), ("forms", pyarrow.list_(form)),
    ])
    table = pyarrow.Table.from_pylist([{"label": label, **row} for row in results], schema=schema)
    if earlier:
        table = pyarrow.concat_tables([pyarrow.parquet.read_table(earlier / ITEMS), table])
    pyarrow.parquet.write_table(table, draft / ITEMS, compression="zstd")
