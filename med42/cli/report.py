"""The page of a whole run: its stages, its scores, and a link to every stage's own page."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from markupsafe import Markup

from med42.recipe import Recipe, recipe_digest
from med42.report import page


def write_report(recipe: Recipe, folder: Path, events: list[dict[str, Any]], outputs: dict[str, Path]) -> Path:
    """Write `report.html` of a finished run and return its path.

    Args:
        recipe: the resolved recipe.
        folder: the run's folder.
        events: the journal's finished events.
        outputs: artifact folders by stage name.
    """
    scored = [path for name, path in outputs.items() if name.startswith("evaluate_model-")]
    history = max((json.loads((path / "scores.json").read_text())["history"] for path in scored), key=len)
    benchmarks = list(recipe.evaluation.benchmarks)
    decision = json.loads((outputs["decide_release"] / "decision.json").read_text())
    blocks = [
        page.heading("Decision"),
        page.paragraph("Every gate is met." if decision["approved"] else "Refused: a gate is not met.",
                       "good" if decision["approved"] else "bad"),
        page.heading("Scores in % from model to model"),
        page.table(("model", *benchmarks, "average"), [
            (entry["label"], *(f"{100 * entry['scores'][name]:.1f}" for name in benchmarks), f"{100 * entry['average']:.1f}")
            for entry in history]),
        page.heading("Stages"),
        page.table(("stage", "seconds", "what came out", "made by run", "digest"), [
            (_link(event["name"], outputs.get(event["name"]), folder), f"{event['seconds']:.1f}", event.get("summary", ""),
             event.get("made_by", ""), event.get("digest", "")[:16])
            for event in events]),
    ]
    path = folder / "report.html"
    path.write_text(page.page(f"Run of {recipe.name}", f"{recipe.title}. Recipe {recipe_digest(recipe)[:16]}, run {folder.name}.", blocks))
    return path


def _link(name: str, artifact: Path | None, folder: Path) -> Markup | str:
    if artifact is None:
        return name
    return Markup('<a href="{}">{}</a>').format(os.path.relpath(artifact / "page.html", folder), name)
