"""Rows that are not what their publisher promises, for every family: a conversation, a reason, or an error that names the column.

Through the stage it is a conversation, a counted reason, or one error with file and row, and nothing half-written.
"""

import copy
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from published_rows import ROWS, UNREAD, source

from med42.data.conversation import Dropped, checked, row_digest
from med42.data.families import families
from med42.data.prepare_source import find_converter, prepare_source
from med42.data.row import ColumnError
from med42.data.shards import read_shards
from med42.errors import Med42Error
from med42.lineage.journal import Job
from med42.recipe import load_recipe

READ = {family: [column for column in row if column not in UNREAD.get(family, ())] for family, row in ROWS.items()}
CONTROLS = "".join(map(chr, [*range(0x09), *range(0x0B, 0x20), 0x7F]))
LONG = 10_000_000


def said(*contents: str) -> dict[str, Any]:
    """The turns of a chat, by the keys of either form."""
    pairs = list(zip(("human", "gpt") * len(contents), contents, strict=False))
    return {"conversations": [{"from": who, "value": what, "weight": None} for who, what in pairs],
            "messages": [{"role": {"human": "user", "gpt": "assistant"}[who], "content": what} for who, what in pairs]}


# What leaves a row without a question, or without an answer.
NO_QUESTION = {
    "aci_bench": {"dialogue": " "}, "headqa": {"qtext": ""}, "medical_instruction": {"Conversation": "[|Human|] [|AI|] Yes."},
    "medqa": {"sent1": None}, "mmlu": {"question": "\n"}, "niv2": {"inputs": ""}, "pubhealth": {"claim": ""}, "sciq": {"question": " "},
    "opengpt": {"text": "<|user|> <|eos|> <|ai|> Yes. <|eos|>"}, "stackexchange": {"question": "<p> </p>"}, "slimorca": said("", "Yes."),
    "ultramedical": said(" ", "Yes."), "meadow": {"instruction": None, "input": ""}, "medmcqa": {"question": ""},
    "medquad": {"question": ""},
    "mts_dialog": {"dialogue": ""}, "pubmedqa": {"QUESTION": ""}, "ultrachat": said("", "Yes."),
}
NO_ANSWER = {
    "aci_bench": {"note": ""}, "headqa": {"answers": [{"aid": 1, "atext": "one"}, {"aid": 2, "atext": " "}, {"aid": 3, "atext": "three"}]},
    "medical_instruction": {"Conversation": "[|Human|] Why? [|AI|] "}, "medqa": {"ending1": ""}, "mmlu": {"choices": ["one", "", "three"]},
    "niv2": {"targets": " "}, "opengpt": {"text": "<|user|> Why? <|eos|> <|ai|> <|eos|> <|eod|>"}, "pubhealth": {"explanation": None},
    "sciq": {"correct_answer": ""}, "stackexchange": {"answers": []}, "slimorca": said("Why?", ""), "ultramedical": said("Why?"),
    "meadow": {"output": ""}, "medmcqa": {"opb": None}, "medquad": {"answer": " \n "},
    "mts_dialog": {"section_header": "", "section_text": None}, "pubmedqa": {"final_decision": None}, "ultrachat": said("Why?", " "),
}
INDICES = [("headqa", "ra"), ("medmcqa", "cop"), ("medqa", "label"), ("mmlu", "answer"), ("pubhealth", "label"),
           ("pubmedqa", "final_decision")]
NONSENSE = [-1, 99, 10**30, -(10**30), "B", "", " ", None, 1.5, True, float("nan"), [], {"a": 1}, "\u0661", "1.0", b"1", "9" * 10_000]
WRONG_TYPES = [3, -1, 1.5, True, None, b"bytes", [], ["a"], [3], [None], {}, {"a": "b"}, [{}], [{"role": 1}], [[["a"]]], float("nan"),
               10**30]


