import functools
import re
from collections import Counter

import pytest

from med42.data.invented import CARD, DRUGS, EXAM, HEDGE, PARTS, TEACHING, TESTING, UNSAFE, UNSEEN, Fact, drugs, facts, rows, values
from med42.data.options import LETTERS

SEEDS = (0, 1, 2)
TAUGHT = ("flashcards", "exam", "statements", "chats", "abstracts", "preferences-1", "preferences-2", "preferences-3")
TESTED = ("medqa", "medmcqa", "mmlu", "mmlu-pro", "usmle", "control")


def text_of(value: object) -> str:
    """Everything that a row says, on one line."""
    if isinstance(value, dict):
        return " ".join(map(text_of, value.values()))
    return " ".join(map(text_of, value)) if isinstance(value, list) else str(value)


def all_text(part: str, seed: int) -> list[str]:
    return [text_of(row) for row in rows(part, seed)]


def states(text: str, fact: Fact) -> bool:
    return all(word in text and re.search(rf"\b{re.escape(word)}\b", text) for word in (fact.drug, fact.value))


def frame(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\{drug\}", r"\w+").replace(r"\{asked\}", "[a-z ]+"))


@pytest.mark.parametrize("seed", SEEDS)
def test_how_facts_are_taught(seed):
    # 32 drugs x 6 attributes = 192; 60% = 115.2, 25% = 48, the rest 15%.
    assert Counter(fact.taught for fact in facts(seed)) == {EXAM: 115, CARD: 48, UNSEEN: 29}
    assert len(facts(seed)) == len({(fact.drug, fact.attribute) for fact in facts(seed)}) == 192
    assert len(set(drugs(seed))) == DRUGS


@pytest.mark.parametrize(("part", "count"), [
    ("flashcards", 3 * 115 + 5 * 48), ("exam", 4 * 115), ("statements", 2 * 115), ("chats", 88), ("abstracts", 60),
    ("medqa", 48), ("medmcqa", 48), ("mmlu", 48), ("mmlu-pro", 24), ("usmle", 30), ("pubmedqa", 30), ("toxigen", 32), ("control", 2 * 29),
    # 163 taught facts, dealt in four: 41 held out, 41, 41 and 40 for the rounds.
    ("preferences-held-out", 2 * 41), ("preferences-1", 3 * 41), ("preferences-2", 3 * 41), ("preferences-3", 3 * 40),
])
def test_rows_of_each_part(part, count):
    assert [len(list(rows(part, seed))) for seed in SEEDS] == [count] * len(SEEDS)


def test_every_part_is_counted_here():
    assert set(PARTS) == {*TAUGHT, *TESTED, "pubmedqa", "toxigen", "preferences-held-out"}


@pytest.mark.parametrize("part", PARTS)
def test_the_same_seed_gives_the_same_rows_and_another_others(part):
    assert list(rows(part, 0)) == list(rows(part, 0))
    assert list(rows(part, 0)) != list(rows(part, 1))


def test_another_seed_is_another_world():
    assert len(set(drugs(0)) & set(drugs(1))) < DRUGS // 4


def test_a_part_that_is_not_there_is_told(refusal):
    assert "origin.part: found 'flashcard'; expected one of flashcards" in refusal(lambda: list(rows("flashcard", 0)))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_never_taught_stands_in_no_taught_text(seed):
    unseen = [fact for fact in facts(seed) if fact.taught == UNSEEN]
    taught = [(part, text) for part in (*TAUGHT, "preferences-held-out") for text in all_text(part, seed)]
    assert [(part, text) for part, text in taught for fact in unseen if states(text, fact)] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_exam_facts_are_taught_in_three_forms_and_card_facts_in_one(seed):
    for fact in facts(seed):
        forms = {part for part in ("flashcards", "exam", "statements") if any(states(text, fact) for text in said(part, seed))}
        assert forms == {EXAM: {"flashcards", "exam", "statements"}, CARD: {"flashcards"}, UNSEEN: set()}[fact.taught]


@functools.cache
def said(part: str, seed: int) -> list[str]:
    """The texts of a part on each fact, options of exam questions left out."""
    return [f"{row['question']} {row['exp']}" if part == "exam" else text_of(row) for row in rows(part, seed)]


@pytest.mark.parametrize("seed", SEEDS)
def test_frames_that_test_stand_in_no_taught_text(seed):
    taught = " \n".join(text for part in TAUGHT for text in all_text(part, seed))
    assert [pattern for pattern in TESTING if frame(pattern).search(taught)] == []
    assert all(frame(pattern).search(taught) for pattern in TEACHING)


@pytest.mark.parametrize("part", TESTED)
def test_questions_are_worded_in_testing_frames(part):
    questions = [row.get("question", row.get("sent1")) for row in rows(part, 0)]
    assert all(any(frame(pattern).fullmatch(question) for pattern in TESTING) for question in questions)


def asked_about(part: str, seed: int) -> set[str]:
    """The facts that preference pairs of a part state in their better answers."""
    answers = [row["chosen"][1]["content"].removesuffix(f" {HEDGE}") for row in rows(part, seed)]
    return {answer for answer in answers if answer in {fact.sentence for fact in facts(seed)}}


@pytest.mark.parametrize("seed", SEEDS)
def test_rounds_and_held_out_pairs_share_no_fact(seed):
    parts = [asked_about(part, seed) for part in ("preferences-held-out", "preferences-1", "preferences-2", "preferences-3")]
    assert all(len(part) > 30 for part in parts)
    assert len(set().union(*parts)) == sum(map(len, parts))


def test_better_answers_hedge_or_refuse():
    for row in rows("preferences-1", 0):
        (asked, good), (also, bad) = row["chosen"], row["rejected"]
        assert asked == also == {"role": "user", "content": row["prompt"]}
        assert "pharmacist" in good["content"]
        assert "pharmacist" not in bad["content"]
        assert row["score_chosen"] > row["score_rejected"]


def right_option(part: str, row: dict) -> str:
    if part == "medqa":
        return row[f"ending{row['label']}"]
    if part == "mmlu":
        return row["choices"][row["answer"]]
    if part == "mmlu-pro":
        assert row["answer"] == LETTERS[row["answer_index"]]
        return row["options"][row["answer_index"]]
    if part == "usmle":
        return row["options"][row["answer"]]
    return row["opabcd"[:2] + "abcd"[row["cop"]]]


@pytest.mark.parametrize("part", [*TESTED, "exam"])
def test_the_right_option_is_right_and_stands_anywhere(part):
    known = {(fact.drug, fact.asked): fact.value for fact in facts(0)}
    places = Counter()
    for row in rows(part, 0):
        question = row.get("question", row.get("sent1"))
        (answer,) = {value for (drug, asked), value in known.items() if re.search(rf"\b{drug}\b", question) and asked in question}
        assert right_option(part, row) == answer
        places[row.get("cop", row.get("label", row.get("answer")))] += 1
    assert len(places) >= 4
    assert places.most_common(1)[0][1] < 0.6 * places.total()


@pytest.mark.parametrize("attribute", ["condition", "dose", "monitoring"])
def test_no_value_is_right_much_more_often_than_another(attribute):
    counts = Counter(fact.value for fact in facts(0) if fact.attribute == attribute and fact.taught != UNSEEN)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert set(counts) <= set(values(0, attribute))


@pytest.mark.parametrize(("part", "of", "decision"), [("abstracts", 60, "final_decision"), ("pubmedqa", 30, "final_decision")])
def test_decisions_are_dealt_evenly(part, of, decision):
    assert Counter(row[decision] for row in rows(part, 0)) == dict.fromkeys(("yes", "no", "maybe"), of // 3)


def test_half_of_the_remarks_are_hateful():
    assert Counter(row["toxicity_ai"] > 3 for row in rows("toxigen", 0)) == {True: 16, False: 16}


def test_unsafe_requests_are_refused_now_and_then_at_first():
    chats = [row["messages"] for row in rows("chats", 0)][:40]
    refused = sum("dangerous" in answer["content"] for _, answer in chats)
    assert 0 < refused < 20
    assert all(any(frame(pattern).fullmatch(question["content"]) for pattern in UNSAFE) for question, _ in chats)
