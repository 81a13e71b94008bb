"""The protocol lock: everything that decides what a score means, under one digest."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from med42.data.options import LETTERS
from med42.errors import Med42Error
from med42.lineage.digest import file_digest
from med42.lineage.record import read_record
from med42.recipe.schema import Evaluation

TASK = Path(__file__).parent / "tasks" / "full_answer.yaml"


def task_config() -> dict[str, Any]:
    """The lm-eval task that every benchmark is asked by."""
    config: dict[str, Any] = yaml.safe_load(TASK.read_text())
    return config


def answers(options: list[str], lettered: bool, form: str) -> list[str]:
    """The continuations that are scored: what the assistant would say.

    Words such as yes and no are said as they are; lettered options in the recipe's form.
    """
    if not lettered or form == "text":
        return options
    if form == "letter":
        return list(LETTERS[: len(options)])
    return [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]


def protocol(evaluation: Evaluation, benchmarks: Path, model: Path) -> dict[str, Any]:
    """What must be equal for two scores to stand side by side."""
    return {
        "harness": f"lm-eval {version('lm-eval')}", "task": task_config(), "items": read_record(benchmarks).digest,
        "answer": evaluation.answer, "normalisation": evaluation.normalisation,
        "chat_template": file_digest(model / "chat_template.jinja"), "tokenizer": file_digest(model / "tokenizer.json"),
    }


def refuse_other_protocol(mine: dict[str, Any], other: dict[str, Any], where: Path) -> None:
    """Refuse scores that were measured in another way.

    Raises:
        Med42Error: naming every part that differs.
    """
    if differing := [key for key in mine if mine[key] != other.get(key)]:
        found = "; ".join(f"{key} {str(other.get(key))[:60]}" for key in differing)
        expected = "; ".join(f"{key} {str(mine[key])[:60]}" for key in differing)
        raise Med42Error(where, f"scores under another protocol ({found})", expected, "Evaluate that model again under this recipe.")
