"""The stage `evaluate_model`: one model on every benchmark, beside the models before it.

On disk: `items.parquet` with the log-likelihood of every answer, `scores.json`, `protocol.json`. Scores carry
those of the models before, under one protocol, so that the last ones tell base, SFT and every round of DPO.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from med42.data.shards import read_shards
from med42.errors import Med42Error
from med42.evaluation.prepare_benchmarks import find_converter
from med42.evaluation.protocol import answers, protocol, refuse_other_protocol, task_config
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.digest import value_digest
from med42.lineage.journal import Job
from med42.lineage.record import Record
from med42.recipe import Recipe
from med42.report import page, plot
from med42.report.quiet import work_offline_and_quietly

PACKAGES = ("torch", "transformers", "lm-eval")


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
        Med42Error: a log-likelihood that is not finite, or earlier scores under another protocol.
    """
    settings = recipe.evaluation.model_dump(mode="json", exclude={"benchmarks", "every_round", "limit"})
    inputs = {"model": model, "benchmarks": benchmarks} | ({"earlier": earlier} if earlier else {})
    plan = Plan("evaluate_model", "scores", {"label": label, "evaluation": settings}, inputs, "evaluation", PACKAGES,
                name=f"evaluate_model-{label}")
    return produce(plan, out, job, lambda draft: _evaluate(recipe, label, model, benchmarks, earlier, draft))


