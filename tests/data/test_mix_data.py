import json
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from markupsafe import escape

from med42.data.mix_data import NOT_TAKEN, mix_data, quotas
from med42.data.prepare_source import prepare_source
from med42.data.shards import read_manifest, read_shards
from med42.evaluation.prepare_benchmarks import prepare_benchmarks
from med42.lineage.digest import merkle_root
from med42.lineage.journal import Job
from med42.lineage.record import read_record
from med42.recipe import Recipe, load_recipe

COUNTS = {"a": 10, "b": 20, "c": 30}
LEAKED = "What is the usual dose of Dafin in adults with fever?"
SHARED = {"instruction": "", "input": "A question that two sources ask", "output": "An answer."}
BENCHMARK = {"sent1": LEAKED, "sent2": "", "ending0": "1", "ending1": "2", "ending2": "3", "ending3": "4", "label": 0}


def recipe_of(sources: dict[str, dict[str, Any]], **mix: Any) -> Recipe:
    settings = {name: {"domain": "general" if name == "c" else "medical", "family": "meadow", "license": "MIT",
                       "origin": {"kind": "file", "files": [f"{name}.jsonl"]}, **source} for name, source in sources.items()}
    benchmark = {"medqa": {"family": "medqa", "license": "MIT", "origin": {"kind": "file", "files": ["medqa.jsonl"]}}}
    return load_recipe("tiny", [f"sources={json.dumps(settings)}", f"mix={json.dumps(mix)}",
                                f"evaluation.benchmarks={json.dumps(benchmark)}", "gates=[]"])


