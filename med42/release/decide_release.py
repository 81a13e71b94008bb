"""The stage `decide_release`: the recipe's gates against the last model's scores.

A gate is a rule with numbers: a floor or a ceiling, or a comparison with the base, the SFT model, the last release or the paper's own
gain, judged by the 95% interval of the difference; or a check of the mix and of the licences. One that is not met blocks the push,
unless a named person overrides that very gate, with a reason, in the recipe.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from med42.data.licences import check_licences
from med42.errors import Med42Error
from med42.evaluation.intervals import Interval, difference_interval, score_interval
from med42.evaluation.paper import gain
from med42.evaluation.scores import Scores, averaged, read_scores
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.journal import Job
from med42.lineage.record import Record, read_ancestry, read_record
from med42.recipe import Recipe, recipe_digest
from med42.recipe.schema import Gate
from med42.report import page

RELEASED = "previous"  # label of the last release beside ours


@dataclass(frozen=True)
class Verdict:
    """What one gate came to.

    Attributes:
        gate: its name.
        score: what it looks at.
        found: the number; a share, or a count of rows.
        shown: the number for people, with its interval.
        rule: the rule for people, with its numbers.
        met: whether it holds.
        reason: one sentence that says why it holds or not.
        overridden: whether a person lets the release pass although it does not.
    """

    gate: str
    score: str
    found: float
    shown: str
    rule: str
    met: bool
    reason: str
    overridden: bool = False


@dataclass(frozen=True)
class Evidence:
    """What gates look at.

    Attributes:
        recipe: the resolved recipe.
        folder: the last model's scores.
        previous: the last release's scores, where the recipe names them.
        repository: where on a hub the model would go; empty for elsewhere.
    """

    recipe: Recipe
    folder: Path
    previous: Path | None
    repository: str

    @cached_property
    def record(self) -> Record:
        """The scores' record."""
        return read_record(self.folder)

    @cached_property
    def scores(self) -> Scores:
        """Every model of this run, and the last release under the label `previous`."""
        ours = read_scores(self.folder)
        if self.previous is None:
            return ours
        from med42.evaluation.protocol import refuse_other_protocol

        theirs = read_scores(self.previous)
        refuse_other_protocol(ours.lock, theirs.lock, self.previous)
        return Scores(ours.where, ours.lock, {RELEASED: theirs.items[theirs.labels[-1]], **ours.items})

    @property
    def label(self) -> str:
        """The model that is judged."""
        return self.scores.labels[-1]


@stage
def decide_release(recipe: Recipe, scores: Path, out: Path, job: Job) -> Record:
    """Decide whether the model behind the last scores may be pushed.

    The record's `measured["approved"]` is the verdict; every gate has its own, with the numbers behind it.

    Raises:
        Med42Error: a model that a gate compares with was not evaluated, or was under another protocol; the last release's scores are
            not where the recipe says.
    """
    previous = find_previous(recipe, job)
    kind, _, place = job.push_to.partition(":")
    repository = (place if kind == "hub" else "") if kind else (recipe.push.repo or "") if recipe.push.kind == "hub" else ""
    parameters: dict[str, Any] = {"recipe": recipe_digest(recipe), "gates": [gate.model_dump(mode="json") for gate in recipe.gates],
                                  "override": recipe.override.model_dump(mode="json") if recipe.override else None,
                                  "repository": repository,
                                  # By digest alone: what another release descends from is no part of this one's chain.
                                  "previous": read_record(previous).digest if previous else None}
    plan = Plan("decide_release", "decision", parameters, {"scores": scores}, "release", ("numpy",))
    return produce(plan, out, job, lambda draft: _decide(Evidence(recipe, scores, previous, repository), draft))


def find_previous(recipe: Recipe, job: Job) -> Path | None:
    """The folder of the last release's scores; None where the recipe names none.

    Raises:
        Med42Error: it is not there.
    """
    if recipe.previous_release is None:
        return None
    if job.data_root is None:
        raise Med42Error("previous_release", f"'{recipe.previous_release}', and no data root", "a folder to look it up in",
                         "Give --data-root DIR.")
    folder = job.data_root / recipe.previous_release
    if not (folder / "record.json").is_file():
        raise Med42Error("previous_release", f"no scores artifact at {folder}", "the last release's scores, as evaluate_model left them",
                         "Copy them there; for a first release take the gates on 'previous' and this key out.")
    return folder


