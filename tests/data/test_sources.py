from typing import Any

import pytest

from med42.data.conversation import Dropped, checked, conversation, row_digest
from med42.data.prepare_source import families, find_converter
from med42.data.row import ColumnError
from med42.recipe import load_recipe
from med42.recipe.schema import Source

SYSTEM = "You are careful."
ROWS: dict[str, dict[str, Any]] = {
    "meadow": {"instruction": " Answer truthfully ", "input": "What is asthma?", "output": " A disease. "},
    "medmcqa": {"question": "Which is right?", "opa": "one", "opb": " two ", "opc": "three", "opd": "four", "cop": 1},
    "medquad": {"question": "What is (are)  Asthma ?", "answer": "Key Points\n      - A   disease.\t\tOf  airways. \n \n End"},
    "mts_dialog": {"ID": "0", "section_header": "GENHX", "section_text": "A cough.", "dialogue": "Doctor: Hello. \nPatient: I cough."},
    "pubmedqa": {"QUESTION": "Does it help?", "CONTEXTS": ["We gave it. ", "It helped."], "final_decision": "yes",
                 "LONG_ANSWER": "It did."},
    "ultrachat": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
}
TEXT_COLUMNS = [
    ("meadow", "instruction"), ("meadow", "input"), ("meadow", "output"), ("medmcqa", "question"), ("medmcqa", "opa"), ("medmcqa", "opd"),
    ("medquad", "question"), ("medquad", "answer"), ("mts_dialog", "ID"), ("mts_dialog", "section_header"), ("mts_dialog", "section_text"),
    ("mts_dialog", "dialogue"), ("pubmedqa", "QUESTION"), ("pubmedqa", "final_decision"), ("pubmedqa", "LONG_ANSWER"),
]


def source(family: str, system: str | None = None) -> Source:
    origin = {"kind": "file", "files": ["rows.jsonl"]}
    return Source(domain="medical", family=family, origin=origin, license="x", system=system)


def results(family: str, system: str | None = None, **changes: Any) -> list[Any]:
    row = {**ROWS[family], **changes}
    return list(find_converter(family, "sources.x").conversations(row, source(family, system)))


def only(family: str, **changes: Any) -> Any:
    (result,) = results(family, **changes)
    return result


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in zip(("user", "assistant") * len(contents), contents, strict=False)]


# --- every family ---------------------------------------------------------------------------------


def test_every_converter_is_tested_here():
    assert set(ROWS) == set(families())


@pytest.mark.parametrize("family", ROWS)
def test_the_recipes_name_families_by_module(family):
    assert all(source.family in ROWS for source in load_recipe("tiny").sources.values())
    assert find_converter(family.replace("_", "-"), "sources.x") is find_converter(family, "sources.x")


def test_a_family_that_is_not_there_is_told(refusal):
    told = refusal(lambda: find_converter("medqua", "sources.x"))
    assert "sources.x.family: found 'medqua'" in told
    assert all(family in told for family in families())


@pytest.mark.parametrize(("family", "column"), [(family, column) for family, row in ROWS.items() for column in row])
def test_a_missing_column_names_those_that_are_there(family, column):
    row = {key: value for key, value in ROWS[family].items() if key != column} | {"other": 1}
    with pytest.raises(ColumnError) as told:
        list(find_converter(family, "sources.x").conversations(row, source(family)))
    assert told.value.column == column
    assert "other" in told.value.found


@pytest.mark.parametrize(("family", "column"), TEXT_COLUMNS)
@pytest.mark.parametrize("value", [3, ["a"], {"a": "b"}, True, "half \ud83d"], ids=ascii)
def test_a_column_that_holds_no_text_is_refused(family, column, value):
    with pytest.raises(ColumnError) as told:
        results(family, **{column: value})
    assert told.value.column == column


@pytest.mark.parametrize("family", ROWS)
def test_columns_besides_change_nothing(family):
    assert results(family, more=1, **{"exp": None}) == results(family)


@pytest.mark.parametrize("family", ROWS)
def test_a_system_turn_is_put_first(family):
    for plain, led in zip(results(family), results(family, SYSTEM), strict=True):
        assert led == [{"role": "system", "content": SYSTEM}, *plain]


# --- each family ----------------------------------------------------------------------------------


def test_meadow():
    assert only("meadow") == turns("Answer truthfully\n\nWhat is asthma?", "A disease.")
    assert only("meadow", instruction="") == only("meadow", instruction=None) == turns("What is asthma?", "A disease.")
    assert only("meadow", input=" ") == turns("Answer truthfully", "A disease.")


@pytest.mark.parametrize(("changes", "reason"), [
    ({"instruction": None, "input": ""}, "empty user turn"), ({"output": "  "}, "empty assistant turn"),
    ({"output": None}, "empty assistant turn"),
])
def test_meadow_without_a_turn(changes, reason):
    assert only("meadow", **changes) == Dropped(reason)


def test_medmcqa():
    expected = turns("Which is right?\nA. one\nB. two\nC. three\nD. four", "B. two")
    assert only("medmcqa") == only("medmcqa", cop="1") == only("medmcqa", cop=" 1 ") == expected
    assert only("medmcqa", cop=0)[1]["content"] == "A. one"


@pytest.mark.parametrize(("changes", "reason"), [
    ({"cop": 4}, "option index is out of range"), ({"cop": -1}, "option index is out of range"),
    ({"cop": "-1"}, "option index is out of range"),
    ({"opc": ""}, "empty option"), ({"opc": None}, "empty option"), ({"opa": " \n"}, "empty option"),
    ({"question": ""}, "empty question"), ({"question": None}, "empty question"),
])
def test_medmcqa_that_cannot_be_asked(changes, reason):
    assert only("medmcqa", **changes) == Dropped(reason)


