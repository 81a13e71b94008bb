import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from med42.data.families import families
from med42.data.row import ColumnError
from med42.data.shards import read_shards
from med42.evaluation.item import Item, multiple_choice
from med42.evaluation.prepare_benchmarks import find_converter, prepare_benchmarks
from med42.lineage.journal import Job
from med42.lineage.record import read_record
from med42.recipe import Recipe, load_recipe

FOUR = ("one", "two", "three", "four")
PROMPT = "Which is right?\nA. one\nB. two\nC. three\nD. four"
ROWS: dict[str, dict[str, Any]] = {
    "medmcqa": {"question": " Which is right? ", "opa": "one", "opb": " two", "opc": "three", "opd": "four", "cop": 1,
                "subject_name": "Anatomy"},
    "medqa": {"sent1": "Which is right?", "sent2": "", "ending0": "one", "ending1": "two", "ending2": "three", "ending3": "four",
              "label": 1},
    "mmlu": {"question": "Which is right?", "choices": list(FOUR), "answer": 1, "subject": "clinical_knowledge"},
    "mmlu_pro": {"question": "Which is right?", "options": [*FOUR, *"efghij"], "answer_index": 9, "src": "ori_mmlu-anatomy"},
    "pubmedqa": {"QUESTION": "Does it help?", "CONTEXTS": ["We gave it.", "It did."], "final_decision": "maybe",
                 "LONG_ANSWER": "It is open."},
    "toxigen": {"text": " They are kind. ", "toxicity_ai": 1.0, "toxicity_human": 2},
    "usmle": {"step": 2, "question": "Which is right?", "options": dict(zip("ABCDE", [*FOUR, "five"], strict=True)), "answer": "E",
              "has_image": False},
}
Prepare = Callable[..., SimpleNamespace]


def item(family: str, **changes: Any) -> Item | str:
    return find_converter(family, "x").item({**ROWS[family], **changes})


# --- every family ---------------------------------------------------------------------------------


def test_every_converter_is_tested_here(refusal):
    assert set(ROWS) == set(families("med42.evaluation.benchmarks"))
    assert find_converter("mmlu-pro", "x") is find_converter("mmlu_pro", "x")
    assert "evaluation.benchmarks.x.family: found 'mmlupro'" in refusal(lambda: find_converter("mmlupro", "x"))


OPTIONAL = {("medqa", "sent2"), ("pubmedqa", "LONG_ANSWER"), ("usmle", "has_image"), ("usmle", "step")}


@pytest.mark.parametrize(("family", "column"), sorted({(family, column) for family, row in ROWS.items() for column in row} - OPTIONAL))
def test_a_missing_column_is_named(family, column):
    row = {key: value for key, value in ROWS[family].items() if key != column}
    with pytest.raises(ColumnError) as told:
        find_converter(family, "x").item(row)
    assert told.value.column == column


@pytest.mark.parametrize(("family", "column", "value"), [
    ("medmcqa", "question", 3), ("medmcqa", "opa", ["one"]), ("medmcqa", "cop", None), ("medmcqa", "cop", "B"), ("medmcqa", "cop", True),
    ("medqa", "label", 1.0), ("medqa", "ending2", 3), ("medqa", "sent1", ["Which?"]),
    ("mmlu", "choices", "one"), ("mmlu", "choices", [1, 2]), ("mmlu", "choices", None), ("mmlu", "answer", "B"), ("mmlu", "subject", 3),
    ("mmlu_pro", "options", None), ("mmlu_pro", "answer_index", "J"),
    ("pubmedqa", "CONTEXTS", "We gave it."), ("pubmedqa", "final_decision", 1),
    ("toxigen", "text", 3), ("toxigen", "toxicity_ai", "4.5"), ("toxigen", "toxicity_human", None),
    ("toxigen", "toxicity_human", float("nan")),
    ("usmle", "options", list(FOUR)), ("usmle", "options", None), ("usmle", "answer", 4),
])
def test_a_column_of_another_type_is_refused(family, column, value):
    with pytest.raises(ColumnError) as told:
        item(family, **{column: value})
    assert told.value.column == column


