"""lm-eval's own tasks on the same questions: what a score would be under another protocol.

They ask without a chat template, for the letter alone or one word, each in words of its own. The numbers stand beside ours on the page and
decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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


# By family: lm-eval's task file, and the publisher's columns that it reads.
STOCK: dict[str, tuple[str, Callable[[Item], dict[str, Any]]]] = {
    "medmcqa": ("medmcqa/medmcqa.yaml", _medmcqa), "medqa": ("medqa/medqa.yaml", _medqa),
    "pubmedqa": ("pubmedqa/pubmedqa.yaml", _pubmedqa), "toxigen": ("toxigen/toxigen.yaml", _toxigen),
}


def stock_scores(evaluation: Evaluation, items: list[Item], harness: Any) -> dict[str, dict[str, Any]]:
    """What lm-eval's own tasks say of the recipe's `evaluation.stock`.

    Args:
        evaluation: the recipe's.
        items: the questions of all benchmarks.
        harness: the loaded model.

    Returns:
        By benchmark: the task, its version, and the metrics that it names.
    """
    if not evaluation.stock:
        return {}
    import datasets
    import lm_eval.tasks
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    tasks, names = [], {}
    for name in evaluation.stock:
        file, publish = STOCK[evaluation.benchmarks[name].family]
        config = load_yaml(Path(lm_eval.tasks.__file__).parent / file)
        table = datasets.Dataset.from_list([publish(item) for item in items if item["benchmark"] == name])
        names[name] = f"{config['task']} ({name})"
        tasks.append(ConfigurableTask(config={
            **config, "task": names[name], "dataset_path": None, "dataset_name": None, "training_split": None, "validation_split": None,
            "test_split": "test", "custom_dataset": lambda table=table, **_: {"test": table}}))
    told = simple_evaluate(harness, tasks=tasks, bootstrap_iters=0, task_manager=TaskManager(include_defaults=False))
    return {name: {"task": task.rpartition(" (")[0], "version": told["versions"].get(task),
                   **{key.removesuffix(",none"): float(value) for key, value in told["results"][task].items()
                      if key.endswith(",none") and isinstance(value, (int, float)) and "stderr" not in key}}
            for name, task in names.items()}