def cards(name: str, count: int) -> list[dict[str, str]]:
    return [{"instruction": "", "input": f"Question {number} of {name}?", "output": f"Answer {number} of {name}."}
            for number in range(count)]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Prepared sources: a, b, c of 10, 20, 30 rows; `leaky` with one benchmark row; `leaked` of nothing else; d and e share a row."""
    root = tmp_path_factory.mktemp("parts")
    rows = {name: cards(name, count) for name, count in COUNTS.items()}
    leak = {"instruction": "", "input": f"Tell me: {LEAKED.upper()}", "output": "5 units."}
    rows |= {"leaky": [*cards("leaky", 4), leak], "leaked": [leak, {**leak, "output": "6 units."}]}
    rows |= {name: [*cards(name, 3), SHARED] for name in ("d", "e")}
    for name, content in {**rows, "medqa": [BENCHMARK]}.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    job, recipe = Job("test", None, root), recipe_of({name: {} for name in rows})
    for name in rows:
        prepare_source(recipe, name, root / name, job)
    prepare_benchmarks(recipe, root / "benchmarks", job)
    return SimpleNamespace(root=root, job=job)


def mixed(parts: SimpleNamespace, recipe: Recipe, out: Path, store: Path | None = None) -> SimpleNamespace:
    paths = [parts.root / name for name in recipe.sources]
    record = mix_data(recipe, paths, parts.root / "benchmarks", out, Job("test", store))
    rows = list(read_shards(out))
    ids = {name: sorted(row["id"] for row in rows if row["source"] == name) for name in recipe.sources}
    return SimpleNamespace(record=record, rows=rows, ids=ids, accounts=record.measured["accounts"], out=out)


def kept(mix: SimpleNamespace) -> dict[str, int]:
    return {name: len(ids) for name, ids in mix.ids.items()}


# --- how many of each -----------------------------------------------------------------------------


def test_without_shares_everything_is_taken(parts, tmp_path):
    mix = mixed(parts, recipe_of({name: {} for name in COUNTS}), tmp_path / "out")
    assert kept(mix) == COUNTS
    assert mix.record.measured["rows"] == 60
    assert mix.record.measured["medical_share"] == 0.5


def test_rows_are_taken_as_asked(parts, tmp_path):
    mix = mixed(parts, recipe_of({"a": {"rows": 3}, "b": {"rows": 20}, "c": {}}), tmp_path / "out")
    assert kept(mix) == {"a": 3, "b": 20, "c": 30}
    assert mix.accounts["a"] == {"read": 10, "kept": 3, "repeated": 0, "dropped": {NOT_TAKEN: 7}}


@pytest.mark.parametrize(("sources", "rows", "expected"), [
    ({"a": {"weight": 1}, "b": {"weight": 1}, "c": {"weight": 1}}, 10, {"a": 4, "b": 3, "c": 3}),
    ({"a": {"weight": 1}, "b": {"weight": 2}, "c": {"weight": 3}}, 12, {"a": 2, "b": 4, "c": 6}),
    # 11/6 = 1.83, 22/6 = 3.67, 33/6 = 5.5: the two largest remainders get the two that are left.
    ({"a": {"weight": 1}, "b": {"weight": 2}, "c": {"weight": 3}}, 11, {"a": 2, "b": 4, "c": 5}),
    ({"a": {"rows": 5}, "b": {"weight": 0.1}, "c": {"weight": 0.3}}, 25, {"a": 5, "b": 5, "c": 15}),
    ({"a": {}, "b": {"weight": 1}, "c": {"weight": 1}}, 30, {"a": 10, "b": 10, "c": 10}),
    ({"a": {"weight": 1e-9}, "b": {"weight": 1}, "c": {"weight": 1}}, 20, {"a": 0, "b": 10, "c": 10}),
])
def test_weights_share_out_by_largest_remainder(sources, rows, expected):
    assert quotas(recipe_of(sources, rows=rows), COUNTS) == expected


@pytest.mark.parametrize("seed", range(20))
def test_weighted_shares_add_up_and_are_off_by_less_than_one(seed):
    draw = random.Random(seed)
    weights = {name: {"weight": draw.choice([0.1, 0.3, 1, 2.5, 7])} for name in COUNTS}
    total = draw.randrange(1, 1000)
    shares = quotas(recipe_of(weights, rows=total), dict.fromkeys(COUNTS, 10_000))
    whole = sum(weight["weight"] for weight in weights.values())
    assert sum(shares.values()) == total
    assert all(abs(shares[name] - total * weights[name]["weight"] / whole) < 1 for name in COUNTS)


def test_a_share_that_cannot_be_met_tells_the_arithmetic(parts, tmp_path, refusal):
    recipe = recipe_of({"a": {"rows": 12}, "b": {}})
    told = refusal(lambda: mixed(parts, recipe, tmp_path / "out"))
    assert "sources.a: found 10 rows x repeat_limit 1 = 10; expected 12 rows, its share of the mix" in told
    assert list(tmp_path.iterdir()) == []


def test_a_share_that_cannot_be_met_may_be_accepted(parts, tmp_path):
    mix = mixed(parts, recipe_of({"a": {"rows": 12}, "b": {"rows": 5}}, shortfall="accept"), tmp_path / "out")
    assert kept(mix) == {"a": 10, "b": 5}


def test_rows_may_be_repeated(parts, tmp_path):
    mix = mixed(parts, recipe_of({"a": {"rows": 25}, "b": {}}, repeat_limit=2.5), tmp_path / "out")
    assert sorted(Counter(mix.ids["a"]).values()) == [2] * 5 + [3] * 5
    assert mix.accounts["a"] == {"read": 10, "kept": 10, "repeated": 15, "dropped": {}}
    assert mix.record.measured["rows"] == 45
    assert mix.record.measured["merkle_root"] == merkle_root([row["id"] for row in mix.rows])


def test_repeats_have_a_limit(parts, refusal):
    told = refusal(lambda: quotas(recipe_of({"a": {"rows": 26}}, repeat_limit=2.5), COUNTS))
    assert "10 rows x repeat_limit 2.5 = 25; expected 26 rows" in told


def test_no_rows_left_for_weights_is_told(refusal):
    recipe = recipe_of({"a": {}, "b": {"weight": 1}}, rows=10)
    assert "mix.rows: found 10, of which sources without a weight take 10" in refusal(lambda: quotas(recipe, COUNTS))


# --- which ones -----------------------------------------------------------------------------------


def test_another_source_never_changes_what_one_gives(parts, tmp_path):
    two = mixed(parts, recipe_of({"a": {"rows": 5}, "b": {"rows": 9}}), tmp_path / "two")
    three = mixed(parts, recipe_of({"c": {}, "a": {"rows": 5}, "b": {"rows": 9}}), tmp_path / "three")
    assert {name: three.ids[name] for name in ("a", "b")} == two.ids
    order = [row["id"] for row in three.rows if row["source"] != "c"]
    assert order == [row["id"] for row in two.rows]


def test_more_rows_are_those_before_and_others(parts, tmp_path):
    few, more = (mixed(parts, recipe_of({"c": {"rows": rows}}), tmp_path / str(rows)) for rows in (7, 19))
    assert set(few.ids["c"]) < set(more.ids["c"])


def test_another_seed_takes_others_in_another_order(parts, tmp_path):
    recipe = recipe_of({"c": {"rows": 10}})
    first, again, second = (mixed(parts, recipe.model_copy(update={"seed": seed}), tmp_path / name)
                            for name, seed in (("first", 0), ("again", 0), ("second", 1)))
    assert first.ids != second.ids
    assert first.rows == again.rows
    assert first.record.digest == again.record.digest


def test_sources_are_shuffled_together(parts, tmp_path):
    mix = mixed(parts, recipe_of({name: {} for name in COUNTS}), tmp_path / "out")
    changes = sum(first["source"] != second["source"] for first, second in zip(mix.rows, mix.rows[1:], strict=False))
    assert changes > 20


# --- duplicates and leaks -------------------------------------------------------------------------


def test_a_row_of_two_sources_is_kept_once(parts, tmp_path):
    mix = mixed(parts, recipe_of({"d": {}, "e": {}}), tmp_path / "out")
    assert kept(mix) == {"d": 4, "e": 3}
    assert mix.accounts["e"]["dropped"] == {"duplicate of a row of another source": 1}


def test_the_order_of_the_recipes_keys_changes_nothing(parts, tmp_path):
    first = mixed(parts, recipe_of({"d": {}, "e": {}}), tmp_path / "first")
    turned = mixed(parts, recipe_of({"e": {}, "d": {}}), tmp_path / "turned")
    assert turned.record.fingerprint == first.record.fingerprint
    assert turned.record.digest == first.record.digest


def test_a_benchmark_row_in_the_training_data_is_dropped_and_counted(parts, tmp_path):
    mix = mixed(parts, recipe_of({"a": {}, "leaky": {}}), tmp_path / "out")
    assert mix.accounts["leaky"] == {"read": 5, "kept": 4, "repeated": 0, "dropped": {"overlaps benchmark medqa": 1}}
    assert not any("dafin" in message["content"].lower() for row in mix.rows for message in row["messages"])
    (dropped,) = read_shards(tmp_path / "out" / "dropped")
    assert (dropped["source"], dropped["reason"]) == ("leaky", "overlaps benchmark medqa")


def test_a_source_of_leaked_rows_alone_is_an_error(parts, tmp_path, refusal):
    told = refusal(lambda: mixed(parts, recipe_of({"a": {}, "leaked": {}}), tmp_path / "out"))
    assert "sources.leaked: found every row left out" in told
    assert list(tmp_path.iterdir()) == []


def test_leaked_rows_do_not_count_towards_a_share(parts, tmp_path, refusal):
    assert kept(mixed(parts, recipe_of({"leaky": {"rows": 4}}), tmp_path / "out")) == {"leaky": 4}
    told = refusal(lambda: mixed(parts, recipe_of({"leaky": {"rows": 5}}), tmp_path / "more"))
    assert "found 4 rows x repeat_limit 1 = 4; expected 5 rows" in told


def test_the_page_says_what_was_left_out(parts, tmp_path):
    mixed(parts, recipe_of({"a": {"rows": 2}, "leaky": {}}), tmp_path / "out")
    page = (tmp_path / "out" / "page.html").read_text()
    assert "overlaps benchmark medqa" in page
    assert str(escape(NOT_TAKEN)) in page
    assert "6 conversations of 2 sources; 100.0% medical, 0.0% general." in page


def test_a_source_that_was_not_prepared_is_told(parts, tmp_path, refusal):
    recipe = recipe_of({"a": {}, "b": {}})
    told = refusal(lambda: mix_data(recipe, [parts.root / "a"], parts.root / "benchmarks", tmp_path / "out", parts.job))
    assert "sources: found none prepared for b" in told


def test_a_mix_is_used_again_unless_a_source_is_another(parts, tmp_path):
    store = tmp_path / "store"
    first = mixed(parts, recipe_of({"a": {}, "b": {}}), tmp_path / "one", store).record
    assert mixed(parts, recipe_of({"b": {}, "a": {}}), tmp_path / "two", store).record == first
    assert mixed(parts, recipe_of({"a": {}, "b": {"rows": 3}}), tmp_path / "three", store).record.measured["rows"] == 13


# --- tiny -----------------------------------------------------------------------------------------


def test_tinys_mix_accounts_for_every_prepared_row(tiny: SimpleNamespace):
    accounts = read_manifest(tiny.mix)["sources"]
    for name, path in tiny.sources.items():
        assert accounts[name]["read"] == read_manifest(path)["rows"] == accounts[name]["kept"] + sum(accounts[name]["dropped"].values())
    rows = Counter(row["source"] for row in read_shards(tiny.mix))
    assert rows == {name: account["kept"] for name, account in accounts.items()}
    reasons = Counter((row["source"], row["reason"]) for row in read_shards(tiny.mix / "dropped"))
    assert reasons == {(name, reason): count for name, account in accounts.items() for reason, count in account["dropped"].items()}


def test_tinys_leaks_are_the_planted_ones(tiny: SimpleNamespace):
    accounts = read_manifest(tiny.mix)["sources"]
    reasons: dict[str, set[str]] = {name: set(account["dropped"]) for name, account in accounts.items()}
    assert reasons == {"flashcards": set(), "exam": set(), "statements": set(), "abstracts": {"overlaps benchmark pubmedqa"},
                       "chats": {"overlaps benchmark toxigen"}}
    assert read_record(tiny.mix).inputs.keys() == {*(f"source-{name}" for name in tiny.sources), "benchmarks"}


# --- gates ----------------------------------------------------------------------------------------


def told(mix: SimpleNamespace, gate: str) -> dict[str, Any]:
    return json.loads((mix.out / f"{gate}.json").read_text())


def test_every_leak_is_listed_with_both_texts(parts, tmp_path):
    mix = mixed(parts, recipe_of({"a": {}, "leaky": {}}), tmp_path / "out")
    (hit,) = told(mix, "decontamination")["hits"]
    assert (hit["source"], hit["benchmark"], hit["way"]) == ("leaky", "medqa", "question")
    assert hit["question"] == LEAKED
    assert hit["text"] == f"Tell me: {LEAKED.upper()}\n\n5 units."
    assert mix.record.measured["decontamination"] == {"leaks": 1, "residue": 0, "items": 1, "words": 13}
    page = (tmp_path / "out" / "decontamination.html").read_text()
    assert LEAKED in page and LEAKED.upper() in page


def test_leaks_that_are_kept_stop_the_run(parts, tmp_path, refusal):
    recipe = recipe_of({"a": {}, "leaky": {}}, leaks="keep")
    assert "1 rows with benchmark text in the finished mix" in refusal(lambda: mixed(parts, recipe, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_as_many_leaks_as_the_recipe_allows_may_stay(parts, tmp_path):
    mix = mixed(parts, recipe_of({"a": {}, "leaky": {}}, leaks="keep", residue=1), tmp_path / "out")
    assert kept(mix) == {"a": 10, "leaky": 5}
    assert told(mix, "decontamination")["residue"] == 1


def test_near_duplicates_are_left_out_and_named(tmp_path):
    draw = random.Random(3)
    words = [f"word{number}" for number in range(400)]
    rows = [{"instruction": "", "input": f"What of case {number}?", "output": " ".join(draw.choices(words, k=40))} for number in range(30)]
    near = [{**row, "output": row["output"] + " indeed"} for row in rows[:4]]
    other = [{**row, "input": f"How was the {number} weather?"} for number, row in enumerate(rows[4:8])]
    for name, content in {"a": rows, "b": near + other, "medqa": [BENCHMARK]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    job, recipe = Job("test", None, tmp_path), recipe_of({"a": {}, "b": {}})
    for name in recipe.sources:
        prepare_source(recipe, name, tmp_path / name, job)
    prepare_benchmarks(recipe, tmp_path / "benchmarks", job)
    mix = mixed(SimpleNamespace(root=tmp_path), recipe, tmp_path / "out")
    pairs = told(mix, "duplicates")["near_duplicates"]
    assert len(pairs) == 4
    assert {frozenset((pair["source"], pair["kept_source"])) for pair in pairs} == {frozenset("ab")}
    assert sum(account["dropped"].get("near duplicate", 0) for account in mix.accounts.values()) == 4
    assert len(mix.rows) == 30 + 4
    assert {pair["id"] for pair in pairs}.isdisjoint(row["id"] for row in mix.rows)
    assert {pair["kept_id"] for pair in pairs} <= {row["id"] for row in mix.rows}
    assert "indeed" in (tmp_path / "out" / "duplicates.html").read_text()
    off = mixed(SimpleNamespace(root=tmp_path), recipe_of({"a": {}, "b": {}}, dedup={"near": False}), tmp_path / "off")
    assert len(off.rows) == 38


def test_the_terms_of_the_licences_are_told(parts, tmp_path):
    mix = mixed(parts, recipe_of({"a": {"license": "CC-BY-SA-4.0"}, "b": {"license": "CC-BY-NC-4.0"}}), tmp_path / "out")
    terms = told(mix, "licences")["mix"]
    assert (terms["commercial"], terms["share_alike"], terms["non_commercial"]) == (False, ["a"], ["b"])
    assert told(mix, "licences")["sources"] == {"a": "CC-BY-SA-4.0", "b": "CC-BY-NC-4.0"}


@pytest.mark.parametrize("policy", ["report", "mask", "drop"])
def test_what_the_phi_gate_saw_of_every_source_is_told(policy, tmp_path):
    rows = [*cards("a", 5), {"instruction": "", "input": "Who can help?", "output": "Write to jane.roe@clinic.example.org today."}]
    for name, content in {"a": rows, "medqa": [BENCHMARK]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    job, recipe = Job("test", None, tmp_path), recipe_of({"a": {"phi": policy}})
    prepare_source(recipe, "a", tmp_path / "a", job)
    prepare_benchmarks(recipe, tmp_path / "benchmarks", job)
    mix = mixed(SimpleNamespace(root=tmp_path), recipe, tmp_path / "out")
    report = told(mix, "phi")
    assert (report["examined"], report["with_findings"], report["acted_on"]) == (6, 1, 0 if policy == "report" else 1)
    assert report["sources"]["a"]["categories"]["email"]["found"] == 1
    text = " ".join(turn["content"] for row in mix.rows for turn in row["messages"])
    assert ("jane.roe" in text) == (policy == "report")
    assert ("[EMAIL]" in text) == (policy == "mask")
    assert len(mix.rows) == (5 if policy == "drop" else 6)
    for path in (tmp_path / "out").glob("*.*ml"):
        assert "jane.roe" not in path.read_text()
    assert "jane.roe" not in (tmp_path / "out" / "phi.json").read_text() + (tmp_path / "a" / "phi.json").read_text()


def test_identifiers_stop_a_run_whose_policy_is_to_stop(tmp_path, refusal):
    rows = [*cards("a", 3), {"instruction": "", "input": "Who?", "output": "Write to jane.roe@clinic.example.org."}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told_by = refusal(lambda: prepare_source(recipe_of({"a": {"phi": "stop"}}), "a", tmp_path / "out", Job("test", None, tmp_path)))
    assert "sources.a.phi" in told_by and "1 email" in told_by and "jane" not in told_by
    assert not (tmp_path / "out").exists()
