"""The answers of `med42 audit show`: what one bundle tells of a release, question by question, in words.

Records are read for what they hold, not by a fixed list of keys: what a later version records of a gate or a score is
shown as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from med42.data.licences import LICENCES
from med42.lineage.bundle import Bundle
from med42.lineage.graph import in_order
from med42.lineage.record import Record
from med42.lineage.row_set import LEFT_OUT, ROWS
from med42.lineage.scores import scored
from med42.training.planning import load_accelerators

PERSONS = ("approver", "approved_by", "override")  # what a decision may record of people
SAFETY = ("toxi", "safety", "refus", "bias", "harm", "hate")


@dataclass(frozen=True)
class Told:
    """What answers are made from.

    Attributes:
        bundle: the bundle, checked.
        path: where it lies, for commands that are named in answers.
        recipe: its recipe, as its JSON tells it.
        ordered: its records, each after its inputs.
        signed_by: who signed it; empty where nobody did.
    """

    bundle: Bundle
    path: str
    recipe: dict[str, Any]
    ordered: list[Record]
    signed_by: str

    def stages(self, *stages: str) -> list[Record]:
        """Records of some stages, each after its inputs."""
        return [record for record in self.ordered if record.stage in stages]

    @property
    def decision(self) -> Record | None:
        """The decision that the bundle holds."""
        return next(iter(self.stages("decide_release")), None)


def told_by(bundle: Bundle, path: str, signed_by: str) -> Told:
    """All that answers need, from a bundle."""
    return Told(bundle, path, json.loads(bundle.recipe), in_order(bundle.subject, bundle.records), signed_by)


def _sources(told: Told) -> Iterator[str]:
    pins = told.recipe.get("pins", {})
    for kind in ("sources", "preferences"):
        for name, source in sorted(told.recipe.get(kind, {}).items()):
            origin = source["origin"]
            place = origin.get("repo") or origin.get("url") or origin.get("part") or ", ".join(origin.get("files", []))
            pin = pins.get(f"{kind}.{name}", {})
            revision = f"revision {pin['revision']}" if pin.get("revision") else f"{len(pin['files'])} files by digest" if pin else "no pin"
            invented = origin["kind"] == "invented"
            yield (f"{kind}.{name}: {origin['kind']} {place}, {'made from the seed' if invented else revision}, licence {source['license']}"
                   + (f" ({source['terms']})" if source.get("terms") else ""))


def _rows(told: Told) -> Iterator[str]:
    for name, rows in sorted(told.bundle.rows.items(), key=lambda one: told.bundle.records[one[0].partition(".")[0]].name):
        digest, _, kind = name.partition(".")
        record = told.bundle.records[digest]
        if kind == ROWS:
            counts = ", ".join(f"{count:,} {label}" for label, count in rows.counts().items() if count)
            yield f"{record.name}: {len(rows):,} rows ({counts}); Merkle root {rows.root}"
    yield f"each by its digest: med42 audit contains {told.path} ROW"


def _dropped(told: Told) -> Iterator[str]:
    for record in told.ordered:
        for source, account in record.measured.get("accounts", {}).items():
            reasons = "; ".join(f"{count:,} {reason}" for reason, count in account.get("dropped", {}).items())
            if reasons:
                yield f"{record.name}, {source}: of {account['read']:,} read, {account['kept']:,} kept; left out {reasons}"
    listed = sum(len(rows) for name, rows in told.bundle.rows.items() if name.endswith(LEFT_OUT))
    yield f"{listed:,} rows that the mix left out are listed by digest with the reason: med42 audit contains {told.path} ROW"


def _phi(told: Told) -> Iterator[str]:
    for record in told.stages("prepare_source"):
        if phi := record.measured.get("phi"):
            detector = phi.get("detector")
            name = detector.get("name", "") if isinstance(detector, dict) else detector
            line = (f"{record.name}: {phi['with_findings']:,} of {phi['examined']:,} rows with identifiers, {phi['acted_on']:,} acted on "
                    f"(policy {phi['policy']}, detector {name})")
            planted = phi.get("planted", {})
            if planted.get("identifiers"):
                share = planted["found"] / planted["identifiers"]
                line += f"; of {planted['identifiers']:,} planted identifiers it found {planted['found']:,} ({share:.1%})"
            yield line
    yield "how sure: the share of planted identifiers found is a measure on made-up rows, not of what it missed in these"


def _membership(told: Told) -> Iterator[str]:
    yield f"med42 audit contains {told.path} ROW_DIGEST   (or a JSON file with the row; its text leaves no trace)"
    yield f"{len(told.bundle.rows)} sets of rows; an answer is a proof against the root in a record, for presence and for absence"


def _leaks(told: Told) -> Iterator[str]:
    for record in told.stages("prepare_benchmarks"):
        for name, account in record.measured.get("accounts", {}).items():
            pinned = record.parameters.get("pinned", {}).get(name, {})
            seed = f"seed {pinned['seed']}" if "seed" in pinned else "by file digests"
            revision = pinned.get("commit") or pinned.get("revision") or seed
            yield f"{name}: all {account['kept']:,} rows that are scored, {revision}"
    for record in told.stages("mix_data"):
        if found := record.measured.get("decontamination"):
            settings = record.parameters.get("mix", {})
            yield (f"{record.name}: {found.get('items', 0):,} questions against every row, overlap of {settings.get('overlap_tokens')} "
                   f"words; {found.get('leaks', 0):,} rows with benchmark text ({settings.get('leaks')}), "
                   f"{found.get('residue', 0):,} left after a second look")
    for record in told.stages("build_preferences", "pair_answers"):
        hits = sum(count for account in record.measured.get("accounts", {}).values()
                   for reason, count in account.get("dropped", {}).items() if "benchmark" in reason)
        yield f"{record.name}: the same questions against every pair; {hits:,} left out"


def _base(told: Told) -> Iterator[str]:
    for record in told.stages("prepare_base"):
        base = told.recipe["base"]
        name = base.get("repo") or "random weights of the Llama-3 shape"
        commit = record.measured.get("commit") or told.recipe.get("pins", {}).get("base", {}).get("revision")
        yield f"{name}{f' at commit {commit}' if commit else ''}, licence {record.measured.get('license', base.get('license'))}"
        yield f"record {record.digest}"
        licence = LICENCES.get(str(base.get("license")))
        if licence and licence.notice:
            yield f"duty of the base: show '{licence.notice}', begin the model's name with '{licence.name_begins}'"
    for record in told.stages("mix_data"):
        for duty, names in record.measured.get("terms", {}).items():
            if isinstance(names, list) and names:
                yield f"duty of the data: {duty.replace('_', ' ')} because of {', '.join(names)}"
    if card := next((record.measured.get("card") for record in told.stages("push_model")), None):
        yield f"the duties of the base's licence stand in the model card (README.md, sha256 {card})"


def _code(told: Told) -> Iterator[str]:
    commits = sorted({(record.made.commit or "no checkout", record.made.dirty) for record in told.ordered})
    yield "; ".join(f"commit {commit}{' with uncommitted changes' if dirty else ''}" for commit, dirty in commits)
    sources = {record.stage: record.code for record in told.ordered}
    yield "source digests by stage: " + ", ".join(f"{name} {code[:12]}" for name, code in sorted(sources.items()))
    images = sorted({record.made.image for record in told.ordered if record.made.image})
    yield f"images: {', '.join(images) or 'none, on the machine itself'}"
    packages = {f"{name} {version}" for record in told.ordered for name, version in record.packages.items()}
    yield f"packages: {', '.join(sorted(packages))}"
    yield "Python " + ", ".join(sorted({record.made.python for record in told.ordered}))


def _settings(told: Told) -> Iterator[str]:
    for record in told.stages("train_sft", "train_dpo"):
        settings = record.parameters.get("sft") or record.parameters.get("dpo") or {}
        yield f"{record.name}: seed {record.parameters.get('seed')}, " + ", ".join(
            f"{key} {value}" for key, value in sorted(settings.items()) if not isinstance(value, dict) and value not in (None, ""))
        yield (f"{record.name}: {record.made.processors} x {record.made.machine}, "
               f"{', '.join(record.made.accelerators) or 'no GPU'}; devices asked for: {_words(settings.get('devices', {}))}")


def _restarts(told: Told) -> Iterator[str]:
    for record in told.stages("train_sft", "train_dpo"):
        observed = record.made.observed
        yield (f"{record.name}: {observed.get('attempts', 1)} attempts, {observed.get('steps_redone', 0)} steps done again, "
               f"run {record.made.run}")


def _rounds(told: Told) -> Iterator[str]:
    for record in told.stages("train_dpo"):
        policy, pairs = (told.bundle.records.get(record.inputs.get(key, "")) for key in ("policy", "preferences"))
        settings = record.parameters.get("dpo", {})
        start = f"{policy.name} ({policy.digest[:16]})" if policy else "unknown"
        reference = told.bundle.records.get(record.inputs.get("reference", ""))
        against = f"{reference.name} ({reference.digest[:16]})" if reference else "the same model"
        yield (f"{record.name}: starts from {start}; reference {against}; "
               f"loss {settings.get('loss')}, beta {settings.get('beta')}")
        if pairs:
            names = ", ".join(f"{name} {account['kept']:,}" for name, account in pairs.measured.get("accounts", {}).items())
            scored = told.bundle.records.get(pairs.inputs.get("scored", ""))
            scorer = f"by {_words(scored.parameters.get('reward', {}))}" if scored else "as published with the pairs"
            yield f"  {pairs.measured.get('pairs', 0):,} pairs of {pairs.name} ({names}); scored {scorer}"
        if held := record.measured.get("held_out"):
            yield f"  on held-out pairs: {_words(held)}"


def _protocol(told: Told) -> Iterator[str]:
    for record in told.stages("evaluate_model"):
        settings = _words(record.parameters.get("evaluation", {}))
        yield f"{record.name}: protocol {record.measured.get('protocol')}, code {record.code[:16]}, {settings}"


def _scores(told: Told) -> Iterator[str]:
    if told.decision:
        for one in scored(told.decision, told.bundle.records):
            interval = f" (95% interval {one.low:.1%} to {one.high:.1%}, of {one.items:,} questions)" if one.items else ""
            yield f"{one.name}: {one.value:.1%}{interval}"
        scores = told.bundle.records.get(told.decision.inputs.get("scores", ""))
        if scores and isinstance(scores.measured.get("average"), (int, float)):
            yield f"average: {scores.measured['average']:.1%}"


def _safety(told: Told) -> Iterator[str]:
    found = False
    for record in told.stages("evaluate_model"):
        for name, value in record.measured.get("scores", {}).items():
            if any(word in name.lower() for word in SAFETY):
                found = True
                yield f"{record.name}: {name} {_words(value)}"
        for name, value in record.measured.items():
            if value and any(word in name.lower() for word in SAFETY):
                found = True
                yield f"{record.name}: {name.replace('_', ' ')}: {_words(value)}"
    for verdict in _verdicts(told):
        if any(word in str(verdict).lower() for word in SAFETY):
            yield f"gate {_judged(verdict)}"
    if not found:
        yield "none: no benchmark of the recipe is about safety"
    yield "these are multiple-choice scores; none covers free text or a clinical setting"


def _gates(told: Told) -> Iterator[str]:
    if told.decision:
        yield from map(_judged, _verdicts(told))
        yield f"verdict: {'approved' if told.decision.measured.get('approved') is True else 'refused'} ({told.decision.digest[:16]})"


def _judged(verdict: dict[str, Any]) -> str:
    """A verdict by its gate and the reason that it gives; by all that it holds, where it gives none."""
    outcome = "met" if verdict.get("met") is True else "NOT MET, overridden" if verdict.get("overridden") is True else "NOT MET"
    rest = {key: value for key, value in verdict.items() if key not in ("met", "overridden")}
    return f"{outcome}: {verdict['gate']}: {verdict['reason']}" if {"gate", "reason"} <= verdict.keys() else f"{outcome}: {_words(rest)}"


def _approved(told: Told) -> Iterator[str]:
    if told.decision:
        persons = {key: value for key, value in told.decision.measured.items() if value and any(word in key for word in PERSONS)}
        yield (f"by the gates of recipe {told.bundle.index['recipe']} ({told.bundle.index['recipe_digest'][:16]}), "
               f"in run {told.decision.made.run} at {told.decision.made.started}")
        yield _words(persons) if persons else "no person's approval is recorded"
        yield f"the bundle is {f'signed by {told.signed_by}' if told.signed_by else 'not signed'}"


def _published(told: Told) -> Iterator[str]:
    pushes = told.stages("push_model")
    for record in pushes:
        observed = {key: value for key, value in record.made.observed.items() if key != "folder"}
        yield (f"{record.measured['kind']} {record.measured['where']}: {len(record.measured['files'])} files"
               + (f", {_words(observed)}" if observed else "") + f"; model signed by {record.measured.get('signed_by') or 'nobody'}")
        yield from (f"  {name} sha256 {digest}" for name, digest in sorted(record.measured["files"].items()))
    if not pushes:
        yield "nothing"


def _changed(told: Told) -> Iterator[str]:
    yield f"med42 audit verify {told.path} --artifacts FOLDER   (every artifact, byte by byte)"
    yield f"med42 audit verify {told.path} --release FOLDER     (a downloaded release against what was published)"


def _withdrawal(told: Told) -> Iterator[str]:
    yield f"med42 audit impact {told.path} SOURCE, ROW or REVISION"


def _cost(told: Told) -> Iterator[str]:
    total = 0.0
    prices = load_accelerators()
    for record in told.ordered:
        settings: Any = next((record.parameters[key] for key in ("sft", "dpo", "evaluation") if key in record.parameters), {})
        devices = settings.get("devices", {}) if isinstance(settings, dict) else {}
        gpus = int(devices.get("nodes", 1)) * int(devices.get("gpus_per_node", 0))
        line = f"{record.name}: {record.made.seconds:,.1f} s on {record.made.processors} processors"
        if gpus:
            hours = gpus * record.made.seconds / 3600
            line += f", {hours:,.2f} GPU-hours"
            if devices.get("accelerator") in prices:
                dollars = hours * prices[devices["accelerator"]].dollars_an_hour
                total += dollars
                line += f", {dollars:,.2f} dollars at {prices[devices['accelerator']].dollars_an_hour:.2f} an hour"
        yield line
    seconds = sum(record.made.seconds for record in told.ordered)
    yield f"in all {seconds:,.1f} s of stages, one after the other" + (f", {total:,.2f} dollars of GPUs" if total else "")


QUESTIONS: tuple[tuple[str, Callable[[Told], Iterator[str]]], ...] = (
    ("Which sources, at which revisions, under which licences?", _sources),
    ("Which rows was it trained on?", _rows),
    ("Which rows were left out, and why?", _dropped),
    ("What personal health information was found, and how sure is that?", _phi),
    ("Was this row in it?", _membership),
    ("Which benchmark rows were checked for leaks?", _leaks),
    ("Which base model, and what duties come with it?", _base),
    ("Which code, images and packages?", _code),
    ("Which hyper-parameters, seed and hardware?", _settings),
    ("Was it restarted?", _restarts),
    ("Where did each DPO round start, against which reference, on which pairs, scored by what?", _rounds),
    ("By which evaluation protocol?", _protocol),
    ("What are the scores, with intervals?", _scores),
    ("What are the safety results?", _safety),
    ("Which gates, and what verdicts?", _gates),
    ("Who approved it?", _approved),
    ("What was published where, signed by whom?", _published),
    ("Has it been changed since?", _changed),
    ("What would a withdrawal touch?", _withdrawal),
    ("What did it cost?", _cost),
)


def answer(told: Told, number: int) -> list[str]:
    """The lines that answer a question, by its number from 1."""
    return list(QUESTIONS[number - 1][1](told)) or ["the bundle does not tell"]


def _verdicts(told: Told) -> list[dict[str, Any]]:
    verdicts = told.decision.measured.get("verdicts", []) if told.decision else []
    return [verdict for verdict in verdicts if isinstance(verdict, dict)]


def _words(value: Any) -> str:
    """A recorded value in words."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in sorted(value.items()) if inner not in (None, ""))
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
