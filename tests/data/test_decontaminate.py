import gzip
import json
import pickle
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from med42.data.decontaminate import FEWEST_WORDS, OPTION, Hit, Overlap, overlap_with, words
from med42.data.options import answer_text, question_with_options
from med42.recipe.schema import Mix

QUESTION = "Which of these is the usual dose of Dafin in adults with mild renal failure and a fever?"
LETTERED = ("5 units", "10 units", "15 units", "20 units")


def item(question: str, context: str = "", options: tuple[str, ...] | None = None, right: int = 0, number: object = 0,
         benchmark: str = "medqa") -> dict[str, Any]:
    return {"id": f"id-{number}", "benchmark": benchmark, "question": question, "context": context, "lettered": options is not None,
            "options": list(options or ("yes", "no", "maybe")), "right": right}


def index(*items: dict[str, Any], **mix: int) -> Overlap:
    return overlap_with(items, Mix(**mix))


def found(overlap: Overlap, *turns: str) -> Hit | None:
    (hit,) = overlap.search([turns])
    return hit


def way(known: dict[str, Any], *turns: str, **mix: int) -> str | None:
    hit = found(index(known, **mix), *turns)
    return hit.way if hit else None


# --- words ----------------------------------------------------------------------------------------


def test_words_are_letters_and_digits_without_case():
    assert words("The  dose (mg): 5,000.5!\nIt's 日本_x") == ("the", "dose", "mg", "5", "000", "5", "it", "s", "日本", "x")
    assert words(" ,.-_ \x00\x1f") == ()


@pytest.mark.parametrize(("text", "plain"), [
    ("M\u00e9ni\u00e8re\u2019s", "meniere s"),
    ("Me\u0301nie\u0300re\u2019s", "meniere s"),
    ("ef\ufb01cacy \ufb02u", "efficacy flu"),
    ("50\u00a0mg\u2009of\u3000it", "50 mg of it"),
    ("hyper\u00adtension zero\u200bwidth \ufeffmark", "hypertension zerowidth mark"),
    ("\uff24\uff2f\uff33\uff25 \uff15", "dose 5"),
    ("STRASSE Straße", "strasse strasse"),
    ("10 µg, 10 μg", "10 μg 10 μg"),
    ("ΣΊΣΥΦΟΣ σίσυφος", "σισυφοσ σισυφοσ"),
    ("m² H₂O ½", "m2 h2o 1 2"),
    ("“quoted”—and…so", "quoted and so"),
    ("half \ud83d a pair", "half a pair"),
    ("हिन्दी", "हनद"),
], ids=ascii)
def test_unicode_hides_nothing(text, plain):
    assert " ".join(words(text)) == plain


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [
    QUESTION,
    QUESTION.upper(),
    QUESTION.replace(" ", "\n"),
    QUESTION.replace(" ", "\u00a0").replace("a", "\u00e1").replace("fi", "\ufb01"),
    "  " + ", ".join(QUESTION.split()) + "!!!",
    QUESTION.replace(" ", " - "),
    f"A student asks: {QUESTION} Answer: 5 units.",
    f"{'Something else altogether. ' * 50}{QUESTION.lower().rstrip('?')}{' and so on' * 50}",
    " ".join(QUESTION.split()[2:15]),
], ids=range(9))
def test_a_question_is_found(text):
    assert way(item(QUESTION), "before", text, "after")


@pytest.mark.parametrize("text", [
    "", "?", "Which of these is the usual dose of Dafin",
    " ".join(QUESTION.split()[:12]),
    QUESTION.replace("Dafin", "Brelin"),
    " ".join(reversed(QUESTION.split())),
    "Whichofthese" + QUESTION[12:],
    "\x00 \x00",
], ids=range(8))
def test_other_text_is_not_found(text):
    assert way(item(QUESTION), text) is None or text.startswith("Whichofthese")


@pytest.mark.parametrize("run", [1, 5, 13, 30])
def test_exactly_a_run_of_words_leaks(run):
    known = [f"known{number}" for number in range(40)]
    for start in (0, 3, 40 - run):
        part = known[start : start + run]
        hit = found(index(item(" ".join(known)), overlap_tokens=run), f"new {' '.join(part)} new")
        assert hit == Hit("medqa", "id-0", "run", " ".join(part))
        assert run == 1 or not way(item(" ".join(known)), f"new {' '.join(part[:-1])} new {part[-1]}", overlap_tokens=run)


