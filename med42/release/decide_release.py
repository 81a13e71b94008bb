"""The stage `decide_release`: the recipe's gates against the last model's scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.journal import Job
from med42.lineage.record import Record, read_record
from med42.recipe import Recipe, recipe_digest
from med42.recipe.schema import Gate
from med42.report import page


@stage
def decide_release(recipe: Recipe, scores: Path, out: Path, job: Job) -> Record:
    """Decide whether the model behind the last scores may be pushed.

    The record's `measured["approved"]` is the verdict; every gate has its own, with the numbers behind it.
    """
    parameters = {"recipe": recipe_digest(recipe), "gates": [gate.model_dump(mode="json") for gate in recipe.gates]}
    plan = Plan("decide_release", "decision", parameters, {"scores": scores}, "release")
    return produce(plan, out, job, lambda draft: _decide(recipe, scores, draft))


def judge(gate: Gate, history: list[dict[str, Any]]) -> dict[str, Any]:
    """One gate's verdict.

    Args:
        gate: the rule.
        history: scores of every model in order, the last one being judged.

    Raises:
        Med42Error: a model that the rule compares with was not evaluated.
    """
    found = _value(history[-1], gate.score)
    if gate.not_below is not None:
        earlier = next((entry for entry in history if entry["label"] == gate.not_below), None)
        if earlier is None:
            raise Med42Error(f"gate on {gate.score}", f"scores of {', '.join(entry['label'] for entry in history)}",
                             f"scores of '{gate.not_below}'", "Evaluate that model, or change the gate.")
        bound = _value(earlier, gate.score) - gate.allowance
        rule = f"not below {gate.not_below} ({_value(earlier, gate.score):.1%}) less {gate.allowance:.1%}"
        met = found >= bound
    elif gate.at_least is not None:
        rule, met = f"at least {gate.at_least:.1%}", found >= gate.at_least
    else:
        rule, met = f"at most {gate.at_most:.1%}", found <= (gate.at_most or 0.0)
    return {"score": gate.score, "found": found, "rule": rule, "met": met}


def _value(entry: dict[str, Any], score: str) -> float:
    return float(entry["average"] if score == "average" else entry["scores"][score])


def _decide(recipe: Recipe, scores: Path, draft: Path) -> Outcome:
    history = read_record(scores).measured["history"]
    verdicts = [judge(gate, history) for gate in recipe.gates]
    approved = all(verdict["met"] for verdict in verdicts)
    decision = {"approved": approved, "model": history[-1]["label"], "verdicts": verdicts}
    (draft / "decision.json").write_text(json.dumps(decision, indent=1, sort_keys=True) + "\n")
    rows = [(verdict["score"], f"{verdict['found']:.1%}", verdict["rule"], verdict["met"]) for verdict in verdicts]
    lead = f"Model {history[-1]['label']}: {'approved' if approved else 'refused'}."
    (draft / "page.html").write_text(page.page("Release decision", lead, [
        page.table(("score", "found", "rule", "met"), rows) if rows else page.paragraph("The recipe has no gates."),
    ]))
    unmet = ", ".join(verdict["score"] for verdict in verdicts if not verdict["met"])
    return Outcome({**decision, "summary": "approved" if approved else f"refused: {unmet}"})
