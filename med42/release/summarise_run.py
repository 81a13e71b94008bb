"""The stage `summarise_run`: the last node of a run, for whoever opens it in the pipeline's user interface and reads one page."""

from __future__ import annotations

from pathlib import Path

from med42.errors import Med42Error
from med42.lineage.journal import Job
from med42.lineage.outputs import numbers
from med42.lineage.record import Record, read_record
from med42.lineage.scores import interval_of
from med42.recipe import Recipe, recipe_digest


def summarise_run(recipe: Recipe, scores: Path, decision: Path, sealed: str, markdown: Path, job: Job) -> dict[str, float]:
    """Write the summary as Markdown.

    Args:
        recipe: the resolved recipe.
        scores: the last model's.
        decision: what was decided on it.
        sealed: name of the bundle and digest of its record, with a blank between.
        markdown: where to write.
        job: the run.

    Returns:
        The last model's scores as plain numbers, and `approved`, 1 or 0.

    Raises:
        Med42Error: the decision is on other scores.
    """
    with job.telling("summarise_run") as facts:
        scored, decided = read_record(scores), read_record(decision)
        if scored.digest not in decided.inputs.values():
            raise Med42Error(decision, "a decision on other scores", f"one on {scored.digest[:16]}",
                             "Give the scores that were decided on.")
        markdown.write_text(as_markdown(recipe, scored, decided, sealed, job))
        facts["summary"] = decided.measured["summary"]
    return {**numbers({"scores": scored.measured["scores"]}), "average": float(scored.measured["average"]),
            "approved": float(decided.measured["approved"])}


def as_markdown(recipe: Recipe, scored: Record, decided: Record, sealed: str, job: Job) -> str:
    """Verdict, gates, scores from the first model to the last, and the bundle."""
    first, last = scored.measured["history"][0], scored.measured["history"][-1]
    gates = [f"| {verdict['gate']} | {verdict['shown']} | {verdict['rule']} | {'yes' if verdict['met'] else '**no**'} |"
             for verdict in decided.measured["verdicts"]]
    rows = [f"| {name} | {first['scores'][name]:.1%} | {last['scores'][name]:.1%}{_interval(scored, name)} | "
            f"{last['scores'][name] - first['scores'][name]:+.1%} |" for name in recipe.evaluation.benchmarks]
    bundle, _, digest = sealed.partition(" ")
    return "\n".join([
        f"# {recipe.name}: {'approved' if decided.measured['approved'] else 'refused'}",
        "", f"Model `{last['label']}` of run `{job.run}`, recipe digest `{recipe_digest(recipe)[:16]}`.",
        "", "| gate | found | rule | met |", "|---|---|---|---|", *gates,
        "", f"| benchmark | {first['label']} | {last['label']} | gained |", "|---|---|---|---|", *rows,
        f"| **average** | {first['average']:.1%} | {last['average']:.1%}{_interval(scored, 'average')} | "
        f"{last['average'] - first['average']:+.1%} |",
        "", f"Every record behind this is in the bundle `{bundle}` of the task `seal-audit` (record `{digest[:16]}`). Download it there "
        f"and check it offline: `med42 audit verify {bundle}`.", ""])


def _interval(scored: Record, name: str) -> str:
    ends = interval_of(scored, name)
    return f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else ""
