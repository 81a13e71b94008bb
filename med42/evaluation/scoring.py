"""Asking a model all questions through lm-eval, in this process or in several that share the batches.

    torchrun --standalone --nproc-per-node N -m med42.evaluation.scoring --job FILE --model DIR --benchmarks DIR --answered FILE

Each process holds a copy of the model, scores every Nth batch and keeps its answers in a file of its own; the stage then reads all
files and finds every batch there. Batches do not depend on the number of processes, so neither does a bit of any score.

Where the recipe names a server, that has the model, and this process asks it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from med42.data.processes import die_with_parent, run_python
from med42.data.shards import read_shards
from med42.errors import Med42Error
from med42.evaluation.answers import all_answers
from med42.evaluation.chain_of_thought import generative_scores
from med42.evaluation.protocol import task_config, task_file
from med42.evaluation.stock import stock_parts, stock_scores
from med42.lineage.journal import Job, read_job, write_job
from med42.recipe import Recipe
from med42.recipe.schema import Evaluation
from med42.report.quiet import work_offline_and_quietly

Item = dict[str, Any]

MODULE = "med42.evaluation.scoring"


@dataclass(frozen=True)
class Asked:
    """What a model answered.

    Attributes:
        samples: lm-eval's, by benchmark: the question, and (log-likelihood, greedy) of each answer.
        tokenizer: the model's.
        cut: questions whose prompts were too long and lost their beginning.
        observed: seconds and tokens of this one time.
        beside: scores under other protocols: `stock`, `generative`.
        server: who answered, where it was a server, and how far it was from the model's own weights.
    """

    samples: dict[str, list[Any]]
    tokenizer: Any
    cut: int
    observed: dict[str, Any]
    beside: dict[str, Any] = field(default_factory=dict)
    server: dict[str, Any] | None = None


def score_items(recipe: Recipe, label: str, model: Path, benchmarks: Path, answered: Path | None, job: Job,
                tell: Callable[[int, int], None]) -> Asked:
    """Every question's answers scored, by as many processes as the recipe asks for, or by its server.

    Args:
        recipe: the resolved recipe.
        label: what the model is called.
        model: the model artifact.
        benchmarks: the questions.
        answered: where answers are kept while they come; None to keep none.
        job: the run.
        tell: called with the questions done and in all.

    Raises:
        Med42Error: what ended the first process that failed; the server is away, holds other weights, or does not answer well.
    """
    clock, items = time.monotonic(), list(read_shards(benchmarks))
    stock = stock_parts(recipe.evaluation, items)
    with tempfile.TemporaryDirectory() as scratch:
        kept, processes = answered or Path(scratch) / "answers.jsonl", recipe.evaluation.processes
        if processes > 1:
            write_job(Path(scratch) / "job.json", recipe, job)
            command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", MODULE,
                       "--job", f"{scratch}/job.json", "--model", str(model), "--benchmarks", str(benchmarks), "--answered", str(kept),
                       "--scratch", scratch]
            if status := run_python(command):
                raise _first_failure(Path(scratch)) or Med42Error(
                    f"{processes} processes of {MODULE}", f"exit status {status}, and no word of why", "0",
                    "Killed from outside, or out of memory: look at the log above, lower evaluation.tokens or evaluation.processes.")
        samples, harness, server = ask(recipe, label, model, items, kept, tell)
        seconds, count = time.monotonic() - clock, sum(map(len, samples.values()))
        observed = {"score_seconds": round(seconds, 2), "questions_a_second": round(count / seconds, 2), "tokens_read": harness.tokens_read,
                    "batches_from_before": harness.found}
        asked = Asked(samples, harness.tokenizer, harness.cut, observed, server=server)
        harness.tell = None  # what follows is none of the questions that were counted
        beside = {"stock": stock_scores(recipe.evaluation, stock, harness),
                  "generative": generative_scores(recipe.evaluation, items, harness)}
        return dataclasses.replace(asked, beside=beside)


def ask(recipe: Recipe, label: str, model: Path, items: list[Item], answered: Path, tell: Callable[[int, int], None],
        part: tuple[int, int] = (0, 1)) -> tuple[dict[str, list[Any]], Any, dict[str, Any] | None]:
    """Load a model, or find it on its server, and ask it all questions, or every Nth batch of them.

    Args:
        recipe: the resolved recipe.
        label: what the model is called.
        model: the model artifact.
        items: the questions.
        answered: where answers are kept.
        tell: called with the questions done and in all.
        part: number of this process, and of how many.

    Returns:
        lm-eval's samples by benchmark, the harness, and what is known of the server.
    """
    work_offline_and_quietly()
    import datasets
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

    from med42.evaluation.questions import Answered

    evaluation, server = recipe.evaluation, None
    if evaluation.threads:
        torch.set_num_threads(evaluation.threads)
    rows: dict[str, list[Item]] = {}
    for item in items:
        rows.setdefault(item["benchmark"], []).append(
            {**item, "answers": all_answers(item["options"], item["lettered"], evaluation.forms)})

    def task(name: str) -> Any:
        table = datasets.Dataset.from_list(rows[name])
        version = task_config(task_file(evaluation.benchmarks[name].family))["metadata"]
        return ConfigurableTask(config={**task_config(), "task": name, "metadata": version, "process_results": _nothing,
                                        "metric_list": [{"metric": "asked", "aggregation": "mean", "higher_is_better": True}],
                                        "custom_dataset": lambda **_: {"test": table}})

    if evaluation.server:
        from med42.evaluation.server import ServerLM, compared

        harness: Any = ServerLM(evaluation.server, label, model, evaluation.tokens, Answered(answered), tell)
        server = {"url": harness.url, "model": harness.served, "checked": 0}
        if evaluation.server.checked:
            alone = ServerLM(evaluation.server, label, model, evaluation.tokens)  # whose answers are not those of the questions
            server |= compared(alone, _loaded(evaluation, model, "cpu", Answered(None)), items, evaluation.forms)
    else:
        device = f"cuda:{part[0]}" if torch.cuda.is_available() else "cpu"
        harness = _loaded(evaluation, model, device, Answered(answered, part[0]), tell, part)
    told = simple_evaluate(
        harness, tasks=[task(name) for name in rows], apply_chat_template=True, bootstrap_iters=0, log_samples=True,
        task_manager=TaskManager(include_defaults=False),  # indexing the harness's own 14,000 tasks takes longer than scoring ours
    )
    return told["samples"], harness, server


def _loaded(evaluation: Evaluation, model: Path, device: str, answered: Any, tell: Callable[[int, int], None] | None = None,
            part: tuple[int, int] = (0, 1)) -> Any:
    """The model's weights as lm-eval's model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from med42.evaluation.shared_prefix import SharedPrefixLM

    # One process with several GPUs lays one model over them, layer by layer.
    over_all = device != "cpu" and evaluation.processes == 1 and evaluation.devices.gpus_per_node > 1
    weights: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, evaluation.dtype), use_safetensors=True,
                                                        attn_implementation="sdpa", **({"device_map": "auto"} if over_all else {}))
    weights = (weights if over_all else weights.to(device)).eval()
    return SharedPrefixLM(weights, AutoTokenizer.from_pretrained(model), evaluation.tokens, answered, tell, device, part)


def _nothing(doc: Item, results: Any) -> dict[str, float]:
    """Marks are given by the stage, with tokens counted; lm-eval's own would be of all forms at once."""
    return {"asked": 1.0}


def _first_failure(scratch: Path) -> Med42Error | None:
    for path in sorted(scratch.glob("failure-*.json")):
        return Med42Error(*json.loads(path.read_text()))
    return None


def main() -> None:
    """One process under torchrun."""
    die_with_parent()
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name in ("job", "model", "benchmarks", "answered", "scratch"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    given = parser.parse_args()
    recipe, _ = read_job(str(given.job))
    number, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # lm-eval takes these for a launch by accelerate, and would divide the questions itself.
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        del os.environ[name]
    try:
        ask(recipe, "", given.model, list(read_shards(given.benchmarks)), given.answered, lambda done, total: None, (number, processes))
    except Med42Error as error:
        (given.scratch / f"failure-{number}.json").write_text(json.dumps([error.where, error.found, error.expected, error.remedy]))
        raise


if __name__ == "__main__":
    main()
