"""The page of a whole run: verdict, scores, every row accounted for, and a link to every stage's own page."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from med42.lineage.record import read_record
from med42.recipe import Recipe, recipe_digest
from med42.report import page


def write_report(recipe: Recipe, folder: Path, events: list[dict[str, Any]], outputs: dict[str, Path], until: str = "") -> Path:
    """Write `report.html` of a run that came to its end and return its path.

    Args:
        recipe: the resolved recipe.
        folder: the run's folder.
        events: the journal's finished events.
        outputs: artifact folders by stage name.
        until: the stage that the run was told to end with; empty where it was not.
    """
    blocks = [
        *_end(until),
        *_decision(outputs),
        *_scores(recipe, outputs),
        *_rounds(outputs),
        *_trainings(outputs),
        *_accounts(outputs),
        *_stages(folder, events, outputs),
    ]
    path = folder / "report.html"
    path.write_text(page.page(f"Run of {recipe.name}", f"{recipe.title}. Recipe {recipe_digest(recipe)[:16]}, run {folder.name}.", blocks))
    return path


def accounts(outputs: dict[str, Path]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Stage, source and account of every source that a stage read."""
    for stage, path in outputs.items():
        for source, account in read_record(path).measured.get("accounts", {}).items():
            yield stage, source, account


def last_scores(outputs: dict[str, Path]) -> dict[str, Any]:
    """The scores that tell the whole way: those with the longest history."""
    scored = [json.loads((path / "scores.json").read_text()) for name, path in outputs.items() if name.startswith("evaluate_model-")]
    return max(scored, key=lambda scores: len(scores["history"]))


def _end(until: str) -> list[Markup]:
    return [page.paragraph(f"This run was told to stop after {until}. Nothing was pushed, and there is no bundle.")] if until else []


def _decision(outputs: dict[str, Path]) -> list[Markup]:
    if "decide_release" not in outputs:
        return []
    decision = json.loads((outputs["decide_release"] / "decision.json").read_text())
    override = decision["override"]
    verdict = "Every gate is met." if decision["approved"] else "Refused: a gate is not met."
    if override and decision["approved"]:
        verdict = f"{override['by']} lets the release pass against {', '.join(override['gates'])}: {override['reason']}"
    rows = [(gate["gate"], gate["shown"], gate["rule"], gate["met"]) for gate in decision["verdicts"]]
    return [page.heading("Decision"), page.paragraph(verdict, "good" if decision["approved"] and not override else "bad"),
            page.table(("gate", "found", "rule", "met"), rows)]


def _scores(recipe: Recipe, outputs: dict[str, Path]) -> list[Markup]:
    if not any(name.startswith("evaluate_model-") for name in outputs):
        return []
    last, names = last_scores(outputs), list(recipe.evaluation.benchmarks)
    rows = [
        (entry["label"], *(f"{100 * entry['scores'][name]:.1f}" for name in names), f"{100 * entry['average']:.1f}")
        for entry in last["history"]
    ]
    for title, key in (("guessing", "guessing"), ("always the same answer", "same_answer")):
        rows.append((title, *(f"{100 * last['scores'][name][key]:.1f}" for name in names), ""))
    return [
        page.heading("Scores in %, from model to model"),
        page.table(("model", *names, last["average_name"]), rows),
        page.paragraph("A score is worth what it has above guessing and above always giving the same answer.", "note"),
    ]


def _rounds(outputs: dict[str, Path]) -> list[Markup]:
    records = [read_record(path).measured for name, path in sorted(outputs.items()) if name.startswith("train_dpo-")]
    records = [measured for measured in records if "held_out" in measured]
    if not records:
        return []
    rows = [(measured["round"], measured["pairs"], measured["steps"], *measured["held_out"].values()) for measured in records]
    header = ("round", "pairs", "steps", *(key.replace("_", " ") for key in records[0]["held_out"]))
    return [page.heading("Rounds of DPO, on pairs that no round trains on"), page.table(header, rows)]


def _trainings(outputs: dict[str, Path]) -> list[Markup]:
    rows = []
    for name, path in outputs.items():
        record = read_record(path)
        observed = record.made.observed
        if record.stage not in ("train_sft", "train_dpo") or "train_seconds" not in observed:
            continue
        planned = observed.get("planned", {})
        rows.append((
            name, _beside(record.measured["steps"], planned.get("steps"), ",d"), observed["attempts"], observed["steps_redone"],
            _beside(observed["peak_memory_bytes"] / 1e9, planned["memory_bytes"] / 1e9 if planned else None, ",.2f"),
            _beside(observed.get("seconds_a_step"), planned.get("seconds_a_step"), ",.3f"),
            f"{observed.get('tokens_a_second', 0):,}",
            f"{observed['model_flops_utilisation']:.1%}" if "model_flops_utilisation" in observed else "",
        ))
    if not rows:
        return []
    header = ("stage", "steps", "attempts", "steps done again", "GB a process", "seconds a step", "tokens a second", "FLOPs utilisation")
    return [page.heading("Trainings, with the plan's figures in brackets"), page.table(header, rows),
            page.paragraph("Tokens count what a step has room for. Memory on a CPU includes the interpreter and its libraries.", "note")]


def _beside(found: float | None, planned: float | None, form: str) -> str:
    return ("" if found is None else f"{found:{form}}") + ("" if planned is None else f" ({planned:{form}})")


def _accounts(outputs: dict[str, Path]) -> list[Markup]:
    rows = []
    for stage, source, account in accounts(outputs):
        dropped = sum(account["dropped"].values())
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in account["dropped"].items())
        rows.append((stage, source, account["read"], account["kept"], dropped, account["read"] == account["kept"] + dropped, reasons))
    header = ("stage", "source", "read", "kept", "left out", "adds up", "why")
    return [page.heading("Every row accounted for: read = kept + left out"), page.table(header, rows)]


def _stages(folder: Path, events: list[dict[str, Any]], outputs: dict[str, Path]) -> list[Markup]:
    rows = [
        (_link(event["name"], outputs.get(event["name"]), folder), f"{event['seconds']:.1f}", event.get("summary", ""),
         event["made_by"] if event.get("reused") else "this run", event.get("digest", "")[:16])
        for event in events
    ]
    return [page.heading("Stages"), page.table(("stage", "seconds", "what came out", "made by", "digest"), rows)]


def _link(name: str, artifact: Path | None, folder: Path) -> Markup | str:
    if artifact is None:
        return name
    return Markup('<a href="{}">{}</a>').format(os.path.relpath(artifact / "page.html", folder), name)