@pytest.mark.parametrize(("family", "changes", "reason"), [
    ("medmcqa", {"question": " "}, "empty question"), ("medmcqa", {"opd": None}, "empty option"), ("medmcqa", {"opb": " "}, "empty option"),
    ("medmcqa", {"cop": 4}, "option index is out of range"), ("medmcqa", {"cop": -1}, "option index is out of range"),
    ("medqa", {"sent1": None}, "empty question"), ("medqa", {"ending0": ""}, "empty option"),
    ("medqa", {"label": "4"}, "option index is out of range"),
    ("mmlu", {"question": ""}, "empty question"), ("mmlu", {"choices": ["one", ""]}, "empty option"),
    ("mmlu", {"answer": 4}, "option index is out of range"),
    ("mmlu", {"choices": []}, "option index is out of range"), ("mmlu_pro", {"answer_index": 10}, "option index is out of range"),
    ("mmlu_pro", {"options": [*"abcdefghijk"]}, "more than 10 options"),
    ("pubmedqa", {"final_decision": None}, "decision is not yes, no or maybe"), ("pubmedqa", {"QUESTION": ""}, "empty question"),
    ("toxigen", {"text": " "}, "empty statement"), ("toxigen", {"text": None}, "empty statement"),
    ("usmle", {"has_image": True}, "needs an image"), ("usmle", {"answer": "F"}, "option index is out of range"),
    ("usmle", {"answer": None}, "option index is out of range"), ("usmle", {"options": {}}, "option index is out of range"),
    ("usmle", {"options": {"A": "one", "B": " "}, "answer": "A"}, "empty option"),
])
def test_what_cannot_be_asked_has_a_reason(family, changes, reason):
    assert item(family, **changes) == reason


# --- each family ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "subject"), [("medmcqa", "Anatomy"), ("medqa", ""), ("mmlu", "clinical_knowledge")])
def test_four_options(family, subject):
    assert item(family) == Item("Which is right?", FOUR, 1, PROMPT, subject=subject)


def test_ten_options():
    made = item("mmlu_pro")
    assert (made.right, made.options[9], made.subject, made.lettered) == (9, "j", "anatomy", True)
    assert made.prompt.endswith("I. i\nJ. j")


def test_usmle_steps_are_subjects_and_absent_options_are_left_out():
    assert item("usmle") == Item("Which is right?", (*FOUR, "five"), 4, f"{PROMPT}\nE. five", subject="step 2")
    gaps = item("usmle", options={**dict.fromkeys("ABCDEFGHI"), "A": "one", "B": "two", "E": "five"})
    assert (gaps.options, gaps.right) == (("one", "two", "five"), 2)
    assert item("usmle", has_image=None) == item("usmle")


def test_pubmedqa_is_answered_in_words():
    made = item("pubmedqa")
    assert (made.question, made.options, made.right, made.lettered) == ("Does it help?", ("yes", "no", "maybe"), 2, False)
    assert made.context == "We gave it.\nIt did."
    assert made.prompt == "Abstract: We gave it.\nIt did.\n\nQuestion: Does it help?\nAnswer with yes, no or maybe."
    assert "It is open" not in made.prompt


@pytest.mark.parametrize(("ai", "human", "right"), [(1.0, 2.0, 0), (4.5, 4.0, 1), (2.75, 2.75, 0), (2.75, 2.76, 1), (5, 0.5, 0), (5, 1, 1)])
def test_toxigen_is_hateful_above_the_threshold(ai, human, right):
    made = item("toxigen", toxicity_ai=ai, toxicity_human=human)
    assert (made.options, made.right, made.lettered) == (("No", "Yes"), right, False)
    assert made.prompt == 'Is this remark hateful? "They are kind." Answer Yes or No.'


def test_an_items_identity_is_what_decides_the_score():
    made = multiple_choice("Which?", ["a", "b"], 0)
    others = [multiple_choice("Who?", ["a", "b"], 0), multiple_choice("Which?", ["a", "c"], 0), multiple_choice("Which?", ["a", "b"], 1)]
    assert len({made.id, *(other.id for other in others)}) == 4
    assert multiple_choice(" Which? ", ["a ", "b"], 0, "Anatomy").id == made.id


@pytest.mark.parametrize(("family", "mean"), [(family, family in ("mmlu", "usmle")) for family in ROWS])
def test_subjects_of_mmlu_and_steps_of_usmle_count_alike(family, mean):
    assert getattr(find_converter(family, "x"), "MEAN_OF_SUBJECTS", False) == mean


# --- the stage ------------------------------------------------------------------------------------