def judge(gate: Gate, evidence: Evidence) -> Verdict:
    """One gate's verdict.

    Raises:
        Med42Error: a model that the rule compares with was not evaluated.
    """
    if gate.check == "licences":
        return _licences(gate, evidence)
    if gate.check == "residue":
        return _residue(gate, evidence)
    if gate.not_below == "paper":
        return _paper(gate, evidence)
    if gate.not_below is not None:
        return _not_below(gate, evidence)
    return _bound(gate, evidence)


def _bound(gate: Gate, evidence: Evidence) -> Verdict:
    """A floor or a ceiling for the score itself, that of its worst subject, or the share of missed hate."""
    what, interval = str(gate.score), Interval(0.0, 0.0, 0.0)
    if gate.of == "missed_hate":
        missed = evidence.record.measured.get("missed_hate", {})
        if gate.score not in missed:
            raise Med42Error(f"gate {gate.name}", f"'{gate.score}', which holds no hateful remarks", "a benchmark of the family toxigen",
                             "Name that one.")
        found, shown = float(missed[str(gate.score)]), f"{missed[str(gate.score)]:.1%} of hateful remarks missed"
    else:
        if gate.of == "worst_subject":
            subjects = evidence.scores.subjects(evidence.label, str(gate.score), gate.smallest)
            if not subjects:
                raise Med42Error(f"gate {gate.name}", f"no subject with {gate.smallest} questions", "at least one", "Lower 'smallest'.")
            what = min(subjects, key=lambda name: (score_interval(subjects[name]).value, name))
            interval = score_interval(subjects[what])
        else:
            interval = evidence.scores.score(evidence.label, what)
        found, shown = interval.value, f"{interval.told()} %"
    if gate.at_least is not None:
        rule, met = f"at least {gate.at_least:.1%}", found >= gate.at_least
    else:
        rule, met = f"at most {gate.at_most:.1%}", found <= (gate.at_most or 0.0)
    return Verdict(gate.name, what, found, shown, rule, met, f"{what} is {shown}; the rule is {rule}")


def _not_below(gate: Gate, evidence: Evidence) -> Verdict:
    """Against another model on the same questions."""
    scores, label, other = evidence.scores, evidence.label, str(gate.not_below)
    scores.require(other)
    what = str(gate.score)
    if gate.of == "worst_subject":
        ours, theirs = (scores.subjects(which, what, gate.smallest) for which in (label, other))
        if not ours:
            raise Med42Error(f"gate {gate.name}", f"no subject with {gate.smallest} questions", "at least one", "Lower 'smallest'.")
        # The subject for which the rule is hardest to meet. One of many falls by chance more often than one alone; that all of
        # them are shown not to have fallen does not happen more often by chance.
        end, looks = ("high", len(ours)) if gate.proof == "not_shown_worse" else ("low", 1)
        gaps = {name: difference_interval([ours[name]], [theirs[name]], looks) for name in ours}
        what = min(gaps, key=lambda name: (getattr(gaps[name], end), gaps[name].value, name))
        found, gap = score_interval(ours[what]), gaps[what]
    else:
        found, gap = scores.score(label, what), scores.difference(label, other, what)
    met, rule = _held(gate, gap, other)
    reason = f"{what}: {label} less {other} is {gap.signed()} points; the rule is {rule}"
    return Verdict(gate.name, what, found.value, f"{found.told()} %, {gap.signed()} points", rule, met, reason)


def _paper(gate: Gate, evidence: Evidence) -> Verdict:
    """Our gain over the base against the paper's gain over its base, in points: the only part of its scores that carries over."""
    assert evidence.recipe.paper is not None
    scores, what = evidence.scores, str(gate.score)
    scores.require("base")
    printed = gain(evidence.recipe.paper.model, what)
    if printed is None:
        raise Med42Error(f"gate {gate.name}", f"'{what}'", "a column of the paper's Table 4, or 'average'",
                         "Compare with the base instead.")
    gained = scores.difference(evidence.label, "base", what)
    gap = Interval(*(value - printed / 100 for value in (gained.value, gained.low, gained.high)))
    met, rule = _held(gate, gap, f"the paper's gain of {printed:+.1f} points")
    reason = f"{what}: the gain over base is {gained.signed()} points, the paper's {printed:+.1f}; the rule is {rule}"
    return Verdict(gate.name, what, gained.value, f"gain {gained.signed()} points", rule, met, reason)


def _held(gate: Gate, gap: Interval, other: str) -> tuple[bool, str]:
    allowed = f" less {100 * gate.allowance:g} points" if gate.allowance else ""
    # Rounding of sums alone must not decide: a difference of exactly the allowance is allowed.
    bound = -gate.allowance - 1e-9
    if gate.proof == "shown_not_worse":
        return gap.low >= bound, f"shown to be not below {other}{allowed}"
    return gap.high >= bound, f"not below {other}{allowed} by more than chance"


