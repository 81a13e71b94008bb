import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from med42.data.chat import Chat
from med42.data.shards import read_shards
from med42.lineage.digest import merkle_root
from med42.lineage.journal import Job
from med42.lineage.record import Record
from med42.preferences.build_preferences import build_preferences
from med42.recipe import Recipe, load_recipe

Build = Callable[..., SimpleNamespace]


def row(asked: str, good: str = "No.", bad: str = "Sure.", scores: tuple[float, float] | None = None) -> dict[str, Any]:
    def chat(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]

    return {"chosen": chat(good), "rejected": chat(bad)} | ({"score_chosen": scores[0], "score_rejected": scores[1]} if scores else {})


def recipe_of(rounds: list[list[str]], held_out: list[str] = (), parts: dict[str, tuple[int, int]] | None = None, **dpo: Any) -> Recipe:
    """tiny with preference sets read from files by their names; `one.x` and `one.y` both read `one`."""
    names = {name for names in rounds for name in names} | set(held_out)
    sets: dict[str, dict[str, Any]] = {
        name: {"family": "ultrafeedback", "license": "x", "origin": {"kind": "file", "files": [f"{name.split('.')[0]}.jsonl"]}}
        for name in names
    }
    for name, (index, of) in (parts or {}).items():
        sets[name]["part"] = {"index": index, "of": of}
    settings = {"rounds": rounds, "held_out": list(held_out), **dpo}
    return load_recipe("tiny", [f"preferences={json.dumps(sets)}", *(f"dpo.{key}={json.dumps(value)}" for key, value in settings.items())])


@pytest.fixture
def build(tiny: SimpleNamespace, base: Path, tmp_path: Path) -> Build:
    """Write sets of rows to files and build one round of them."""
    def built(recipe: Recipe, round_number: int = 1, out: str = "out", store: Path | None = None, **sets: list[dict]) -> SimpleNamespace:
        for name, rows in sets.items():
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        record = build_preferences(recipe, round_number, base, tiny.benchmarks, tmp_path / out, Job("test", store, tmp_path))
        return read(record, tmp_path / out)

    return built


def read(record: Record, out: Path) -> SimpleNamespace:
    pairs, held_out = list(read_shards(out)), list(read_shards(out / "held_out"))
    assert record.measured["pairs"] == len(pairs)
    assert record.measured["held_out_pairs"] == len(held_out)
    assert record.measured["merkle_root"] == merkle_root([pair["id"] for pair in pairs])
    for account in record.measured["accounts"].values():
        assert account["read"] == account["kept"] + sum(account["dropped"].values())
    return SimpleNamespace(record=record, pairs=pairs, held_out=held_out, accounts=record.measured["accounts"], out=out)


@pytest.fixture(scope="module")
def rounds(tiny: SimpleNamespace, base: Path, tmp_path_factory: pytest.TempPathFactory, job: Job) -> list[SimpleNamespace]:
    """tiny's three rounds."""
    folder = tmp_path_factory.mktemp("rounds")
    return [read(build_preferences(tiny.recipe, number, base, tiny.benchmarks, folder / str(number), job), folder / str(number))
            for number in (1, 2, 3)]


# --- tiny -----------------------------------------------------------------------------------------


def test_tinys_rounds_account_for_every_row(rounds):
    assert [made.accounts[f"round-{number}"]["read"] for number, made in enumerate(rounds, 1)] == [123, 123, 120]
    assert all(made.accounts["held-out"]["read"] == 82 for made in rounds)
    assert all(len(made.pairs) > 80 and len(made.held_out) > 60 for made in rounds)


def test_tinys_rounds_share_no_pair_on_a_fact(rounds):
    # What they do share is how to refuse: a few unsafe requests, which are about a drug and not about a fact.
    facts = [{pair["id"] for pair in made.pairs if "dangerous" not in pair["chosen"]} for made in rounds]
    assert all(len(part) > 60 for part in facts)
    assert len(set().union(*facts)) == sum(map(len, facts))


def test_every_round_is_measured_on_the_same_pairs(rounds):
    assert rounds[0].held_out == rounds[1].held_out == rounds[2].held_out


def prompts(pairs: list[dict]) -> set[str]:
    return {json.dumps(pair["prompt"]) for pair in pairs}


def test_held_out_prompts_are_in_no_round(rounds):
    for made in rounds:
        assert not prompts(made.pairs) & prompts(made.held_out)


