import random

import pytest

from med42.data.decontaminate import FEWEST_WORDS, Overlap, overlap_with, words

QUESTION = "Which of these is the usual dose of Dafin in adults with mild renal failure and a fever?"
SHORT = "Is Dafin safe?"


def index(*texts: str, run: int = 13) -> Overlap:
    overlap = Overlap(run)
    overlap.add("medqa", texts)
    return overlap


def leaks(question: str, text: str, run: int = 13) -> bool:
    return index(question, run=run).leak([text]) == "medqa"


def test_words_are_letters_and_digits_in_lower_case():
    assert words("The  dose (mg): 5,000.5!\nIt's É, 日本_x") == ("the", "dose", "mg", "5", "000", "5", "it", "s", "é", "日本", "x")
    assert words(" ,.-_ ") == ()


@pytest.mark.parametrize("text", [
    QUESTION,
    QUESTION.upper(),
    QUESTION.replace(" ", "\n"),
    "  " + ", ".join(QUESTION.split()) + "!!!",
    QUESTION.replace(" ", " - "),
    f"A student asks: {QUESTION} Answer: 5 units.",
    f"{'Something else altogether. ' * 50}{QUESTION.lower().rstrip('?')}{' and so on' * 50}",
    " ".join(QUESTION.split()[2:15]),
], ids=range(8))
def test_a_question_is_found(text):
    assert leaks(QUESTION, text)


@pytest.mark.parametrize("text", [
    "", "?", "Which of these is the usual dose of Dafin",
    " ".join(QUESTION.split()[:12]),
    QUESTION.replace("Dafin", "Brelin"),
    " ".join(reversed(QUESTION.split())),
    "Whichofthese" + QUESTION[12:14],
], ids=range(7))
def test_other_text_is_not_found(text):
    assert not leaks(QUESTION, text)


def test_a_question_shorter_than_the_run_is_found_whole():
    question = "What is the usual dose of Dafin?"
    assert leaks(question, "Tell me: what is the usual dose of dafin, please")
    assert not leaks(question, "What is the usual dose of Brelin?")
    assert not leaks(question, "What is the usual dose of")


def test_a_short_question_is_found_only_as_a_whole_turn():
    assert len(words(SHORT)) < FEWEST_WORDS
    assert leaks(SHORT, "is dafin SAFE")
    assert not leaks(SHORT, "Is Dafin safe? I would like to know.")


def test_a_question_of_the_fewest_words_is_found_within_a_text():
    question = "Is Dafin safe in pregnancy"
    assert len(words(question)) == FEWEST_WORDS
    assert leaks(question, "I ask you: is Dafin safe in pregnancy, or not?")


@pytest.mark.parametrize("run", [1, 5, 13, 30])
def test_exactly_a_run_of_words_leaks(run):
    known = [f"known{number}" for number in range(40)]
    for start in (0, 3, 40 - run):
        part = known[start : start + run]
        assert leaks(" ".join(known), f"new {' '.join(part)} new", run)
        assert run == 1 or not leaks(" ".join(known), f"new {' '.join(part[:-1])} new {part[-1]}", run)


@pytest.mark.parametrize("seed", range(20))
def test_as_a_plain_search_finds(seed):
    draw = random.Random(seed)
    known, text = ([draw.choice("abc") for _ in range(draw.randrange(5, 60))] for _ in range(2))
    runs = {tuple(known[start : start + 6]) for start in range(max(1, len(known) - 5))}
    expected = any(tuple(text[start : start + len(run)]) == run for run in runs for start in range(len(text)))
    assert leaks(" ".join(known), " ".join(text), 6) == expected


def test_every_turn_and_every_benchmark_is_looked_at():
    items = [{"benchmark": "medqa", "question": QUESTION, "context": ""},
             {"benchmark": "pubmedqa", "question": SHORT, "context": "word " * 20}]
    overlap = overlap_with(items, 13)
    assert overlap.leak(["nothing", "here"]) is None
    assert overlap.leak(["nothing", f"so: {QUESTION}"]) == "medqa"
    assert overlap.leak([SHORT]) == "pubmedqa"
    assert overlap.leak(["word " * 13]) == "pubmedqa"
    assert overlap.leak([]) is None
    assert overlap.leak([""]) is None
