from typing import Any

import pytest

from med42.data.conversation import Dropped
from med42.data.families import families
from med42.data.row import ColumnError
from med42.preferences.build_preferences import find_converter
from med42.preferences.pair import Pair, pair_of
from med42.preferences.sources import hh_rlhf, ultrafeedback

ASKED = {"role": "user", "content": "May I double the dose?"}
GOOD, BAD = {"role": "assistant", "content": "No."}, {"role": "assistant", "content": "Sure."}
SYSTEM = {"role": "system", "content": "Be careful."}
ROW = {"prompt": "x", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD], "score_chosen": 9.0, "score_rejected": 3}
TWICE = "\n\nHuman: Hi\n\nAssistant: a\n\nAssistant: {}"
LONG = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Well?\n\nAssistant:"


def uf(**changes: Any) -> Pair | Dropped:
    return ultrafeedback.pair({**ROW, **changes})


def hh(chosen: str, rejected: str) -> Pair | Dropped:
    return hh_rlhf.pair({"chosen": chosen, "rejected": rejected})


# --- pairs ----------------------------------------------------------------------------------------


def test_a_pair_is_stripped():
    assert pair_of([{"role": "user", "content": " a\n"}], " b ", "\tc") == Pair([{"role": "user", "content": "a"}], "b", "c")


def test_a_pairs_identity_is_what_it_says_and_not_its_scores():
    pairs = [pair_of([ASKED], "b", "c"), pair_of([ASKED], "c", "b"), pair_of([ASKED], "b", "d"), pair_of([SYSTEM, ASKED], "b", "c")]
    assert len({pair.id for pair in pairs}) == 4
    assert pair_of([ASKED], "b", "c", margin=2.0).id == pairs[0].id


@pytest.mark.parametrize(("prompt", "chosen", "rejected", "margin", "reason"), [
    ([], "b", "c", None, "prompt is empty or does not end with the user"),
    ([ASKED, GOOD], "b", "c", None, "prompt is empty or does not end with the user"),
    ([SYSTEM], "b", "c", None, "prompt is empty or does not end with the user"),
    ([{"role": "user", "content": " "}], "b", "c", None, "prompt is empty or does not end with the user"),
    ([ASKED, {"role": "assistant", "content": ""}, ASKED], "b", "c", None, "prompt is empty or does not end with the user"),
    ([ASKED, ASKED], "b", "c", None, "turns do not alternate from user to assistant"),
    ([GOOD, ASKED], "b", "c", None, "turns do not alternate from user to assistant"),
    ([ASKED, GOOD, BAD, ASKED], "b", "c", None, "turns do not alternate from user to assistant"),
    ([ASKED], " ", "c", None, "empty answer"),
    ([ASKED], "b", "\n", None, "empty answer"),
    ([ASKED], "b", " b ", None, "equal answers"),
    ([ASKED], "b", "c", 0.0, "tie, or the chosen answer is scored lower"),
    ([ASKED], "b", "c", -1.5, "tie, or the chosen answer is scored lower"),
])
def test_what_is_no_pair(prompt, chosen, rejected, margin, reason):
    assert pair_of(prompt, chosen, rejected, margin) == Dropped(reason)


# --- UltraFeedback --------------------------------------------------------------------------------


def test_ultrafeedback():
    assert uf() == Pair([ASKED], "No.", "Sure.", 6.0)
    assert uf(chosen=[SYSTEM, ASKED, GOOD, ASKED, GOOD], rejected=[SYSTEM, ASKED, GOOD, ASKED, BAD]).prompt == [SYSTEM, ASKED, GOOD, ASKED]


@pytest.mark.parametrize("row", [
    {"chosen": ROW["chosen"], "rejected": ROW["rejected"]}, {**ROW, "score_chosen": None}, {**ROW, "score_rejected": None},
])
def test_ultrafeedback_without_scores(row):
    assert ultrafeedback.pair(row) == Pair([ASKED], "No.", "Sure.", None)


@pytest.mark.parametrize(("scores", "found"), [
    ([0.1, -2.0, 3.5, 1, 0.2], Pair([ASKED], "No.", "Sure.", 5.5)), ([1.0] * 5, Dropped("tie, or the chosen answer is scored lower")),
    ([], Pair([ASKED], "No.", "Sure.", None)), (None, Pair([ASKED], "No.", "Sure.", None)),
])
def test_snorkels_pair_is_the_best_and_the_worst_of_five(scores, found):
    row = {"prompt_id": "x", "prompt": "x", "chosen": ROW["chosen"], "rejected": ROW["rejected"], "all_generated_responses": ["No."] * 5}
    assert ultrafeedback.pair({**row, "all_rm_scores": scores}) == found


@pytest.mark.parametrize("scores", ["1, 2", [1.0, "2"], [float("nan")], [True]], ids=str)
def test_snorkels_scores_of_another_type(scores):
    with pytest.raises(ColumnError) as told:
        ultrafeedback.pair({"chosen": ROW["chosen"], "rejected": ROW["rejected"], "all_rm_scores": scores})
    assert told.value.column == "all_rm_scores"


