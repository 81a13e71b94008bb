import csv
import gzip
import hashlib
import itertools
import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy
import pytest

from med42.data.decontaminate import words
from med42.data.near_duplicates import LEADERS, NOTHING, NUMBERS, WIDTH, _bands, duplicates_of, signatures
from med42.recipe.schema import Dedup

VOCABULARY = [f"w{number}" for number in range(3_000)]
Row = list[str]


def sets(row: Row) -> tuple[set[tuple], set[tuple]]:
    """The two sets that a row is, word by word: of what stands before its last turn, and of that."""
    pairs = [set(itertools.pairwise([None, *words(turn), None])) if words(turn) else set() for turn in row]
    return set().union(*pairs[:-1]), set().union(*pairs[-1:])


def similarity(first: set, second: set) -> float:
    return len(first & second) / max(1, len(first | second))


def sketched(first: Row, second: Row) -> tuple[float, float]:
    """What the signatures of two rows say of their questions and of their answers."""
    one, other = signatures([first, second])
    question, answer = (one == other).reshape(NUMBERS, 2).mean(axis=0).tolist()
    return question, answer


def key(row: Row) -> int:
    return int.from_bytes(hashlib.sha256(repr(row).encode()).digest()[:8], "big")


def duplicates(folder: Path, rows: list[Row], chosen: list[int] | None = None, **settings: object) -> list[int]:
    dedup = Dedup(**settings)
    signatures(rows).tofile(folder / "signatures")
    places = numpy.arange(len(rows)) if chosen is None else numpy.array(chosen)
    keys, sizes = numpy.array([key(row) for row in rows], dtype=numpy.uint64), numpy.array([sum(map(len, row)) for row in rows])
    return duplicates_of(folder / "signatures", places, keys, sizes, dedup).tolist()


def text(draw: random.Random, size: int) -> str:
    return " ".join(draw.choice(VOCABULARY) for _ in range(size))


def edited(draw: random.Random, line: str, share: float) -> str:
    """A line with a share of its words left out, replaced or followed by another."""
    changed = []
    for word in line.split():
        way = draw.randrange(3) if draw.random() < share else 3
        changed += [[], [draw.choice(VOCABULARY)], [word, draw.choice(VOCABULARY)], [word]][way]
    return " ".join(changed)


# --- signatures -----------------------------------------------------------------------------------


def test_a_signature_knows_neither_case_nor_signs():
    row = ["What is the dose of Dafin?", "The usual dose is 5 units a day, taken with water; éach morning."]
    one, other = signatures([row, [row[0].upper(), row[1].replace(" ", "\n ").replace(";", " -").replace("é", "e\u0301")]])
    assert (one.dtype, one.shape) == (numpy.uint16, (WIDTH,))
    assert (one == other).all()
    assert len(set(one.tolist())) > 50


def test_a_signature_does_not_depend_on_the_rows_beside_it():
    draw = random.Random(0)
    rows = [[text(draw, draw.randrange(30)) for _ in range(draw.randrange(5))] for _ in range(300)]
    rows += [[text(draw, 80_000)], [], ["", ""], ["", "one two three four five six"], ["one two three four five", ""]]
    together = signatures(rows)
    assert all((signatures([row])[0] == one).all() for row, one in zip(rows, together, strict=True))
    assert signatures([]).shape == (0, WIDTH)


def test_an_empty_set_has_no_sketch():
    rows = [[], [""], ["?", "Yes"], ["Yes", ""], ["", "no", "Yes"], ["Yes", "No"]]
    empty = (signatures(rows).reshape(-1, NUMBERS, 2) == NOTHING).all(axis=1).tolist()
    assert empty == [[True, True], [True, True], [True, False], [False, True], [False, False], [False, False]]


@pytest.mark.parametrize("size", [3, 12, 60, 300])
def test_sketches_agree_as_often_as_sets_do(size):
    draw = random.Random(size)
    errors, expected = [], []
    for _ in range(400):
        row = [text(draw, draw.randrange(3, 12)), text(draw, size)]
        share = draw.choice([0.02, 0.05, 0.1, 0.2])
        other = [edited(draw, row[0], share), edited(draw, row[1], share)]
        for mine, theirs, told in zip(sets(row), sets(other), sketched(row, other), strict=True):
            true = similarity(mine, theirs) if mine and theirs else told
            errors.append(told - true)
            expected.append(true * (1 - true) / NUMBERS)
    assert abs(numpy.mean(errors)) < 0.006  # no bias
    assert numpy.sqrt(numpy.mean(numpy.square(errors))) < 1.15 * numpy.sqrt(numpy.mean(expected))