def test_a_run_does_not_go_on_from_turn_to_turn_nor_from_row_to_row():
    half = len(QUESTION) // 2
    overlap = index(item(QUESTION))
    assert overlap.search([[QUESTION[:half], QUESTION[half:]], [QUESTION[:half]], [QUESTION[half:]], []]) == [None] * 4
    assert found(index(item("one two three four five six", context="seven eight nine ten eleven twelve thirteen")),
                 "one two three four five six seven eight nine ten eleven twelve thirteen").way == "question"


def test_a_run_of_the_context_leaks_and_is_told_as_far_as_it_goes():
    context = " ".join(f"c{number}" for number in range(60))
    hit = found(index(item("Does it help?", context)), "so", f"as we know, {context[8:150].upper()} and then")
    assert hit.way == "run"
    assert hit.words in context
    assert len(hit.words.split()) > 30


def test_the_way_tells_how_much_of_the_question_stands():
    assert way(item(QUESTION), QUESTION.upper(), "5 units") == "turn"
    assert way(item(QUESTION), question_with_options(QUESTION, LETTERED[::-1])) == "turn"
    assert way(item(QUESTION), f"Now: {QUESTION}") == "question"
    assert way(item(QUESTION), QUESTION + " Explain.") == "question"
    assert way(item(QUESTION), QUESTION.replace("fever", "cough")) == "run"


def test_a_turn_of_phrase_of_many_items_tells_nothing_of_one():
    stem = "Which of the following is the most appropriate next step in the management of this patient?"
    cases = [f"A man of {age} has had pain in his left knee for {age + 3} days and cannot walk any more since noon. {stem}"
             for age in range(20, 40)]
    known = [item(case, number=number, options=LETTERED) for number, case in enumerate(cases)]
    other = f"A girl has a rash. {stem}"
    assert found(index(*known), other) is None
    assert found(index(*known, overlap_common=21), other).way == "run"
    assert [hit.item for hit in index(*known).search([[case] for case in cases])] == [one["id"] for one in known]
    # An item that is nothing but the phrase needs its answer.
    alone = [*known, item(stem, number="alone", options=LETTERED)]
    assert found(index(*alone), other) is None
    assert found(index(*alone), f"{other} Give 5 units.") == Hit("medqa", "id-alone", "question", " ".join(words(stem)))


# --- short questions ------------------------------------------------------------------------------


def test_a_question_of_enough_words_leaks_by_itself():
    question = "What is the usual dose of Dafin daily?"
    assert len(words(question)) == 8
    known = item(question, options=LETTERED)
    assert way(known, "Tell me: what is the usual dose of dafin daily, please") == "question"
    assert way(known, question + "\nB. 7 units\nA. 6 units") == "turn"
    assert way(known, "What is the usual dose of Brelin daily?") is None
    assert way(known, "What is the usual dose of Dafin?") is None
    assert way(known, "Tell me: what is the usual dose of dafin daily, please", overlap_question=9) is None


STEM = "Which of the following is true?"


@pytest.mark.parametrize(("turns", "expected"), [
    ([STEM + " Dafin heals.", "Yes."], None),
    ([question_with_options(STEM, ["a", "b"]), "A. a"], None),
    ([question_with_options(STEM, ["a", "dafin: is an Osine!"]), "A. a"], "turn"),
    (["Well. " + question_with_options(STEM, ["a", "b"]), "Dafin is an osine"], "question"),
    (["Well. " + STEM, "Dafin is an osinergic"], None),
    ([STEM.upper()], "turn"),
], ids=range(6))
def test_a_short_lettered_question_needs_its_answer(turns, expected):
    assert way(item(STEM, options=("Dafin is an osine", "b", "c")), *turns) == expected


def test_an_answer_of_signs_alone_is_found():
    known = item("What is the charge of sodium?", options=("+", "-"))
    assert way(known, "What is the charge of sodium? It is +") == "question"
    assert way(known, "What is the charge of sodium? It is -") is None


