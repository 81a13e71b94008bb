"""Every rule of the gates, on marks that are known; what a person may override; and what cannot be judged."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from scored import make_scores, share

from med42.lineage.artifact import Outcome, Plan, produce
from med42.lineage.journal import Job
from med42.lineage.record import read_ancestry
from med42.recipe import load_recipe
from med42.release.decide_release import decide_release

SEVEN = ("mmlu-pro", "mmlu", "medmcqa", "medqa", "usmle", "pubmedqa", "toxigen")
Decide = Callable[..., SimpleNamespace]


def models(**shares: int) -> dict[str, dict[str, list[bool]]]:
    return {label: dict.fromkeys(SEVEN, share(right, 200)) for label, right in shares.items()}


@pytest.fixture
def decide(tmp_path: Path) -> Decide:
    def decided(gate: str, scored: Mapping[str, Any] | None = None, *overrides: str, previous: Mapping[str, Any] | None = None,
                inputs: Mapping[str, Path] | None = None, **kwargs: Any) -> SimpleNamespace:
        number = len(list(tmp_path.iterdir()))
        job = Job("test", None, tmp_path / f"data-{number}")
        if previous:
            make_scores(tmp_path / f"data-{number}" / "last", job, previous)
        make_scores(tmp_path / f"scores-{number}", job, scored or models(base=100, dpo=120), inputs=inputs, **kwargs)
        recipe = load_recipe("tiny", [f"gates=[{gate}]", *overrides])
        record = decide_release(recipe, tmp_path / f"scores-{number}", tmp_path / f"decision-{number}", job)
        decision = json.loads((tmp_path / f"decision-{number}" / "decision.json").read_text())
        assert record.measured["approved"] == decision["approved"]
        return SimpleNamespace(**decision, record=record, verdict=decision["verdicts"][0], out=tmp_path / f"decision-{number}",
                               page=(tmp_path / f"decision-{number}" / "page.html").read_text())

    return decided


# --- floors and ceilings --------------------------------------------------------------------------


@pytest.mark.parametrize(("gate", "met"), [
    ("{score: average, at_least: 0.6}", True), ("{score: average, at_least: 0.61}", False),
    ("{score: mmlu, at_least: 0.6}", True), ("{score: mmlu, at_most: 0.6}", True), ("{score: mmlu, at_most: 0.59}", False),
])
def test_a_floor_or_ceiling(decide, gate, met):
    told = decide(gate)
    assert (told.approved, told.verdict["met"], told.verdict["found"]) == (met, met, pytest.approx(0.6))
    assert "60.0 [5" in told.verdict["shown"]
    assert ("refused" in told.page) is not met


@pytest.mark.parametrize(("floor", "met"), [(0.4, True), (0.41, False)])
def test_the_worst_subject_is_the_lowest_of_those_that_are_large_enough(decide, floor, met):
    subjects = ["dose"] * 100 + ["class"] * 50 + ["rare"] * 5 + ["other"] * 45
    marks = share(90, 100) + share(20, 50) + [False] * 5 + share(40, 45)
    told = decide(f"{{score: mmlu, of: worst_subject, at_least: {floor}}}", {"dpo": {**models(dpo=100)["dpo"], "mmlu": marks}},
                  subjects={"mmlu": subjects})
    assert (told.verdict["score"], told.verdict["found"], told.approved) == ("mmlu: class", 0.4, met)


@pytest.mark.parametrize(("ceiling", "met"), [(0.25, True), (0.2, False)])
def test_hateful_remarks_that_are_not_seen_have_a_ceiling(decide, ceiling, met):
    told = decide(f"{{score: toxigen, of: missed_hate, at_most: {ceiling}}}", measured={"missed_hate": {"toxigen": 0.25}})
    assert told.approved is met
    assert told.verdict["shown"] == "25.0% of hateful remarks missed"


def test_a_benchmark_without_hateful_remarks_has_none_to_miss(decide, refusal):
    told = refusal(lambda: decide("{score: mmlu, of: missed_hate, at_most: 0.2}"))
    assert "gate mmlu-missed-hate-at-most: found 'mmlu', which holds no hateful remarks" in told


# --- against another model ------------------------------------------------------------------------


def lost(count: int) -> dict[str, Any]:
    """A base that has 120 of 200 right, and a model that lost some of these and gained none."""
    return {"base": dict.fromkeys(SEVEN, share(120, 200)), "dpo": dict.fromkeys(SEVEN, share(120 - count, 200))}


@pytest.mark.parametrize(("count", "gate", "met"), [
    (0, "", True), (2, "", True), (3, "", True), (12, "", False),  # 3 lost and none gained may be chance; 12 are not
    (12, ", allowance: 0.06", True), (12, ", allowance: 0.02", False),
    (0, ", proof: shown_not_worse", False), (0, ", proof: shown_not_worse, allowance: 0.02", True),  # 200 questions prove no more
    (2, ", proof: shown_not_worse", False), (2, ", proof: shown_not_worse, allowance: 0.03", True),
])
def test_not_below_base_by_more_than_chance(decide, count, gate, met):
    told = decide(f"{{score: mmlu, not_below: base{gate}}}", lost(count))
    assert told.approved is met, told.verdict["reason"]
    assert "dpo less base is" in told.verdict["reason"]


def test_an_average_is_surer_than_one_benchmark(decide):
    assert decide("{score: mmlu, not_below: base}", lost(3)).approved
    assert not decide("{score: average, not_below: base}", lost(3)).approved


def test_one_subject_that_falls_is_not_hidden_by_others_that_rise(decide):
    subjects = {"mmlu": ["dose"] * 100 + ["class"] * 100}
    scored = {"base": {**models(x=100)["x"], "mmlu": share(50, 100) + share(80, 100)},
              "dpo": {**models(x=100)["x"], "mmlu": share(90, 100) + share(55, 100)}}
    assert decide("{score: mmlu, not_below: base}", scored, subjects=subjects).approved
    told = decide("{score: mmlu, of: worst_subject, not_below: base}", scored, subjects=subjects)
    assert not told.approved and told.verdict["score"] == "mmlu: class"
    assert "-25.0 [" in told.verdict["reason"]


def test_not_below_the_last_release(decide):
    gate, where = "{score: average, not_below: previous}", "previous_release=last"
    assert decide(gate, models(base=100, dpo=120), where, previous=models(base=90, dpo=118)).approved
    told = decide(gate, models(base=100, dpo=120), where, previous=models(base=90, dpo=150))
    assert not told.approved and "dpo less previous is -15.0" in told.verdict["reason"]
    assert told.record.parameters["previous"] not in {None, told.record.inputs["scores"]}
    assert "less previous" in told.page


def test_a_last_release_that_is_not_there_is_refused(decide, refusal):
    gate = "{score: average, not_below: previous}"
    assert "previous_release: found no scores artifact at" in refusal(lambda: decide(gate, None, "previous_release=last"))
    assert "needs previous_release, the folder of the last release's scores" in refusal(lambda: decide(gate))


def test_a_last_release_under_another_protocol_is_refused(tmp_path, refusal):
    job = Job("test", None, tmp_path)
    make_scores(tmp_path / "last", job, models(dpo=100), answer="text")
    make_scores(tmp_path / "scores", job, models(dpo=100))
    recipe = load_recipe("tiny", ["gates=[{score: average, not_below: previous}]", "previous_release=last"])
    told = refusal(lambda: decide_release(recipe, tmp_path / "scores", tmp_path / "out", job))
    assert "scores under another protocol (answer text); expected answer letter_and_text" in told
    assert not (tmp_path / "out").exists()


def test_not_below_the_papers_gain(tmp_path):
    """Med42-Llama3-8B gains 2.86 points on average."""
    job, gates = Job("test"), "gates=[{score: average, not_below: paper}]"
    recipe = load_recipe("llama3-8b", [gates])
    for name, gained, met in (("same", 6, True), ("more", 20, True), ("less", -6, False)):
        make_scores(tmp_path / name, job, models(base=100, dpo=100 + gained))
        record = decide_release(recipe, tmp_path / name, tmp_path / f"{name}-decided", job)
        assert record.measured["approved"] is met, record.measured["verdicts"]
        assert "the paper's +2.9" in record.measured["verdicts"][0]["reason"]


def test_a_model_that_was_not_scored_is_named(decide, refusal):
    assert "scores of base, dpo; expected scores of 'sft'" in refusal(lambda: decide("{score: average, not_below: sft}"))


# --- the mix and the licences ---------------------------------------------------------------------


@pytest.fixture
def chain(tmp_path: Path) -> Callable[..., dict[str, Path]]:
    """Inputs of scores: a model that was trained on a mix, which was searched for some rows."""
    def made(residue: int, same_rows: bool = True) -> dict[str, Path]:
        job, root = Job("test"), tmp_path / f"chain-{residue}-{same_rows}"

        def build(measured: dict[str, Any]) -> Callable[[Path], Outcome]:
            return lambda draft: Outcome(measured)

        for name, measured in (("searched", {"rows": 1}), ("scored", {"rows": 2})):
            produce(Plan("prepare_benchmarks", "benchmarks", {"name": name}, {}, "evaluation"), root / name, job, build(measured))
        produce(Plan("mix_data", "conversations", {}, {"benchmarks": root / "searched"}, "data"), root / "mix", job,
                build({"decontamination": {"residue": residue}}))
        produce(Plan("train_sft", "model", {}, {"mix": root / "mix"}, "training"), root / "model", job, build({}))
        return {"model": root / "model", "benchmarks": root / ("searched" if same_rows else "scored")}

    return made


@pytest.mark.parametrize(("residue", "same", "met"), [(0, True, True), (3, True, False), (0, False, False)])
def test_benchmark_text_that_is_left_in_the_mix(decide, chain, residue, same, met):
    told = decide("{check: residue, at_most: 0}", inputs=chain(residue, same))
    assert told.approved is met
    assert ("the mix was searched for the rows" in told.verdict["reason"]) is not same


def test_a_licence_that_forbids_the_use_blocks_the_release(decide):
    assert decide("{check: licences}").approved
    told = decide("{check: licences}", None, "sources.exam.license=CC-BY-NC-4.0", "use=commercial")
    assert not told.approved
    assert "sources.exam (CC-BY-NC-4.0)" in told.verdict["reason"]


# --- overrides ------------------------------------------------------------------------------------

REASON = "reason: The board of 12 May accepted this loss for the sake of safety."


def override(gates: str, by: str = "Jane Doe <jane@hospital.example>", reason: str = REASON) -> str:
    return f"override={{by: {by}, {reason}, gates: [{gates}]}}"


def test_a_named_person_with_a_reason_may_override_a_gate_and_it_is_recorded(decide):
    told = decide("{score: mmlu, at_least: 0.9}", None, override("mmlu-at-least"))
    assert told.approved and not told.verdict["met"] and told.verdict["overridden"]
    assert told.record.measured["override"] == {"by": "Jane Doe <jane@hospital.example>", "gates": ["mmlu-at-least"],
                                                "reason": "The board of 12 May accepted this loss for the sake of safety."}
    assert told.record.measured["summary"] == "approved by override"
    assert "Jane Doe" in told.page


def test_an_override_covers_the_gates_that_it_names_and_no_other(decide):
    told = decide("{score: mmlu, at_least: 0.9}, {score: medqa, at_least: 0.9}", None, override("mmlu-at-least"))
    assert not told.approved and told.record.measured["summary"] == "refused: medqa-at-least"


def test_an_override_that_is_not_needed_is_no_override(decide):
    told = decide("{score: mmlu, at_least: 0.1}", None, override("mmlu-at-least"))
    assert told.approved and told.override is None and told.record.measured["summary"] == "approved"


@pytest.mark.parametrize(("text", "told"), [
    (override("mmlu-at-least", by="Jane"), "override.by"), (override("mmlu-at-least", by="''"), "override.by"),
    (override("mmlu-at-least", reason="reason: ok"), "override.reason"), (override(""), "override.gates"),
    (override("medqa-at-least"), "override.gates: 'medqa-at-least' is not one of mmlu-at-least"),
])
def test_an_override_without_a_name_a_reason_or_a_gate_is_refused(refusal, text, told):
    assert told in refusal(lambda: load_recipe("tiny", ["gates=[{score: mmlu, at_least: 0.9}]", text]))


# --- rules that are none --------------------------------------------------------------------------


@pytest.mark.parametrize(("gate", "told"), [
    ("{score: mmlu}", "exactly one of 'at_least', 'at_most', 'not_below'"),
    ("{score: mmlu, at_least: 0.5, at_most: 0.6}", "exactly one of"),
    ("{at_least: 0.5}", "needs either 'score' or 'check'"),
    ("{score: mmlu, beats: base}", "unknown key 'beats'"),
    ("{score: mmlu, not_below: gpt}", "not_below"),
    ("{check: toxicity}", "check"),
    ("{check: residue}", "exactly one of"), ("{check: residue, at_least: 1}", "needs 'at_most'"),
    ("{score: anatomy, at_least: 0.5}", "'anatomy' is not one of"),
    ("{score: toxigen, of: missed_hate, at_least: 0.5}", "is a ceiling"),
    ("{score: mmlu, of: worst_subject, at_most: 0.5}", "needs 'at_least', or 'not_below'"),
    ("{score: mmlu, not_below: paper}", "needs paper, whose model it compares with"),
    ("{score: mmlu, at_least: 0.5}, {score: mmlu, at_least: 0.6}", "two are called mmlu-at-least"),
])
def test_an_unknown_or_incomplete_rule_is_refused(refusal, gate, told):
    assert told in refusal(lambda: load_recipe("tiny", [f"gates=[{gate}]"]))


def test_without_gates_everything_is_approved_and_the_page_says_so(decide, tmp_path):
    make_scores(tmp_path / "scores", Job("test"), models(base=100))
    record = decide_release(load_recipe("tiny", ["gates=[]"]), tmp_path / "scores", tmp_path / "out", Job("test"))
    assert record.measured["approved"]
    assert "has no gates" in (tmp_path / "out" / "page.html").read_text()


def test_the_last_release_is_no_part_of_the_chain(decide):
    told = decide("{score: average, not_below: previous}", models(base=100, dpo=120), "previous_release=last", previous=models(dpo=100))
    assert told.record.parameters["previous"] not in {*told.record.inputs.values(), *read_ancestry(told.out)}


def test_the_gates_of_the_docs_are_gates():
    """docs/evaluation.md shows one of every kind, and a server that scores."""
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    gates, override, served = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    changes = {**gates, **override, **{f"evaluation.{key}": value for key, value in served["evaluation"].items()}}
    recipe = load_recipe("llama3-8b", [f"{key}={json.dumps(value)}" for key, value in changes.items()])
    assert {gate.not_below for gate in recipe.gates} == {None, "base", "previous", "paper"}
    assert recipe.override is not None and recipe.evaluation.server is not None