@pytest.mark.parametrize("value", [None, "", "B", 1.0, True, [1], "1.0", "--1", "-", "\u00b2", "1e3", "1_0", "9" * 5000],
                         ids=lambda value: ascii(value)[:20])
def test_an_index_that_is_no_whole_number_is_refused(value):
    with pytest.raises(ColumnError, match="a whole number") as told:
        results("medmcqa", cop=value)
    assert told.value.column == "cop"


def test_medquad_loses_the_pages_layout():
    assert only("medquad") == turns("What is (are)  Asthma?", "Key Points\n- A disease. Of airways.\n\nEnd")


@pytest.mark.parametrize(("changes", "reason"), [({"answer": None}, "empty assistant turn"), ({"question": " "}, "empty user turn")])
def test_medquad_without_a_turn(changes, reason):
    assert only("medquad", **changes) == Dropped(reason)


def test_mts_dialog_asks_for_header_and_summary():
    header, summary = results("mts_dialog")
    dialogue = "Doctor: Hello. \nPatient: I cough."
    assert (header[1]["content"], summary[1]["content"]) == ("GENHX", "A cough.")
    assert header[0]["content"].endswith(f"\n\n{dialogue}")
    assert summary[0]["content"].endswith(f"\n\n{dialogue}")
    assert header[0] != summary[0]
    assert results("mts_dialog") == [header, summary]


def test_mts_dialog_is_worded_in_several_ways():
    asked = {tuple(result[0]["content"].split("\n")[0] for result in results("mts_dialog", ID=str(number))) for number in range(40)}
    assert len(asked) == 9


def test_mts_dialog_accounts_for_both_candidates():
    assert results("mts_dialog", dialogue=" ") == [Dropped("empty dialogue")] * 2
    header, summary = results("mts_dialog", section_text="")
    assert header[1]["content"] == "GENHX"
    assert summary == Dropped("empty assistant turn")


def test_pubmedqa():
    asked = "Abstract: We gave it.\nIt helped.\n\nQuestion: Does it help?\nAnswer with yes, no or maybe."
    assert only("pubmedqa") == only("pubmedqa", final_decision=" Yes ") == turns(asked, "yes. It did.")
    assert only("pubmedqa", LONG_ANSWER=None) == turns(asked, "yes.")


@pytest.mark.parametrize(("changes", "reason"), [
    ({"final_decision": "perhaps"}, "decision is not yes, no or maybe"), ({"final_decision": None}, "decision is not yes, no or maybe"),
    ({"QUESTION": " "}, "empty question"),
])
def test_pubmedqa_that_cannot_be_asked(changes, reason):
    assert only("pubmedqa", **changes) == Dropped(reason)


@pytest.mark.parametrize("value", [None, "one text", [1], [None], [["a"]], ["half \ud83d"]], ids=ascii)
def test_pubmedqa_contexts_are_texts(value):
    with pytest.raises(ColumnError) as told:
        results("pubmedqa", CONTEXTS=value)
    assert told.value.column == "CONTEXTS"


def test_ultrachat_keeps_the_turns_and_leaves_off_an_unanswered_one():
    whole = turns("Hi", "Hello", "How?", "So")
    assert only("ultrachat", messages=whole) == whole
    assert only("ultrachat", messages=[*whole, *turns("And?"), *turns("Well?")]) == whole
    led = [{"role": "system", "content": "Its own."}, *whole]
    assert results("ultrachat", SYSTEM, messages=led) == [led]


@pytest.mark.parametrize(("messages", "reason"), [
    ([], "turns do not alternate from user to assistant"),
    (turns("Hi"), "turns do not alternate from user to assistant"),
    ([{"role": "system", "content": "Its own."}], "turns do not alternate from user to assistant"),
    (turns("Hi", "Hello")[::-1], "turns do not alternate from user to assistant"),
    ([*turns("Hi"), *turns("Hi", "Hello")], "turns do not alternate from user to assistant"),
    ([*turns("Hi", "Hello"), *turns("Hi", "Hello")[1:]], "turns do not alternate from user to assistant"),
    ([{"role": "human", "content": "Hi"}, {"role": "gpt", "content": "Hello"}], "turns do not alternate from user to assistant"),
    (turns("", "Hello"), "empty user turn"),
    (turns("Hi", " "), "empty assistant turn"),
    ([{"role": "user", "content": None}, {"role": "assistant", "content": "Hello"}], "empty user turn"),
])
def test_ultrachat_that_is_no_conversation(messages, reason):
    assert only("ultrachat", messages=messages) == Dropped(reason)


@pytest.mark.parametrize("value", [
    None, "Hi", ["Hi"], [{"role": "user"}], [{"from": "human", "value": "Hi"}], [{"role": 1, "content": "Hi"}],
    [{"role": "user", "content": ["Hi"]}],
], ids=str)
def test_ultrachat_messages_are_turns(value):
    with pytest.raises(ColumnError):
        results("ultrachat", messages=value)


# --- conversations --------------------------------------------------------------------------------


def test_a_conversation_is_stripped():
    assert conversation(" a\n", "\tb ") == turns("a", "b")
    assert conversation("a", "b", "c") == [{"role": "system", "content": "c"}, *turns("a", "b")]
    assert conversation("a", "b", "") == turns("a", "b")
    assert checked([]) == Dropped("turns do not alternate from user to assistant")


def test_a_rows_identity_is_what_it_says():
    several = [turns("a", "b"), turns("a", "c"), turns("ab", ""), [{"role": "system", "content": "s"}, *turns("a", "b")]]
    assert len(set(map(row_digest, several))) == 4
    assert row_digest(turns("a", "b")) == row_digest([dict(reversed(turn.items()), more=1) for turn in turns("a", "b")])