def test_an_unlettered_question_is_judged_alone():
    assert way(item("Does Dafin heal a fever?"), "I ask you: does dafin HEAL a fever, or not?") == "question"
    assert way(item("Does Dafin heal a fever?"), "I ask you: does Dafin heal a cough, or not?") is None


def test_a_very_short_question_is_found_as_a_turn():
    assert len(words("Is Dafin safe?")) < FEWEST_WORDS
    assert way(item("Is Dafin safe?"), "hello", "is dafin SAFE") == "turn"
    assert way(item("Is Dafin safe?"), "Is Dafin safe?\nA) yes\nB) no") == "turn"
    assert way(item("Is Dafin safe?"), "Is Dafin safe? I would like to know.") is None
    assert way(item("Is Dafin safe?", options=LETTERED), "Is Dafin safe?\nA) yes\nB) no") is None
    assert way(item("Is Dafin safe?", options=LETTERED), "Is Dafin safe?\nA) yes\nB) 5 units") == "turn"


def test_a_very_short_question_and_its_answer_need_five_words_together():
    assert way(item("Is Dafin safe?", options=LETTERED), "Well. Is Dafin safe? No, at 5 units.") == "question"
    assert way(item("Is Dafin safe?", options=LETTERED), "Well. Is Dafin safe? No, at 6 units.") is None
    assert way(item("Dafin treats", options=LETTERED), "Well. Dafin treats. No, at 5 units.") is None
    assert way(item("Dafin treats", options=("mild renal failure",)), "Well. Dafin treats mild renal failure.") == "question"
    assert way(item("Dafin", options=("mild renal failure of old",)), "Well. Dafin treats mild renal failure of old.") is None


# --- as a plain search finds ----------------------------------------------------------------------


class Plain:
    """The rules once more, word by word."""

    def __init__(self, items: Iterable[dict[str, Any]], mix: Mix) -> None:
        self.mix = mix
        self.items = sorted(items, key=lambda item: (item["benchmark"], item["id"]))
        self.texts = [[words(item["question"]), words(item["context"])] for item in self.items]
        self.runs: dict[tuple[str, ...], tuple[int, tuple[str, ...], int]] = {}
        holders: dict[tuple[str, ...], set[int]] = {}
        for number, texts in enumerate(self.texts):
            for text in texts:
                for start in range(len(text) - mix.overlap_tokens + 1):
                    run = text[start : start + mix.overlap_tokens]
                    holders.setdefault(run, set()).add(number)
                    self.runs.setdefault(run, (number, text, start))
        self.runs = {run: value for run, value in self.runs.items() if len(holders[run]) < mix.overlap_common}
        self.questions: dict[tuple[str, ...], list[int]] = {}
        for number, (question, _) in enumerate(self.texts):
            runs = {question[start : start + mix.overlap_tokens] for start in range(len(question) - mix.overlap_tokens + 1)}
            if question and not runs & self.runs.keys():
                self.questions.setdefault(question, []).append(number)
        self.common = {
            question for question in self.questions if len(question) > 1
            and sum(any(contains(text, question) for text in texts) for texts in self.texts) >= mix.overlap_common
        }
        self.sizes = sorted({len(question) for question in self.questions}, reverse=True)

    def search(self, row: list[str]) -> tuple[str, str, str] | None:
        for turn in row:
            text = words(turn)
            for start in range(len(text)):
                sizes = sorted({*self.sizes, self.mix.overlap_tokens}, reverse=True)
                for size in sizes:
                    piece = text[start : start + size]
                    if len(piece) < size:
                        continue
                    if size == self.mix.overlap_tokens and piece in self.runs:
                        number, known, place = self.runs[piece]
                        return self.items[number]["benchmark"], self.items[number]["id"], self.way(turn, text, start, number, known, place)
                    for number in self.questions.get(piece, []):
                        if told := self.judge(row, turn, text, start, piece, number):
                            return self.items[number]["benchmark"], self.items[number]["id"], told
        return None

    def way(self, turn: str, text: tuple[str, ...], start: int, number: int, known: tuple[str, ...], place: int) -> str:
        question = self.texts[number][0]
        if known is not question or start < place or text[start - place : start - place + len(question)] != question:
            return "run"
        return "turn" if start == place and (text == question or before_options(turn, question)) else "question"

    def judge(self, row: list[str], turn: str, text: tuple[str, ...], start: int, question: tuple[str, ...], number: int) -> str | None:
        one = self.items[number]
        if text == question:
            return "turn"
        listed = start == 0 and before_options(turn, question)
        answer = words(one["options"][one["right"]])
        answered = one["lettered"] and any(contains(words(text), answer) for text in row) and (
            listed or len(question) >= FEWEST_WORDS or (len(question) + len(answer) >= FEWEST_WORDS and len(question) > 1))
        alone = (listed or len(question) >= FEWEST_WORDS) and (not one["lettered"] or len(question) >= self.mix.overlap_question)
        alone = alone and question not in self.common
        return ("turn" if listed else "question") if alone or answered else None