def recipe_of(names: list[str], *overrides: str) -> Recipe:
    settings = {name: {"family": name, "license": "x", "origin": {"kind": "file", "files": [f"{name}.jsonl"]}} for name in names}
    return load_recipe("tiny", [f"evaluation.benchmarks={json.dumps(settings)}", "gates=[]", *overrides])


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    def prepared(recipe: Recipe, out: str = "out", **sets: list[dict[str, Any]]) -> SimpleNamespace:
        for name, rows in sets.items():
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        record = prepare_benchmarks(recipe, tmp_path / out, Job("test", None, tmp_path))
        for account in record.measured["accounts"].values():
            assert account["read"] == account["kept"] + sum(account["dropped"].values())
        rows = list(read_shards(tmp_path / out))
        return SimpleNamespace(record=record, rows=rows, accounts=record.measured["accounts"], out=tmp_path / out)

    return prepared


def questions(count: int, subject: str = "anatomy") -> list[dict[str, Any]]:
    return [{**ROWS["mmlu"], "question": f"Question {number}?", "subject": subject} for number in range(count)]


def test_rows_are_the_items(prepare):
    (row,) = prepare(recipe_of(["medqa"]), medqa=[ROWS["medqa"]]).rows
    made = item("medqa")
    assert row == {"id": made.id, "benchmark": "medqa", "question": "Which is right?", "context": "", "prompt": PROMPT,
                   "options": list(FOUR), "right": 1, "lettered": True, "subject": ""}


def test_duplicate_questions_and_images_are_counted(prepare):
    usmle = ROWS["usmle"]
    pictured = [{**usmle, "has_image": True}, {**usmle, "has_image": True, "options": None}]
    made = prepare(recipe_of(["usmle", "medqa"]), medqa=[ROWS["medqa"]] * 3,
                   usmle=[usmle, *pictured, {**usmle, "answer": "Z"}, {**usmle, "step": 3}, usmle])
    assert made.accounts["medqa"] == {"read": 3, "kept": 1, "dropped": {"duplicate question": 2}}
    assert made.accounts["usmle"] == {"read": 6, "kept": 1, "dropped": {
        "duplicate question": 2, "needs an image": 2, "option index is out of range": 1}}
    page = (made.out / "page.html").read_text()
    assert "usmle: needs an image" in page
    assert "2 questions of 2 benchmarks" in page


def test_subjects_are_kept(prepare):
    made = prepare(recipe_of(["mmlu"]), mmlu=[*questions(3), *({**row, "subject": "virology", "answer": 2} for row in questions(2))])
    assert Counter(row["subject"] for row in made.rows) == {"anatomy": 3, "virology": 2}


def test_the_order_of_rows_and_of_the_recipes_keys_changes_nothing_that_is_scored(prepare):
    sets = {"mmlu": questions(20), "medqa": [ROWS["medqa"]]}
    first = prepare(recipe_of(["mmlu", "medqa"]), **sets)
    turned = prepare(recipe_of(["medqa", "mmlu"]), out="turned", **sets)
    assert (turned.record.fingerprint, turned.record.digest) == (first.record.fingerprint, first.record.digest)
    shuffled = prepare(recipe_of(["mmlu", "medqa"]), out="shuffled", mmlu=sets["mmlu"][::-1])
    assert shuffled.rows == first.rows


def test_a_limit_is_told(prepare):
    made = prepare(recipe_of(["mmlu"], "evaluation.limit=4"), mmlu=questions(20))
    assert made.accounts["mmlu"] == {"read": 20, "kept": 4, "dropped": {"beyond the recipe's limit": 16}}
    whole = prepare(recipe_of(["mmlu"]), out="whole")
    assert [row["id"] for row in made.rows] == [row["id"] for row in whole.rows][:4]


def test_a_benchmark_without_a_question_is_an_error(prepare, refusal, tmp_path):
    told = refusal(lambda: prepare(recipe_of(["usmle"]), usmle=[{**ROWS["usmle"], "has_image": True}]))
    assert "evaluation.benchmarks.usmle: found no question in its rows ({'needs an image': 1})" in told
    assert not (tmp_path / "out").exists()


def test_another_column_names_file_and_row(prepare, refusal, tmp_path):
    told = refusal(lambda: prepare(recipe_of(["medqa"]), medqa=[ROWS["medqa"], ROWS["mmlu"]]))
    assert "medqa.jsonl:2, column 'sent1': found columns answer, choices, question, subject" in told
    assert "benchmark medqa" in told
    assert not (tmp_path / "out").exists()


def locked(rows: int, root: str = "null") -> list[str]:
    return [f"evaluation.benchmarks.mmlu.rows={rows}", f"evaluation.benchmarks.mmlu.rows_root={root}"]