def converted(family: str, row: Any) -> list[Any] | ColumnError:
    """What a converter makes of a row; what it may not do is anything else."""
    try:
        results = list(find_converter(family, "sources.x").conversations(row, source(family)))
    except ColumnError as error:
        return error
    assert results, "a row that leaves no trace"
    for result in results:
        if isinstance(result, Dropped):
            assert result.reason
            continue
        assert checked(result) == result
        row_digest(result)  # it can be written as UTF-8
        for turn in result:
            assert not set(turn["content"]) & set(CONTROLS)
    return results


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a row that holds a text, down through lists and mappings."""
    if isinstance(value, str):
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def put(row: dict[str, Any], path: tuple[Any, ...], text: str) -> dict[str, Any]:
    """The row with another text at a place."""
    changed = inner = copy.deepcopy(row)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = text
    return changed


# Of StackExchange's answers the best one's text is read, and no author.
UNREAD_PLACES = {("answers", 1, "text"), ("answers", 0, "author"), ("answers", 1, "author")}
TEXTS = [(family, path) for family, row in ROWS.items() for path in places(row) if path[0] in READ[family] and path not in UNREAD_PLACES]


def test_every_family_is_here():
    assert set(NO_QUESTION) == set(NO_ANSWER) == set(ROWS) == set(families("med42.data.sources"))
    assert all(not isinstance(converted(family, row), ColumnError) for family, row in ROWS.items())


# --- what each converter makes of it --------------------------------------------------------------


@pytest.mark.parametrize(("family", "column"), [(family, column) for family in ROWS for column in READ[family]])
def test_a_missing_column(family, column):
    told = converted(family, {key: value for key, value in ROWS[family].items() if key != column})
    assert isinstance(told, ColumnError) and told.column == column and f"a column '{column}'" in told.expected


@pytest.mark.parametrize("value", WRONG_TYPES, ids=lambda value: ascii(value)[:20])
@pytest.mark.parametrize(("family", "column"), [(family, column) for family in ROWS for column in READ[family]])
def test_a_wrong_type(family, column, value):
    told = converted(family, ROWS[family] | {column: value})
    if isinstance(told, ColumnError):
        assert told.column == column or isinstance(ROWS[family][column], list)
        assert len(told.found) < 500


@pytest.mark.parametrize("value", [3, 1.5, True, b"bytes", ["a"], {"a": "b"}], ids=ascii)
@pytest.mark.parametrize(("family", "path"), TEXTS, ids=str)
def test_no_text_where_one_belongs(family, path, value):
    told = converted(family, put(ROWS[family], path, value))
    if family == "pubhealth" and path == ("label",):  # which may be a class's number
        assert isinstance(told, ColumnError) != (value == 3)
    else:
        assert isinstance(told, ColumnError) and told.column == [key for key in path if isinstance(key, str)][-1]


@pytest.mark.parametrize("family", ROWS)
def test_no_question(family):
    told = converted(family, ROWS[family] | NO_QUESTION[family])
    assert isinstance(told, list) and all(isinstance(result, Dropped) for result in told)


@pytest.mark.parametrize("family", ROWS)
def test_no_answer(family):
    told = converted(family, ROWS[family] | NO_ANSWER[family])
    assert isinstance(told, list) and all(isinstance(result, Dropped) for result in told)


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: ascii(value)[:20])
@pytest.mark.parametrize(("family", "column"), INDICES)
def test_a_nonsense_option(family, column, value):
    told = converted(family, ROWS[family] | {column: value})
    assert (isinstance(told, ColumnError) and told.column == column and len(told.found) < 200) or (
        isinstance(told, list) and all(isinstance(result, Dropped) for result in told))


@pytest.mark.parametrize("role", ["tool", "", None, 3, "System", "user "], ids=ascii)
@pytest.mark.parametrize(("family", "column", "key"), [("ultrachat", "messages", "role"), ("slimorca", "conversations", "from"),
                                                       ("ultramedical", "conversations", "from")])
def test_a_nonsense_speaker(family, column, key, role):
    turns = [dict(turn) for turn in ROWS[family][column]]
    turns[-1][key] = role
    told = converted(family, ROWS[family] | {column: turns})
    assert (isinstance(told, ColumnError) and told.column == key) if role == 3 else isinstance(told[0], Dropped)


@pytest.mark.parametrize(("family", "path"), TEXTS, ids=str)
def test_ten_megabytes(family, path):
    told = converted(family, put(ROWS[family], path, "word " * (LONG // 5)))
    assert not isinstance(told, ColumnError) or len(str(told)) < 500


@pytest.mark.parametrize("filling", [" ", "<", "\n", "?", "a\x00", "&#12;", "<b>"], ids=ascii)
@pytest.mark.parametrize(("family", "path"), TEXTS, ids=str)
def test_no_text_takes_time_that_grows_with_its_square(family, path, filling):
    started = time.monotonic()
    converted(family, put(ROWS[family], path, filling * (LONG // 20 // len(filling))))
    assert time.monotonic() - started < 5  # squared, half a million takes minutes


@pytest.mark.parametrize(("family", "path"), TEXTS, ids=str)
def test_control_characters_go_and_the_row_stays(family, path):
    found: Any = ROWS[family]
    for key in path:
        found = found[key]
    middle = len(found) // 2
    # Not amid a tag or a word that decides, where line ends would split it; those are left by their own test.
    inner = "".join(sign for sign in CONTROLS if sign not in "\r\v\f")
    assert converted(family, put(ROWS[family], path, found[:middle] + inner + found[middle:])) == converted(family, ROWS[family])


@pytest.mark.parametrize(("family", "path"), TEXTS, ids=str)
@pytest.mark.parametrize("text", ["\x00", CONTROLS, f"a{CONTROLS}b", "\x00\ufeff\u0085\u2028\U0010ffff"], ids=ascii)
def test_nothing_but_control_characters(family, path, text):
    converted(family, put(ROWS[family], path, text))


def test_line_ends_are_line_feeds():
    told = converted("meadow", ROWS["meadow"] | {"output": "a\r\nb\rc\vd\fe\tf\ng"})
    assert told[0][1]["content"] == "a\nb\nc\nd\ne\tf\ng"


@pytest.mark.parametrize("text", ["\ud83d", "a \udc00", "\ude00\ud83d", "whole \U0001f600 half \ud83d"], ids=ascii)
@pytest.mark.parametrize(("family", "path"), TEXTS, ids=str)
def test_half_a_character(family, path, text):
    told = converted(family, put(ROWS[family], path, text))
    assert isinstance(told, ColumnError) and told.column == [key for key in path if isinstance(key, str)][-1]


# --- through the stage ----------------------------------------------------------------------------


def asked(family: str) -> tuple[Any, ...]:
    """The place of the text that is asked about."""
    names = ("dialogue", "qtext", "sent1", "question", "inputs", "claim", "value", "content", "input", "QUESTION", "Conversation", "text")
    return next(path for path in places(ROWS[family]) if path[0] in READ[family] and path[-1] in names)


def with_question(family: str, more: str) -> dict[str, Any]:
    """The family's row, with more at the end of its question."""
    path, text = asked(family), ROWS[family]
    for key in path:
        text = text[key]
    for tag in ("[|AI|]", "<|eos|>"):
        if tag in text:
            return put(ROWS[family], path, text.replace(tag, f"{more} {tag}", 1))
    return put(ROWS[family], path, f"{text} {more}")


