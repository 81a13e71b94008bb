"""lm-eval's own tasks on the same questions: what a score would be under another protocol.

They ask without a chat template, for the letter alone or one word, each in words of its own. The numbers stand beside ours on the page and
decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from med42.errors import Med42Error
from med42.recipe.schema import Evaluation

Item = dict[str, Any]


def _medmcqa(item: Item) -> dict[str, Any]:
    return {"question": item["question"], "cop": item["right"],
            **{f"op{letter}": option for letter, option in zip("abcd", item["options"], strict=True)}}


def _medqa(item: Item) -> dict[str, Any]:
    return {"sent1": item["question"], "sent2": "", "label": item["right"],
            **{f"ending{place}": option for place, option in enumerate(item["options"])}}


def _pubmedqa(item: Item) -> dict[str, Any]:
    return {"QUESTION": item["question"], "CONTEXTS": item["context"].split("\n"), "final_decision": item["options"][item["right"]]}


def _toxigen(item: Item) -> dict[str, Any]:
    return {"text": item["question"], "toxicity_ai": 5.0 if item["right"] else 1.0, "toxicity_human": 1.0}


def _mmlu(item: Item) -> dict[str, Any]:
    return {"question": item["question"], "choices": item["options"], "answer": item["right"]}


# By family: lm-eval's task file, and the publisher's columns that it reads. One of MMLU's is of one subject.
FILES: dict[str, tuple[str, Callable[[Item], dict[str, Any]]]] = {
    "mmlu": ("mmlu/default/mmlu_{subject}.yaml", _mmlu),
    "medmcqa": ("medmcqa/medmcqa.yaml", _medmcqa), "medqa": ("medqa/medqa.yaml", _medqa),
    "pubmedqa": ("pubmedqa/pubmedqa.yaml", _pubmedqa), "toxigen": ("toxigen/toxigen.yaml", _toxigen),
}

Parts = dict[str, dict[Path, list[Item]]]


def stock_parts(evaluation: Evaluation, items: list[Item]) -> Parts:
    """The questions of the recipe's `evaluation.stock`, by benchmark and by the task file of lm-eval that asks them.

    Raises:
        Med42Error: lm-eval has no task for a subject.
    """
    harness = find_spec("lm_eval")  # not imported: what it stands on reads the environment once
    assert harness is not None and harness.origin is not None
    parts: Parts = {}
    for name in evaluation.stock:
        file, _ = FILES[evaluation.benchmarks[name].family]
        of_it = parts.setdefault(name, {})
        for item in (item for item in items if item["benchmark"] == name):
            path = Path(harness.origin).parent / "tasks" / file.format(subject=item["subject"])
            if path not in of_it and not path.is_file():
                raise Med42Error(f"evaluation.stock: {name}", f"questions on '{item['subject']}'", "a subject that lm-eval has a task for",
                                 "Leave it out of evaluation.stock, or the subject out of the benchmark's sites.")
            of_it.setdefault(path, []).append(item)
    return parts


def stock_scores(evaluation: Evaluation, parts: Parts, harness: Any) -> dict[str, dict[str, Any]]:
    """What lm-eval's own tasks say.

    Args:
        evaluation: the recipe's.
        parts: the questions.
        harness: the loaded model.

    Returns:
        By benchmark: the task, its version, and the metrics that it names; of several tasks their unweighted means.
    """
    if not parts:
        return {}
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    tasks = {name: [_task(name, path, FILES[evaluation.benchmarks[name].family][1], items) for path, items in sorted(of_it.items())]
             for name, of_it in parts.items()}
    told = simple_evaluate(harness, tasks=[task for of_it in tasks.values() for task in of_it], bootstrap_iters=0,
                           task_manager=TaskManager(include_defaults=False))
    return {name: _means([task.config.task for task in of_it], told) for name, of_it in tasks.items()}


def _task(name: str, path: Path, publish: Callable[[Item], dict[str, Any]], items: list[Item]) -> Any:
    """lm-eval's task over our rows, zero-shot: the splits that few-shot examples would come from are taken away."""
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    table, config = datasets.Dataset.from_list([publish(item) for item in items]), load_yaml(path)
    return ConfigurableTask(config={
        **config, "task": f"{config['task']} ({name})", "dataset_path": None, "dataset_name": None, "training_split": None,
        "validation_split": None, "fewshot_split": None, "fewshot_config": None, "test_split": "test", "num_fewshot": 0,
        "custom_dataset": lambda **_: {"test": table}})


def _means(tasks: list[str], told: dict[str, Any]) -> dict[str, Any]:
    """What some tasks tell, as of one."""
    first, found = tasks[0], [told["results"][task] for task in tasks]
    metrics = [key for key, value in found[0].items() if key.endswith(",none") and isinstance(value, int | float) and "stderr" not in key]
    called = first.rpartition(" (")[0] if len(tasks) == 1 else f"mmlu, {len(tasks)} subjects"
    return {"task": called, "version": told["versions"].get(first),
            **{key.removesuffix(",none"): sum(float(one[key]) for one in found) / len(found) for key in metrics}}