def test_a_benchmark_that_gives_other_questions_than_were_locked_is_refused(prepare, refusal, tmp_path):
    whole = prepare(recipe_of(["mmlu"]), mmlu=questions(20))
    lock = whole.record.measured["locks"]["mmlu"]
    assert lock["rows"] == 20
    assert prepare(recipe_of(["mmlu"], *locked(20, lock["root"])), out="same").rows == whole.rows
    short = refusal(lambda: prepare(recipe_of(["mmlu"], *locked(20)), out="short", mmlu=questions(19)))
    assert "evaluation.benchmarks.mmlu.rows: found 19 (none left out); expected 20, as locked" in short
    twice = refusal(lambda: prepare(recipe_of(["mmlu"], *locked(20)), out="twice", mmlu=[*questions(19), questions(19)[0]]))
    assert "found 19 (1 left out: duplicate question); expected 20" in twice
    out_of_range = [*questions(19), {**questions(20)[19], "answer": 7}]
    assert "1 left out: option index is out of range" in refusal(
        lambda: prepare(recipe_of(["mmlu"], *locked(20)), out="range", mmlu=out_of_range))
    other = [*questions(19), {**questions(20)[19], "answer": 0}]
    assert "evaluation.benchmarks.mmlu.rows_root: found" in refusal(
        lambda: prepare(recipe_of(["mmlu"], *locked(20, lock["root"])), out="other", mmlu=other))
    assert not any((tmp_path / name).exists() for name in ("short", "twice", "range", "other"))


def test_a_limit_does_not_loosen_the_lock(prepare):
    made = prepare(recipe_of(["mmlu"], *locked(20), "evaluation.limit=4"), mmlu=questions(20))
    assert len(made.rows) == 4 and made.record.measured["locks"]["mmlu"]["rows"] == 20


def test_a_missing_file_names_the_benchmark(prepare, refusal):
    assert "the file 'medqa.jsonl' of evaluation.benchmarks.medqa.origin" in refusal(lambda: prepare(recipe_of(["medqa"])))


def test_what_the_paper_counts_is_no_part_of_what_is_made(prepare):
    plain = recipe_of(["medqa"])
    counted = recipe_of(["medqa"], "evaluation.benchmarks.medqa.paper_items=1273")
    assert prepare(plain, medqa=[ROWS["medqa"]]).record.digest == prepare(counted, out="counted").record.digest


def test_tinys_benchmarks(tiny: SimpleNamespace):
    accounts = read_record(tiny.benchmarks).measured["accounts"]
    assert accounts["usmle"]["dropped"] == {"needs an image": 3}
    rows = list(read_shards(tiny.benchmarks))
    assert Counter(row["benchmark"] for row in rows) == {name: account["kept"] for name, account in accounts.items()}
    assert all(row["options"][row["right"]] for row in rows)
    assert {row["subject"] for row in rows if row["benchmark"] == "usmle"} == {"step 1", "step 2", "step 3"}
    assert len({row["subject"] for row in rows if row["benchmark"] == "mmlu"}) == 6


# --- real -----------------------------------------------------------------------------------------


def test_pubmedqa_for_real(shared_data, tmp_path):
    recipe = recipe_of(["pubmedqa"], "evaluation.benchmarks.pubmedqa.origin.files=[pubmedqa_labeled.test.jsonl.gz]")
    record = prepare_benchmarks(recipe, tmp_path / "out", Job("test", None, shared_data))
    assert record.measured["accounts"]["pubmedqa"] == {"read": 500, "kept": 500, "dropped": {}}
    rows = list(read_shards(tmp_path / "out"))
    # PubMedQA, Jin et al. 2019: the answers of the 500 test questions.
    assert Counter(row["options"][row["right"]] for row in rows) == {"yes": 276, "no": 169, "maybe": 55}
    assert all(row["context"] and row["question"] in row["prompt"] and not row["lettered"] for row in rows)


def test_subjects_that_the_recipe_does_not_ask_for_are_counted(tmp_path, job):
    recipe = load_recipe("tiny", ["evaluation.benchmarks.mmlu.sites=[dose, class]"])
    record = prepare_benchmarks(recipe, tmp_path / "benchmarks", job)
    items = [row for row in read_shards(tmp_path / "benchmarks") if row["benchmark"] == "mmlu"]
    assert {row["subject"] for row in items} == {"dose", "class"}
    account = record.measured["accounts"]["mmlu"]
    assert account["dropped"] == {"subject that the recipe does not ask for": account["read"] - len(items)}