def staged(tmp_path, family: str, rows: list[Any]) -> tuple[Any, Any]:
    """The stage on a file of these rows: its record or its error, and where it wrote."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"domain": "medical", "family": family, "license": "MIT", "origin": {"kind": "file", "files": ["rows.jsonl"]}}
    recipe = load_recipe("tiny", [f"sources={json.dumps({'x': settings})}", "phi.planted=0"])
    out = tmp_path / "made" / "out"
    out.parent.mkdir()
    try:
        return prepare_source(recipe, "x", out, Job("test", tmp_path / "store", tmp_path / "data")), out
    except Med42Error as error:
        return error, out


def untouched(tmp_path) -> bool:
    """Nothing was left by a stage that failed but what it told, and its lock."""
    left = [path for folder in ("made", "store") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    return all(path.parent.name in ("journal", "locks") for path in left) and not list((tmp_path / "made").iterdir())


@pytest.mark.parametrize("family", ROWS)
def test_mixed_schemas_in_one_file(tmp_path, family):
    column = READ[family][0]
    stranger = {key: value for key, value in ROWS[family].items() if key != column} | {"renamed": 1}
    told, out = staged(tmp_path, family, [ROWS[family], with_question(family, "2"), stranger, ROWS[family]])
    assert isinstance(told, Med42Error) and f"rows.jsonl:3, column '{column}'" in str(told) and family in str(told)
    assert not out.exists() and untouched(tmp_path)


@pytest.mark.parametrize("family", ROWS)
def test_a_wrong_type_after_good_rows(tmp_path, family):
    column = next(column for column in READ[family] if column not in ("image", "metadata", "label"))
    told, out = staged(tmp_path, family, [ROWS[family], ROWS[family] | {column: {"a": 1}}])
    assert isinstance(told, Med42Error) and f"rows.jsonl:2, column '{column}'" in str(told)
    assert not out.exists() and untouched(tmp_path)


@pytest.mark.parametrize("family", ROWS)
def test_what_cannot_be_asked_is_counted(tmp_path, family):
    bad = [ROWS[family] | changes[family] for changes in (NO_QUESTION, NO_ANSWER)]
    told, out = staged(tmp_path, family, [ROWS[family], *bad])
    each = len(converted(family, ROWS[family]))
    account = told.measured["accounts"]["x"]
    assert (account["read"], account["kept"], sum(account["dropped"].values())) == (3 * each, each, 2 * each)
    assert {row["place"] for row in read_shards(out / "dropped")} == {"rows.jsonl:2", "rows.jsonl:3"}


@pytest.mark.parametrize("family", ROWS)
def test_nothing_that_can_be_asked(tmp_path, family):
    told, out = staged(tmp_path, family, [ROWS[family] | NO_QUESTION[family]])
    assert isinstance(told, Med42Error) and "sources.x: found no conversation in 1 rows" in str(told)
    assert not out.exists() and untouched(tmp_path)


@pytest.mark.parametrize("family", ROWS)
def test_half_a_character_is_told_by_file_and_row(tmp_path, family):
    told, out = staged(tmp_path, family, [ROWS[family], with_question(family, "\ud83d")])
    assert isinstance(told, Med42Error) and f"rows.jsonl:2, column '{asked(family)[-1]}'" in str(told) and "surrogate" in str(told)
    assert not out.exists() and untouched(tmp_path)


@pytest.mark.parametrize("family", ROWS)
def test_a_row_of_ten_megabytes_and_one_of_control_characters_go_through(tmp_path, family):
    told, out = staged(tmp_path, family, [with_question(family, "word " * (LONG // 5)), with_question(family, f"a\x00b{CONTROLS}c")])
    account = told.measured["accounts"]["x"]
    assert account["read"] == account["kept"] + sum(account["dropped"].values()) and account["kept"] >= 2
    texts = ["".join(turn["content"] for turn in row["messages"]) for row in read_shards(out, ["messages"])]
    assert max(map(len, texts)) > 0.9 * LONG and not any(set(text) & set(CONTROLS) for text in texts)