def test_token_ids_are_those_of_the_chat(rounds, base):
    chat = Chat(base)
    for pair in [*rounds[0].pairs, *rounds[0].held_out]:
        assert pair["prompt_ids"] == chat.prompt(pair["prompt"])
        assert pair["chosen_ids"] == chat.answer(pair["chosen"])
        assert pair["rejected_ids"] == chat.answer(pair["rejected"])


def test_mean_lengths_are_measured(rounds):
    measured, pairs = rounds[0].record.measured, rounds[0].pairs
    assert measured["mean_chosen_tokens"] == pytest.approx(sum(len(pair["chosen_ids"]) for pair in pairs) / len(pairs))
    longer = [len(pair["chosen_ids"]) > len(pair["rejected_ids"]) for pair in pairs]
    assert measured["share_chosen_longer"] == pytest.approx(sum(longer) / len(longer))
    assert measured["mean_rejected_tokens"] == pytest.approx(sum(len(pair["rejected_ids"]) for pair in pairs) / len(pairs))


def test_the_same_round_is_built_the_same(rounds, tiny, base, tmp_path, job):
    again = build_preferences(tiny.recipe, 1, base, tiny.benchmarks, tmp_path / "out", job)
    assert again.digest == rounds[0].record.digest
    assert len({made.record.digest for made in rounds}) == 3


def test_pairs_come_in_an_order_that_the_seed_decides(build):
    rows = [row(f"May I take {number} units of it?") for number in range(30)]
    first = build(recipe_of([["one"]]), one=rows).pairs
    turned = build(recipe_of([["one"]]), out="turned", one=rows[::-1]).pairs
    other = build(recipe_of([["one"]]).model_copy(update={"seed": 1}), out="other", one=rows).pairs
    assert first == turned != other
    assert [pair["id"] for pair in first] != [pair["id"] for pair in read_in_file_order(first)]
    assert sorted(pair["id"] for pair in first) == sorted(pair["id"] for pair in other)


def read_in_file_order(pairs: list[dict]) -> list[dict]:
    return sorted(pairs, key=lambda pair: int(pair["prompt"][0]["content"].split()[3]))


# --- why a pair is left out -----------------------------------------------------------------------


def test_every_reason_is_counted(build, tiny):
    benchmark = next(item["question"] for item in read_shards(tiny.benchmarks) if item["benchmark"] == "medqa")
    held = "Is this one held out for the measuring?"
    made = build(recipe_of([["one"]], ["kept"], max_length=60), kept=[row(held), row(held, "Nay.")], one=[
        row("May I?"), row("May I?"), row("May I not?"),
        row(held, "Never."),
        row(f"Tell me: {benchmark}"), row("What is asked here?", f"You ask: {benchmark.upper()}"),
        row("How long may it be?", "word " * 80), row("Which?", "Same.", "Same."), row("Scored?", scores=(3.0, 3.0)), row("Empty?", " "),
    ])
    assert made.accounts["one"] == {"read": 10, "kept": 2, "dropped": {
        "duplicate pair": 1, "prompt is held out for measuring": 1, "overlaps benchmark medqa": 2, "longer than dpo.max_length": 1,
        "equal answers": 1, "tie, or the chosen answer is scored lower": 1, "empty answer": 1}}
    assert made.accounts["kept"] == {"read": 2, "kept": 2, "dropped": {}}
    assert {pair["prompt"][0]["content"] for pair in made.pairs} == {"May I?", "May I not?"}
    page = (made.out / "page.html").read_text()
    assert all(reason.split(",")[0] in page for reason in made.accounts["one"]["dropped"])


def test_the_longest_pair_that_fits_is_kept(build, base):
    pair = row("How long may it be?", "word " * 10)
    chat = Chat(base)
    length = len(chat.prompt(pair["chosen"][:1])) + len(chat.answer("word " * 10))
    assert len(build(recipe_of([["one"]], max_length=length), one=[pair]).pairs) == 1
    made = build(recipe_of([["one"]], max_length=length - 1), out="short", one=[pair, row("Short?")])
    assert made.accounts["one"]["dropped"] == {"longer than dpo.max_length": 1}


def test_a_prompt_that_leaves_no_room_for_an_answer_is_told_apart(build):
    made = build(recipe_of([["one"]], max_length=40), one=[row("word " * 60), row("Short?")])
    assert made.accounts["one"]["dropped"] == {"prompt alone reaches dpo.max_length": 1}


def test_a_rejected_answer_counts_for_the_length_too(build):
    made = build(recipe_of([["one"]], max_length=40), one=[row("May I?", "No.", "word " * 60), row("Short?")])
    assert made.accounts["one"]["dropped"] == {"longer than dpo.max_length": 1}