def contains(text: tuple[str, ...], piece: tuple[str, ...]) -> bool:
    return any(text[start : start + len(piece)] == piece for start in range(len(text) - len(piece) + 1))


def before_options(turn: str, question: tuple[str, ...]) -> bool:
    return any(words(turn[: mark.start()]) == question for mark in OPTION.finditer(turn))


def generated(draw: random.Random) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """Items and rows of so few words that they share all sorts of runs."""
    letters = "pqrstuvwxyz"[: draw.choice([1, 2, 4, 11])]

    def text(longest: int) -> str:
        return " ".join(draw.choice(letters) for _ in range(draw.randrange(longest)))

    items = [item(text(draw.choice([4, 9, 20])), text(draw.choice([1, 30])), draw.choice([None, ("p q", "r"), ("q", "pp", "s t s")]),
                  draw.randrange(2), number, draw.choice(["medqa", "pubmedqa"])) for number in range(draw.randrange(1, 25))]
    pieces = [one["question"] for one in items] + [one["context"] for one in items] + ["A. p q", "(b) s t s", "n e w"]
    rows = [[draw.choice([" ", "\n", ", "]).join(draw.choice([draw.choice(pieces), text(12)]) for _ in range(draw.randrange(4)))
             for _ in range(draw.randrange(4))] for _ in range(60)]
    return items, rows


@pytest.mark.parametrize("seed", range(60))
def test_as_a_plain_search_finds(seed):
    draw = random.Random(seed)
    items, rows = generated(draw)
    mix = Mix(overlap_tokens=draw.choice([1, 3, 5, 8, 13, 17]), overlap_question=draw.choice([1, 5, 8]),
              overlap_common=draw.choice([1, 2, 3, 10]))
    plain = Plain(items, mix)
    expected = [plain.search(row) for row in rows]
    draw.shuffle(items)
    overlap = overlap_with(items, mix)
    for searched in (overlap, pickle.loads(pickle.dumps(overlap))):
        assert [hit and (hit.benchmark, hit.item, hit.way) for hit in searched.search(rows)] == expected
    assert [overlap.search([row])[0] for row in rows] == overlap.search(rows)


def test_there_is_something_to_find_in_generated_rows():
    ways = []
    for seed in range(60):
        items, rows = generated(random.Random(seed))
        ways += [hit and hit.way for hit in overlap_with(items, Mix(overlap_tokens=5)).search(rows)]
    assert all(ways.count(one) > 100 for one in ("run", "question", "turn", None))


def test_without_benchmarks_or_rows_nothing_is_found():
    assert overlap_with([], Mix()).search([["some", "text"], []]) == [None, None]
    assert index(item(QUESTION)).search([]) == []
    assert index(item(QUESTION)).search([[]]) == [None]
    assert index(item(QUESTION)).search([[""], ["", ""]]) == [None, None]


# --- real rows ------------------------------------------------------------------------------------


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def pubmedqa(shared_data: Path) -> list[dict[str, Any]]:
    """The benchmark's 500 rows as items."""
    return [item(row["QUESTION"], "\n".join(row["CONTEXTS"]), number=row["pubid"], benchmark="pubmedqa")
            for row in lines(shared_data / "pubmedqa_labeled.test.jsonl.gz")]