def _residue(gate: Gate, evidence: Evidence) -> Verdict:
    """Benchmark text in the mix, found by a search for the very rows that were scored."""
    mixes = [record for record in read_ancestry(evidence.folder).values() if record.stage == "mix_data"]
    if len(mixes) != 1:
        raise Med42Error(f"gate {gate.name}", f"{len(mixes)} mixes behind the scores", "one", "Score a model that was trained on a mix.")
    [mix] = mixes
    searched, scored = mix.inputs.get("benchmarks", ""), evidence.record.inputs["benchmarks"]
    found, most = int(mix.measured["decontamination"]["residue"]), gate.at_most or 0.0
    if searched != scored:
        return Verdict(gate.name, "residue", found, "not known", f"at most {most:g} rows", False,
                       f"the mix was searched for the rows {searched[:12]}, but {scored[:12]} were scored")
    return Verdict(gate.name, "residue", found, f"{found:,} rows", f"at most {most:g} rows", found <= most,
                   f"{found:,} rows of the mix hold text of the rows {scored[:12]} that were scored")


def _licences(gate: Gate, evidence: Evidence) -> Verdict:
    try:
        told = check_licences(evidence.recipe, evidence.repository)
    except Med42Error as error:
        return Verdict(gate.name, "licences", 0.0, "conflict", "licences allow the release", False, str(error))
    return Verdict(gate.name, "licences", 1.0, "allowed", "licences allow the release", True, told)


def _decide(evidence: Evidence, draft: Path) -> Outcome:
    override = evidence.recipe.override
    passed = set(override.gates) if override else set[str]()
    verdicts = [judge(gate, evidence) for gate in evidence.recipe.gates]
    verdicts = [dataclasses.replace(verdict, overridden=not verdict.met and verdict.gate in passed) for verdict in verdicts]
    unmet = [verdict.gate for verdict in verdicts if not verdict.met]
    approved = all(verdict.met or verdict.overridden for verdict in verdicts)
    used = {"by": override.by, "reason": override.reason, "gates": [gate for gate in unmet if gate in passed]} if override else None
    if used and not used["gates"]:
        used = None  # nothing had to be overridden
    history = evidence.record.measured["history"]
    decision = {"approved": approved, "model": history[-1]["label"], "verdicts": [dataclasses.asdict(verdict) for verdict in verdicts],
                "override": used}
    (draft / "decision.json").write_text(json.dumps(decision, indent=1, sort_keys=True) + "\n")
    lead = f"Model {history[-1]['label']}: {_word(approved, used)}."
    blocks = [*_verdicts(verdicts), *_override(used), *_compared(evidence, verdicts)]
    (draft / "page.html").write_text(page.page("Release decision", lead, blocks))
    blocking = ", ".join(verdict.gate for verdict in verdicts if not verdict.met and not verdict.overridden)
    return Outcome({**decision, "summary": _word(approved, used) if approved else f"refused: {blocking}"})


def _word(approved: bool, used: dict[str, Any] | None) -> str:
    return ("approved by override" if used else "approved") if approved else "refused"


def _verdicts(verdicts: list[Verdict]) -> Iterator[Markup]:
    if not verdicts:
        yield page.paragraph("The recipe has no gates.")
        return
    yield page.table(("gate", "looks at", "found", "rule", "met", "why"),
                     [(verdict.gate, verdict.score, verdict.shown, verdict.rule, verdict.met,
                       verdict.reason + ("; overridden" if verdict.overridden else "")) for verdict in verdicts])


def _override(used: dict[str, Any] | None) -> Iterator[Markup]:
    if used:
        yield page.heading("Override")
        yield page.paragraph(f"{used['by']} lets the release pass against {', '.join(used['gates'])}: {used['reason']}", "bad")


def _compared(evidence: Evidence, verdicts: list[Verdict]) -> Iterator[Markup]:
    """Every benchmark against the models that gates compare with."""
    others = [name for name in ("base", "sft", RELEASED) if any(gate.not_below == name for gate in evidence.recipe.gates)]
    if verdicts and others:
        scores = evidence.scores
        names = [*scores.lock["benchmarks"], *(["average"] if averaged(scores.lock) else [])]
        yield page.heading("Differences, in points with their 95% intervals")
        yield page.table(("benchmark", *(f"less {other}" for other in others)),
                         [(name, *(scores.difference(evidence.label, other, name).signed() for other in others)) for name in names])