def test_a_round_whose_pairs_were_all_dropped_is_an_error(build, refusal, tmp_path):
    told = refusal(lambda: build(recipe_of([["one"]], ["kept"]), kept=[row("Held?")], one=[row("Held?", "Never."), row("Same?", "a", "a")]))
    assert "dpo.rounds, round 1: found no pair left" in told
    assert "'prompt is held out for measuring': 1" in told
    assert not (tmp_path / "out").exists()


def test_held_out_pairs_alone_make_no_round(build, refusal):
    assert "no pair left" in refusal(lambda: build(recipe_of([["one"]], ["kept"]), kept=[row("Held?")], one=[row("Same?", "a", "a")]))


def test_a_column_of_another_type_names_file_and_row(build, refusal):
    told = refusal(lambda: build(recipe_of([["one"]]), one=[row("May I?"), {"chosen": "text", "rejected": []}]))
    assert "one.jsonl:2, column 'chosen': found a value of type str" in told
    assert "preferences.one" in told


# --- sets and their parts -------------------------------------------------------------------------


def test_two_sets_of_a_round_are_joined_and_a_shared_pair_counts_once(build):
    both = {"one": [row("First?"), row("Shared?")], "two": [row("Second?"), row("Shared?")]}
    made = build(recipe_of([["one", "two"]]), **both)
    assert sorted(pair["source"] for pair in made.pairs) == ["one", "one", "two"]
    assert made.accounts["two"]["dropped"] == {"duplicate pair": 1}


def test_the_order_in_which_a_round_names_its_sets_changes_nothing(build):
    both = {"one": [row("First?"), row("Shared?")], "two": [row("Second?"), row("Shared?")]}
    first = build(recipe_of([["one", "two"]]), **both)
    turned = build(recipe_of([["two", "one"]]), out="turned", **both)
    assert turned.record.fingerprint == first.record.fingerprint
    assert turned.record.digest == first.record.digest


def test_parts_of_one_set_are_disjoint_and_complete(build):
    rows = [row(f"May I take {number} units of it?") for number in range(60)]
    recipe = recipe_of([["one.a"], ["one.b"], ["one.c"]], parts={"one.a": (1, 3), "one.b": (2, 3), "one.c": (3, 3)})
    made = [build(recipe, number, out=str(number), one=rows) for number in (1, 2, 3)]
    ids = [{pair["id"] for pair in part.pairs} for part in made]
    assert sum(map(len, ids)) == len(set().union(*ids)) == 60
    assert all(10 <= len(part) <= 30 for part in ids)
    elsewhere = [account["dropped"]["belongs to another round"] for part in made for account in part.accounts.values()]
    assert elsewhere == [60 - len(part) for part in ids]


def test_a_round_reads_its_own_sets_alone(build, refusal):
    recipe = recipe_of([["one"], ["two"]])
    assert set(build(recipe, 1, one=[row("May I?")]).accounts) == {"one"}
    assert "two.jsonl: found no such file" in refusal(lambda: build(recipe, 2, out="second"))


def test_another_file_makes_the_round_anew(build, tmp_path):
    store = tmp_path / "store"
    first = build(recipe_of([["one"]]), store=store, one=[row("May I?")])
    assert build(recipe_of([["one"]]), out="again", store=store).record == first.record
    assert len(build(recipe_of([["one"]]), out="more", store=store, one=[row("May I?"), row("May I not?")]).pairs) == 2


# --- real -----------------------------------------------------------------------------------------


def test_hh_rlhf_for_real(shared_data, tiny, base, tmp_path):
    real = {"family": "hh_rlhf", "license": "MIT", "origin": {"kind": "file", "files": ["hh_rlhf_harmless.jsonl.gz"]}}
    recipe = load_recipe("tiny", [f"preferences={json.dumps({'real': real})}", "dpo.rounds=[[real]]", "dpo.held_out=[]",
                                  "dpo.max_length=4096"])
    record = build_preferences(recipe, 1, base, tiny.benchmarks, tmp_path / "out", Job("test", None, shared_data))
    made = read(record, tmp_path / "out")
    account = made.accounts["real"]
    assert account["read"] == 1_200
    assert set(account["dropped"]) == {"empty answer", "turns do not alternate from user to assistant"}
    assert account["kept"] > 1_150
    assert all([turn["role"] for turn in pair["prompt"]] == (["user", "assistant"] * len(pair["prompt"]))[: len(pair["prompt"])]
               for pair in made.pairs)
    assert not any("\n\nHuman:" in turn["content"] for pair in made.pairs for turn in pair["prompt"])