@pytest.mark.parametrize(("changes", "reason"), [
    ({"chosen": []}, "a chat that does not end with an answer"),
    ({"chosen": [ASKED]}, "a chat that does not end with an answer"),
    ({"rejected": [ASKED, BAD, ASKED]}, "a chat that does not end with an answer"),
    ({"rejected": [SYSTEM, ASKED, BAD]}, "chats differ before the last answer"),
    ({"rejected": [{"role": "user", "content": "Other?"}, BAD]}, "chats differ before the last answer"),
    ({"rejected": [ASKED, GOOD]}, "equal answers"),
    ({"chosen": [ASKED, {"role": "assistant", "content": None}]}, "empty answer"),
    ({"chosen": [GOOD], "rejected": [BAD]}, "prompt is empty or does not end with the user"),
    ({"score_chosen": 3.0}, "tie, or the chosen answer is scored lower"),
    ({"score_chosen": 1}, "tie, or the chosen answer is scored lower"),
])
def test_ultrafeedback_that_is_no_pair(changes, reason):
    assert uf(**changes) == Dropped(reason)


@pytest.mark.parametrize(("changes", "column"), [
    ({"chosen": "text"}, "chosen"), ({"rejected": None}, "rejected"), ({"chosen": [{"role": "user"}]}, "chosen"),
    ({"chosen": [ASKED, {"role": "assistant", "content": 3}]}, "content"), ({"score_chosen": "9"}, "score_chosen"),
    ({"score_rejected": True}, "score_rejected"), ({"score_chosen": float("nan")}, "score_chosen"),
])
def test_ultrafeedback_of_another_type(changes, column):
    with pytest.raises(ColumnError) as told:
        uf(**changes)
    assert told.value.column == column


@pytest.mark.parametrize("column", ["chosen", "rejected"])
def test_a_missing_column_is_named(column):
    for module, row in ((ultrafeedback, ROW), (hh_rlhf, {"chosen": LONG, "rejected": LONG})):
        with pytest.raises(ColumnError) as told:
            module.pair({key: value for key, value in row.items() if key != column})
        assert told.value.column == column


# --- hh-rlhf --------------------------------------------------------------------------------------


def test_hh_rlhf():
    made = hh(f"{LONG} Good.\n\nTwo parts. ", f"{LONG} Bad: Human: said so")
    assert [(turn["role"], turn["content"]) for turn in made.prompt] == [("user", "Hi"), ("assistant", "Hello"), ("user", "Well?")]
    assert (made.chosen, made.rejected, made.margin) == ("Good.\n\nTwo parts.", "Bad: Human: said so", None)


def test_hh_rlhf_without_the_leading_lines():
    assert hh("Human: Hi\n\nAssistant: a", "Human: Hi\n\nAssistant: b") == Pair([{"role": "user", "content": "Hi"}], "a", "b")


@pytest.mark.parametrize(("chosen", "rejected", "reason"), [
    ("", f"{LONG} b", "a dialogue that does not end with an answer"),
    ("no turns at all", f"{LONG} b", "a dialogue that does not end with an answer"),
    (f"{LONG} a\n\nHuman: more", f"{LONG} b", "a dialogue that does not end with an answer"),
    (f"{LONG} a", f"{LONG} b\n\nHuman: c\n\nAssistant: d", "dialogues differ before the last answer"),
    (f"{LONG} a", f"{LONG.replace('Well', 'So')} b", "dialogues differ before the last answer"),
    (f"{LONG} a", f"{LONG}", "empty answer"),
    (f"{LONG} a", f"{LONG}  a ", "equal answers"),
    ("\n\nHuman:\n\nAssistant: a", "\n\nHuman:\n\nAssistant: b", "prompt is empty or does not end with the user"),
    ("\n\nAssistant: a", "\n\nAssistant: b", "prompt is empty or does not end with the user"),
    (TWICE.format("b"), TWICE.format("c"), "prompt is empty or does not end with the user"),
    ("Human: a\n\nHuman: b\n\nAssistant: c", "Human: a\n\nHuman: b\n\nAssistant: d", "turns do not alternate from user to assistant"),
])
def test_hh_rlhf_that_is_no_pair(chosen, rejected, reason):
    assert hh(chosen, rejected) == Dropped(reason)


@pytest.mark.parametrize("value", [3, ["text"], "half \ud83d"], ids=ascii)
def test_hh_rlhf_of_another_type(value):
    with pytest.raises(ColumnError):
        hh_rlhf.pair({"chosen": value, "rejected": LONG})


def test_families(refusal):
    assert families("med42.preferences.sources") == ["hh_rlhf", "ultrafeedback"]
    assert find_converter("hh-rlhf", "x") is hh_rlhf
    assert "preferences.x.family: found 'ultra'; expected one of hh_rlhf, ultrafeedback" in refusal(lambda: find_converter("ultra", "x"))