@pytest.fixture(scope="module")
def real(shared_data: Path) -> dict[str, list[list[str]]]:
    """Real training rows, by source."""
    return {
        "medquad": [[row["question"], row["answer"]] for row in lines(shared_data / "medquad.jsonl.gz")],
        "meadow": [[f"{row['instruction']}\n{row['input']}", row["output"]]
                   for row in lines(shared_data / "medical_meadow_small.jsonl.gz")],
        "pubmedqa": [["\n".join([*row["CONTEXTS"], row["QUESTION"]]), row["LONG_ANSWER"]]
                     for row in lines(shared_data / "pubmedqa_labeled.train.jsonl.gz")],
    }


def exam_items(rows: list[list[str]]) -> list[dict[str, Any]]:
    """Multiple-choice items made of invented and of real words: questions of 3 to 40 words, options of 1 to 8."""
    draw = random.Random(0)
    texts = [answer.split() for _, answer in rows if len(answer.split()) > 60]
    items = []
    for number in range(600):
        text, length = draw.choice(texts), draw.choice([3, 5, 7, 8, 10, 12, 13, 20, 40])
        # A word in three is another's, so that no question stands in the real rows already.
        asked = [draw.choice(draw.choice(texts)) if place % 3 == 1 else text[place] for place in range(length - 1)] + [f"Zafin{number}?"]
        options = tuple(" ".join(draw.choice(texts)[: draw.randrange(1, 9)]) + f" x{number}y{place}" for place in range(4))
        items.append(item(" ".join(asked), "", options, draw.randrange(4), number, "medmcqa"))
    return items


def planted(known: dict[str, Any], row: list[str], draw: random.Random) -> dict[str, list[str]]:
    """A real row with an item put in, in several ways."""
    options = known["options"] if known["lettered"] else []
    asked = question_with_options(known["question"], options)
    answer = answer_text(known["options"], known["right"])
    other = draw.sample(options, len(options))
    question, text = row[0], row[1]
    cut = text.find(" ", len(text) // 2)
    return {
        "verbatim": [asked, answer],
        "re-cased": [asked.upper(), answer.swapcase()],
        "re-ordered": [question_with_options(known["question"], other), answer],
        "respaced": [asked.replace(" ", "\u00a0\n"), answer.replace(" ", " - ")],
        "embedded": [question, f"{text[:cut]} {asked.lower()} {answer} {text[cut:]}"],
        "in one line": [f"{question} {' '.join(asked.split())} ({answer})", text],
    }


@pytest.mark.parametrize("how", ["verbatim", "re-cased", "re-ordered", "respaced", "embedded", "in one line"])
def test_every_planted_leak_is_found_among_real_rows(pubmedqa, real, how):
    rows = real["medquad"]
    items = pubmedqa + exam_items(rows)
    overlap, draw = overlap_with(items, Mix()), random.Random(1)
    leaked = [planted(known, draw.choice(rows), draw)[how] for known in items]
    missed = [known["question"] for known, hit in zip(items, overlap.search(leaked), strict=True) if hit is None or hit.item != known["id"]]
    # One real question has three words, and no lettered answer: it is found as a turn, or by its abstract.
    assert missed == (["Is halofantrine ototoxic?"] if how in ("embedded", "in one line") else [])


def test_a_planted_abstract_is_found_without_its_question(pubmedqa, real):
    overlap = overlap_with(pubmedqa, Mix())
    leaked = [[row[0], f"{row[1]} {known['context'].upper()}"] for known, row in zip(pubmedqa, real["medquad"], strict=False)]
    assert [hit and hit.item for hit in overlap.search(leaked)] == [known["id"] for known in pubmedqa]


def test_pubmedqas_test_rows_stand_in_no_real_training_row(pubmedqa, real):
    overlap = overlap_with(pubmedqa, Mix())
    hits = {name: [hit for hit in overlap.search(rows) if hit] for name, rows in real.items()}
    assert {name: len(found) for name, found in hits.items()} == {"medquad": 0, "meadow": 0, "pubmedqa": 0}


def test_many_rows_are_searched_in_little_time(pubmedqa, real):
    overlap, rows = overlap_with(pubmedqa, Mix()), real["medquad"]
    count = sum(len(words(text)) for row in rows for text in row)
    started = time.process_time()
    overlap.search(rows)
    assert count / (time.process_time() - started) > 1_500_000  # a third of what one core of a plain machine does
    assert len(pickle.dumps(overlap)) < 4_000_000