def _evaluate(recipe: Recipe, label: str, model: Path, benchmarks: Path, earlier: Path | None, draft: Path) -> Outcome:
    lock = protocol(recipe.evaluation, benchmarks, model)
    history: list[dict[str, Any]] = []
    if earlier:
        refuse_other_protocol(lock, json.loads((earlier / "protocol.json").read_text()), earlier)
        history = json.loads((earlier / "scores.json").read_text())["history"]
    items = list(read_shards(benchmarks))
    clock = time.monotonic()
    results = _score(recipe, model, items)
    seconds = time.monotonic() - clock
    scores = {name: _benchmark_score(recipe, name, [row for row in results if row["benchmark"] == name])
              for name in recipe.evaluation.benchmarks}
    for name, score in scores.items():
        score.update(_without_knowledge([item for item in items if item["benchmark"] == name]))
    counted = [scores[name]["score"] for name, benchmark in recipe.evaluation.benchmarks.items() if benchmark.in_average]
    average = sum(counted) / len(counted) if counted else 0.0
    history.append({"label": label, "average": average, "scores": {name: score["score"] for name, score in scores.items()}})
    _write_items(results, draft)
    (draft / "protocol.json").write_text(json.dumps(lock, indent=1, sort_keys=True) + "\n")
    told = {"label": label, "average": average, "scores": scores, "history": history}
    (draft / "scores.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
    _write_page(recipe, label, scores, average, history, draft)
    return Outcome(
        {"label": label, "average": average, "scores": {name: score["score"] for name, score in scores.items()}, "history": history,
         "protocol": value_digest(lock), "items": len(items), "summary": f"average {average:.1%}"},
        {"score_seconds": round(seconds, 2)},
    )


def _score(recipe: Recipe, model: Path, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every item with the log-likelihood of each of its answers, and which one the model prefers."""
    work_offline_and_quietly()
    import datasets
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    evaluation = recipe.evaluation
    if evaluation.threads:
        torch.set_num_threads(evaluation.threads)
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for item in items:
        rows[item["benchmark"]].append({**item, "answers": answers(item["options"], item["lettered"], evaluation.answer)})

    def task(name: str) -> Any:
        table = datasets.Dataset.from_list(rows[name])
        return ConfigurableTask(config={**task_config(), "task": name, "custom_dataset": lambda **_: {"test": table}})

    weights: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, evaluation.dtype), use_safetensors=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    harness = HFLM(pretrained=weights.to(device).eval(), tokenizer=AutoTokenizer.from_pretrained(model), batch_size=evaluation.batch,
                   device=device)
    told = simple_evaluate(
        harness, tasks=[task(name) for name in rows], apply_chat_template=True, bootstrap_iters=0, log_samples=True,
        task_manager=TaskManager(include_defaults=False),  # indexing the harness's own 14,000 tasks takes longer than scoring ours
    )
    results = []
    for name, samples in told["samples"].items():
        for sample in samples:
            item = sample["doc"]
            likelihoods = [float(response[0][0]) for response in sample["resps"]]
            if not all(map(math.isfinite, likelihoods)):
                raise Med42Error(f"benchmark {name}, item {item['id'][:12]}", f"log-likelihoods {likelihoods}", "finite numbers",
                                 "The model is broken; look at its training log.")
            lengths = [len(answer) if evaluation.normalisation == "characters" else 1 for answer in item["answers"]]
            preferred = max(range(len(likelihoods)), key=lambda place: likelihoods[place] / lengths[place])
            results.append({"id": item["id"], "benchmark": name, "subject": item["subject"], "right": item["right"], "preferred": preferred,
                            "correct": preferred == item["right"], "log_likelihoods": likelihoods})
    return sorted(results, key=lambda row: (row["benchmark"], row["id"]))


def _benchmark_score(recipe: Recipe, name: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy with its standard error; for MMLU and USMLE the unweighted mean of the subjects (Table 4)."""
    converter = find_converter(recipe.evaluation.benchmarks[name].family, name)
    by_subject: dict[str, list[bool]] = defaultdict(list)
    for row in results:
        by_subject[row["subject"] if getattr(converter, "MEAN_OF_SUBJECTS", False) else ""].append(row["correct"])
    means = {subject: sum(right) / len(right) for subject, right in sorted(by_subject.items())}
    # Independent subjects: the variance of their mean is the sum of p(1-p)/n over subjects, over k squared.
    variance = sum(mean * (1 - mean) / len(by_subject[subject]) for subject, mean in means.items()) / len(means) ** 2
    return {"score": sum(means.values()) / len(means), "standard_error": math.sqrt(variance), "items": len(results),
            "by_subject": means if len(means) > 1 else {}}


def _without_knowledge(items: list[dict[str, Any]]) -> dict[str, float]:
    """What answering at random scores, and what always giving the same (most frequent) answer scores."""
    same = Counter(item["right"] if item["lettered"] else item["options"][item["right"]] for item in items)
    return {"guessing": sum(1 / len(item["options"]) for item in items) / len(items), "same_answer": max(same.values()) / len(items)}


def _write_items(results: list[dict[str, Any]], draft: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(results), draft / "items.parquet", compression="zstd")


def _write_page(recipe: Recipe, label: str, scores: dict[str, Any], average: float, history: list[dict[str, Any]], draft: Path) -> None:
    names = list(recipe.evaluation.benchmarks)
    labels = [entry["label"] for entry in history]
    progress = {name: (list(range(len(history))), [100 * entry["scores"][name] for entry in history]) for name in names}
    subjects = [(f"{name}: {subject}", 100 * value) for name in names for subject, value in scores[name]["by_subject"].items()]
    (draft / "page.html").write_text(page.page(
        f"Scores of {label}",
        f"Average of the {sum(benchmark.in_average for benchmark in recipe.evaluation.benchmarks.values())} benchmarks: {average:.1%}.",
        [page.heading("From model to model"),
         page.table(("model", *names, "average"),
                    [(entry["label"], *(f"{100 * entry['scores'][name]:.1f}" for name in names), f"{100 * entry['average']:.1f}")
                     for entry in history]),
         page.figure(plot.lines(progress, "", "score in %", places=labels), "") if len(history) > 1 else page.paragraph(""),
         page.heading("This model"),
         page.table(("benchmark", "score in %", "standard error", "guessing", "always the same answer", "items", "in the average"),
                    [(name, *(100 * scores[name][key] for key in ("score", "standard_error", "guessing", "same_answer")),
                      scores[name]["items"], "yes" if recipe.evaluation.benchmarks[name].in_average else "no")
                     for name in names]),
         page.heading("By subject"),
         page.table(("subject", "score in %"), subjects) if subjects else page.paragraph("No benchmark is scored by subject."),
         page.paragraph(f"Asked zero-shot with the chat template; the log-likelihood of the whole answer decides "
                        f"(form: {recipe.evaluation.answer}).", "note")],
    ))