def test_unlike_rows_have_nothing_in_common():
    draw = random.Random(0)
    made = signatures([[f"{text(draw, 4)} x{number}", f"y{number} {text(draw, 100)}"] for number in range(200)])
    assert max((made[0] == other).mean() for other in made[1:]) < 0.05


@pytest.mark.parametrize("least", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_bands_meet_at_the_similarity_asked_for(least):
    bands = _bands(least)
    width, pieces = bands[0].stop - bands[0].start, len(bands)
    assert all(band.stop - band.start == width and band.stop <= WIDTH for band in bands)
    assert 1 - (1 - least**width) ** pieces >= 0.99
    assert [band.start for band in bands] == [width * piece for piece in range(pieces)]


# --- what is found --------------------------------------------------------------------------------


@pytest.fixture
def planted() -> tuple[list[Row], list[Row]]:
    """300 rows, and each again after an edit of 1% of its words and with one more."""
    draw = random.Random(7)
    rows = [[text(draw, draw.randrange(5, 20)), text(draw, draw.randrange(60, 300))] for _ in range(300)]
    return rows, [[row[0], edited(draw, row[1] + " more", 0.01)] for row in rows]


def test_planted_near_duplicates_are_found_and_no_others(planted, tmp_path):
    rows, again = planted
    found = duplicates(tmp_path, rows + again)
    pairs = {(min(place, kept), max(place, kept)) for place, kept in enumerate(found) if kept >= 0}
    assert pairs <= {(number, number + 300) for number in range(300)}
    assert len(pairs) >= 297
    # Of each pair the first in the order of keys is kept.
    assert all(key((rows + again)[kept]) < key((rows + again)[place]) for place, kept in enumerate(found) if kept >= 0)


def test_the_order_of_the_rows_changes_nothing(planted, tmp_path):
    rows = [row for both in planted for row in both]
    shuffled = random.Random(1).sample(rows, len(rows))
    results = []
    for order in (rows, shuffled):
        found = duplicates(tmp_path, order, similarity=0.7)
        results.append({key(order[place]): key(order[kept]) for place, kept in enumerate(found) if kept >= 0})
    assert results[0] == results[1]
    assert len(results[0]) > 290


def test_the_longest_is_kept_where_the_recipe_says_so(planted, tmp_path):
    rows = [row for both in planted for row in both]
    found = duplicates(tmp_path, rows, keep="longest")
    sizes = [sum(map(len, row)) for row in rows]
    gone = [(place, kept) for place, kept in enumerate(found) if kept >= 0]
    assert len(gone) >= 297
    assert all((sizes[kept], -key(rows[kept])) > (sizes[place], -key(rows[place])) for place, kept in gone)


def test_only_the_chosen_rows_are_compared(planted, tmp_path):
    rows, again = planted
    chosen = [*range(0, 300, 2), *range(300, 600, 3)]
    found = duplicates(tmp_path, rows + again, chosen)
    pairs = {tuple(sorted((chosen[place], chosen[kept]))) for place, kept in enumerate(found) if kept >= 0}
    assert pairs <= {(number, number + 300) for number in range(0, 300, 6)}
    assert len(pairs) >= 48


@pytest.mark.parametrize("least", [0.6, 0.8])
def test_kept_rows_are_far_apart_and_the_others_near_to_what_is_kept(least, tmp_path):
    """Chains: each row is an edit of the one before it, so that near to near need not be near."""
    draw = random.Random(3)
    rows: list[Row] = []
    for _ in range(12):
        row = [text(draw, 8), text(draw, 120)]
        for _ in range(25):
            row = [row[0], edited(draw, row[1], 0.04)]
            rows.append(row)
    found, made = duplicates(tmp_path, rows, similarity=least), signatures(rows)

    def alike(one: int, other: int) -> float:
        return float((made[one] == made[other]).reshape(NUMBERS, 2).mean(axis=0).min())

    kept = [place for place, of in enumerate(found) if of < 0]
    gone = [(place, of) for place, of in enumerate(found) if of >= 0]
    assert gone and all(found[of] == -1 and alike(place, of) >= least for place, of in gone)
    # Bands meet in 99 of 100 pairs at the similarity itself, and in more above it.
    near = sum(alike(one, other) >= least for one in kept for other in kept if one < other)
    assert near <= 0.02 * len(gone)
    assert 12 <= len(kept) < len(rows) * 0.8


def test_rows_with_an_empty_set_are_no_duplicates(tmp_path):
    assert duplicates(tmp_path, [["?", "Yes"], ["!", "Yes"], ["", "Yes"], ["Yes"], ["yes"]]) == [-1] * 5
    assert duplicates(tmp_path, []) == []


def test_a_boilerplate_that_all_rows_share_takes_no_quadratic_time(tmp_path, monkeypatch):
    """20,000 rows in the same buckets, none near to another: 200 million pairs, of which few may be looked at."""
    import med42.data.near_duplicates as module

    asked = 0
    similar = module._Signatures.similar

    def counted(self, first, second, least):
        nonlocal asked
        asked += len(first)
        return similar(self, first, second, least)

    monkeypatch.setattr(module._Signatures, "similar", counted)
    draw = numpy.random.default_rng(0)
    made = draw.integers(0, 60_000, (20_000, WIDTH), dtype=numpy.uint16)
    made[:, _bands(0.8)[0]] = 7
    made.tofile(tmp_path / "signatures")
    keys, ones = draw.permutation(20_000).astype(numpy.uint64), numpy.ones(20_000, dtype=numpy.int64)
    found = duplicates_of(tmp_path / "signatures", numpy.arange(20_000), keys, ones, Dedup())
    assert (found == -1).all()
    assert 0 < asked <= 20_000 * LEADERS
    asked, made[:] = 0, made[0]
    made.tofile(tmp_path / "signatures")
    found = duplicates_of(tmp_path / "signatures", numpy.arange(20_000), keys, ones, Dedup())
    assert (found == numpy.argmin(keys)).sum() == 19_999
    assert asked == 19_999


# --- real rows ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def medquad(shared_data: Path) -> list[Row]:
    with gzip.open(shared_data / "medquad.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [[row["question"], row["answer"]] for row in map(json.loads, file)]
    return [list(row) for row in dict.fromkeys(map(tuple, rows))]


EDITS = {
    "re-cased": (lambda draw, row: [row[0].upper(), row[1].title()], 1.0),
    "respaced": (lambda draw, row: [row[0].replace(" ", "  "), "\n\n".join(row[1].split())], 1.0),
    "1% of words": (lambda draw, row: [row[0], edited(draw, row[1], 0.01)], 0.98),
    "2% of words": (lambda draw, row: [row[0], edited(draw, row[1], 0.02)], 0.93),
    "cut after 90%": (lambda draw, row: [row[0], row[1][: len(row[1]) * 9 // 10]], 0.95),
    "sentences in another order": (
        lambda draw, row: [row[0], " ".join(draw.sample(parts := re.split(r"(?<=[.!?])\s+", row[1]), len(parts)))], 0.65),
}


@pytest.mark.parametrize("how", EDITS)
def test_planted_near_duplicates_of_real_rows_are_found(medquad, how, tmp_path):
    edit, least = EDITS[how]
    draw = random.Random(11)
    rows = draw.sample([row for row in medquad if len(words(row[1])) >= 30], 500)
    found = duplicates(tmp_path, rows + [edit(draw, row) for row in rows])
    pairs = Counter(tuple(sorted((place, kept))) for place, kept in enumerate(found) if kept >= 0)
    assert sum(pairs[number, number + 500] for number in range(500)) >= least * 500


@pytest.mark.parametrize("changed", [0, 1])
def test_one_half_alone_makes_no_duplicate(medquad, changed, tmp_path):
    """The same words said of another disease, or another task about the same text."""
    draw = random.Random(5)
    rows = draw.sample([row for row in medquad if 3 <= len(words(row[0])) <= 9 and len(words(row[1])) >= 30], 500)
    other = [[f"Summarise. {row[0]} Zafinosis?", row[1]] if changed == 0 else [row[0], " ".join(draw.sample(words(row[1]), 20))]
             for row in rows]
    found = duplicates(tmp_path, rows + other)
    assert sum(found[number + 500] == number or found[number] == number + 500 for number in range(500)) <= 10


def test_medquads_templates_do_not_collapse(medquad, tmp_path):
    counts = {}
    for least in (0.8, 0.9):
        counts[least] = sum(kept >= 0 for kept in duplicates(tmp_path, medquad, similarity=least))
    assert len(medquad) == 16_359
    assert 15 < counts[0.8] < 40
    assert 2 <= counts[0.9] < 10


def test_the_two_tasks_of_a_dialogue_are_no_duplicates(shared_data, tmp_path):
    from med42.data.sources.mts_dialog import conversations
    from med42.recipe import load_recipe

    source = load_recipe("open-small").sources["mts-dialog"]
    with (shared_data / "mts_dialog.train.csv").open(encoding="utf-8", newline="") as file:
        rows = [[turn["content"] for turn in made] for row in csv.DictReader(file) for made in conversations(row, source)]
    found = duplicates(tmp_path, rows)
    assert not [place for place in range(0, len(rows), 2) if found[place] == place + 1 or found[place + 1] == place]
