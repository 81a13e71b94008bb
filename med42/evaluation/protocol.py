"""The protocol lock: everything that decides what a score means, under one digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from med42.errors import Med42Error
from med42.evaluation.item import row_lock
from med42.evaluation.prepare_benchmarks import find_converter
from med42.lineage.digest import file_digest, merkle_root, value_digest
from med42.lineage.record import Record
from med42.recipe.schema import Evaluation

TASKS = Path(__file__).parent / "tasks"
TASK = TASKS / "full_answer.yaml"
SHOWN = 6  # differences in one error


class _Plain(yaml.SafeLoader):
    """Reads a task file without importing the functions that it names."""


_Plain.add_constructor("!function", lambda _, node: str(node.value))


def task_file(family: str) -> Path:
    """The lm-eval task file of a benchmark family."""
    return TASKS / f"med42_{family.replace('-', '_')}.yaml"


def task_config(path: Path = TASK) -> dict[str, Any]:
    """A task file as a mapping, with the one that it includes; functions by name."""
    config: dict[str, Any] = yaml.load(path.read_text(), Loader=_Plain)
    return {**(task_config(path.parent / config.pop("include")) if "include" in config else {}), **config}


def protocol(evaluation: Evaluation, benchmarks: Record, items: Iterable[dict[str, Any]], model: Path) -> dict[str, Any]:
    """What must be equal for two scores to stand side by side.

    Args:
        evaluation: the recipe's.
        benchmarks: record of the benchmark rows.
        items: these rows.
        model: the model artifact, whose tokenizer and template ask the questions.
    """
    task, by_benchmark = task_config(), dict[str, list[dict[str, Any]]]()
    for item in items:
        by_benchmark.setdefault(item["benchmark"], []).append(item)
    locks = {}
    for name, rows in sorted(by_benchmark.items()):
        family = evaluation.benchmarks[name].family
        config = task_config(task_file(family))
        prompts = [hashlib.sha256(row["prompt"].encode()).hexdigest() for row in rows]
        locks[name] = {
            "task": config["task"], "task_version": config["metadata"]["version"], "task_file": file_digest(task_file(family)),
            "dataset": benchmarks.parameters["pinned"].get(name, ""), **row_lock([row["id"] for row in rows]),
            "prompts": merkle_root(prompts),
            "in_average": evaluation.benchmarks[name].in_average,
            "mean_of_subjects": getattr(find_converter(family, name), "MEAN_OF_SUBJECTS", False),
        }
    return {
        "harness": f"lm-eval {version('lm-eval')}", "task": value_digest(task), "few_shot": task["num_fewshot"],
        "answer": evaluation.answer, "normalisation": evaluation.normalisation, "number_format": evaluation.dtype,
        "chat_template": file_digest(model / "chat_template.jinja"), "tokenizer": file_digest(model / "tokenizer.json"),
        "benchmarks": locks, **({"scored_by": "a server, through local-completions"} if evaluation.server else {}),
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys in which two locks differ, as (key, one's, other's); None where one has no such key."""
    flat, flat_other = dict(_flat(one)), dict(_flat(other))
    keys = sorted(flat.keys() | flat_other.keys())
    return [(key, flat.get(key), flat_other.get(key)) for key in keys if flat.get(key) != flat_other.get(key)]


def refuse_other_protocol(mine: dict[str, Any], other: dict[str, Any], where: object) -> None:
    """Refuse scores that were measured in another way.

    Raises:
        Med42Error: naming what differs, with both sides.
    """
    if found := differences(mine, other):
        more = f"; {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        told, expected = ("; ".join(f"{key} {_short(values[side])}" for key, *values in found[:SHOWN]) + more for side in (1, 0))
        raise Med42Error(where, f"scores under another protocol ({told})", expected,
                         "Such scores do not compare; evaluate that model again under this recipe.")


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _flat(part, f"{key}.{name}" if key else name)
    else:
        yield key, value


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text[:12] if len(text) == 64 else text[:60]
