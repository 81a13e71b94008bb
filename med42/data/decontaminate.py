"""Finding benchmark text in training text: exhaustively, by runs of words, against the very rows that will be scored.

A training row leaks in one of three ways, told by how much of the benchmark's question stands in it:

    turn      a turn is the question, or is the question up to its listed options;
    question  the question stands whole in a longer text;
    run       13 words in a row (`mix.overlap_tokens`) of the question or its context stand in the row.

A question of fewer words than a run has to stand whole. One of at least 8 words (`mix.overlap_question`) leaks by itself; a
shorter one with lettered options ("Which of the following is true?") leaks where its right answer stands in the row too, or
where it is a turn by itself; one of fewer than 5 words only as a turn, or with an answer that makes up for what it lacks.
Words that stand in 10 benchmark rows or more (`mix.overlap_common`), such as the 16 of "Which of the following is the most
appropriate next step in the management of this patient?", tell nothing of any one of them: as a run they do not count, and as
a question they need the right answer, however long they are.

Words are runs of letters and digits after Unicode's compatibility decomposition (NFKD), without accents and case. So case,
punctuation, line breaks, ligatures, full-width letters, soft hyphens and no-break spaces hide nothing. Text without spaces
between its words, such as Chinese, is found only where a whole stretch between punctuation marks is the same.

How it is fast: benchmark words get numbers, others 0, and runs of numbers in thousands of rows at once get polynomial hashes
(modulo 2**64), those of 2w words from those of w. A table of bits leaves a few places to look up, and what is looked up is
compared word for word, so a hash never makes a hit.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from med42.recipe.schema import Mix

# A shorter question ("Is it safe?") stands in many innocent texts; it leaks as a turn, or with an answer that makes up for it.
FEWEST_WORDS = 5

STEMS = (2, 4, 8)  # so many of a question's first words are looked for at every place, and the rest where these stand
UNKNOWN, END = 0, 1  # numbers of a word that no benchmark holds, and of the end of a turn or text
BATCH = 400_000  # characters looked at at once: some 65,000 words, whose hashes (8 bytes, five sizes) stay near the core
BASE = 0x9E3779B97F4A7C15  # odd, so that no power of it is 0 modulo 2**64
# An option's mark, in a line of its own or not: "A. ", "(b) ", "3: ".
OPTION = re.compile(r"\s\(?(?:[A-Ja-j]|[1-9])[.):]\s")


@dataclass(frozen=True)
class Hit:
    """Benchmark text in a training row.

    Attributes:
        benchmark: its name.
        item: id of the benchmark row.
        way: `turn`, `question` or `run`.
        words: the shared words, as far as both texts go on alike.
    """

    benchmark: str
    item: str
    way: str
    words: str


# --- words ----------------------------------------------------------------------------------------


class _Folded(dict[int, str]):
    """What becomes of a character outside ASCII, worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", chr(code)).casefold())
        # Marks (accents) and format characters (soft hyphen, zero width) stand inside words, all else between them.
        self[code] = "".join(char if char.isalnum() else "" if unicodedata.category(char)[0] == "M" or unicodedata.category(char) == "Cf"
                             else " " for char in plain)
        return self[code]


_FOLDED = _Folded()
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_LOWER = bytes(byte if byte >= 0x80 else ord(chr(byte).lower()) if chr(byte).isalnum() else 0x20 for byte in range(256))


def spaced(text: str) -> bytes:
    """The words of a text with spaces around them, as UTF-8."""
    if not text.isascii():
        text = _NOT_ASCII.sub(lambda found: found.group().translate(_FOLDED), text)
    return text.encode().translate(_LOWER)


def words(text: str) -> tuple[str, ...]:
    """The words of a text, in the form in which they are compared."""
    return tuple(spaced(text).decode().split())


# --- the index ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Item:
    """What a benchmark row needs beside its question's words.

    Attributes:
        benchmark: its name.
        id: of the row.
        lettered: its options carry letters.
        answer: the words of the right one.
        signs: the right one as it is written, if it has no words ("+").
        start: of its question among the index's words.
        length: of its question, in words.
    """

    benchmark: str
    id: str
    lettered: bool
    answer: tuple[bytes, ...]
    signs: str
    start: int
    length: int


@dataclass(frozen=True)
class _Question:
    """A question that has to stand whole, and the items that ask it. `common`: so many hold it that it tells nothing of one."""

    start: int
    length: int
    items: tuple[int, ...]
    common: bool = False


class Overlap:
    """An index of benchmark rows that training rows are looked up in; pickles as its few arrays."""

    def __init__(self, items: Iterable[dict[str, Any]], mix: Mix) -> None:
        self.run, self.enough, self.common = mix.overlap_tokens, mix.overlap_question, mix.overlap_common
        self._vocabulary: dict[bytes, int] = {b"\x00": END}
        self._spelling: list[bytes] = []
        self._items: list[_Item] = []
        numbers: list[int] = []
        owners: list[int] = []
        # In order of ids: which item a hit names does not depend on the order in which they come.
        for item in sorted(items, key=lambda item: (item["benchmark"], item["id"])):
            right = item["options"][item["right"]].strip()
            answer = tuple(spaced(right).split())
            for place, text in enumerate((item["question"], item["context"] or "")):
                found = [self._vocabulary.setdefault(word, len(self._vocabulary) + 1) for word in spaced(text).split()]
                if place == 0:
                    self._items.append(_Item(item["benchmark"], item["id"], item["lettered"], answer, "" if answer else right,
                                             len(numbers), len(found)))
                numbers += [*found, END]
                owners += [len(self._items) - 1] * (len(found) + 1)
        self._words, self._owners = numpy.array(numbers, dtype=numpy.int32), numpy.array(owners, dtype=numpy.int32)
        self._index_runs()
        self._index_questions()
        self._prepare()

    def __getstate__(self) -> dict[str, Any]:
        prepared = ("_random", "_question_words", "_by_size", "_by_hash", "_tables")
        kept = {name: value for name, value in self.__dict__.items() if name not in prepared}
        return kept | {"_vocabulary": b" ".join(self._vocabulary), "_spelling": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._vocabulary = {word: number for number, word in enumerate(state["_vocabulary"].split(b" "), start=1)}
        self._prepare()

    def search(self, rows: Sequence[Sequence[str]]) -> list[Hit | None]:
        """The first place of each row where benchmark text stands, if any.

        Args:
            rows: the texts of each row's turns.
        """
        found: list[Hit | None] = []
        for batch in batches(rows, BATCH):
            found += self._search(batch)
        return found

    # --- building ---

    def _index_runs(self) -> None:
        """Places of all runs of `run` words inside one text, by hash."""
        hashes = _Hashes(_padded(self._words, self.run), _random(len(self._vocabulary) + 2))
        ends = numpy.concatenate([[0], numpy.cumsum(self._words == END)])
        places = numpy.arange(max(0, len(self._words) - self.run + 1))
        places = places[ends[places] == ends[places + self.run]]
        values = hashes.at(places, self.run)
        order = numpy.argsort(values, kind="stable")
        values, places = values[order], places[order]
        kept = _fewer_items(values, self._owners[places], self.common)
        self._run_hashes, self._run_places = values[kept], places[kept].astype(numpy.int32)

    def _index_questions(self) -> None:
        """Questions that have to stand whole: those without a run of their own."""
        with_run = set(self._run_places.tolist())
        asked: dict[bytes, list[int]] = {}
        for number, item in enumerate(self._items):
            starts = range(item.start, item.start + item.length - self.run + 1)
            if item.length and not any(start in with_run for start in starts):
                asked.setdefault(self._words[item.start : item.start + item.length].tobytes(), []).append(number)
        self._questions = [_Question(self._items[items[0]].start, self._items[items[0]].length, tuple(items)) for items in asked.values()]
        self._prepare()
        longest = max((question.length for question in self._questions), default=0)
        hashes = _Hashes(_padded(self._words, longest), self._random)
        holders: list[set[int]] = [set() for _ in self._questions]
        spelled = self._spelled(0, len(self._words))
        for place, size, value in self._question_places(hashes, len(self._words), numpy.zeros(0, dtype=numpy.int64)):
            for number in self._by_hash[size][value]:
                if spelled[place : place + size] == self._question_words[number]:
                    holders[number].add(int(self._owners[place]))
        self._questions = [
            _Question(question.start, question.length, question.items, len(held) >= self.common)
            for question, held in zip(self._questions, holders, strict=True)
        ]

    def _prepare(self) -> None:
        """What follows from the rest and is not pickled."""
        self._random = _random(len(self._vocabulary) + 2)
        longest = max((question.length for question in self._questions), default=0)
        hashes = _Hashes(_padded(self._words, max(longest, 8)), self._random)
        self._question_words = [self._spelled(question.start, question.length) for question in self._questions]
        self._by_hash: dict[int, dict[int, list[int]]] = {}
        begin: dict[int, list[int]] = {size: [] for size in STEMS}
        for number, question in enumerate(self._questions):
            (value,) = hashes.at(numpy.array([question.start]), question.length).tolist()
            self._by_hash.setdefault(question.length, {}).setdefault(value, []).append(number)
            if question.length > 1:
                begin[_stem(question.length)].append(question.start)
        self._by_size = {size: numpy.array(sorted(values), dtype=numpy.uint64) for size, values in sorted(self._by_hash.items())}
        self._tables = {"run": _Table(self._run_hashes)}
        for size, places in begin.items():
            if places:
                self._tables[f"stem {size}"] = _Table(numpy.unique(hashes.at(numpy.array(places), size)))

    def _spelled(self, start: int, length: int) -> list[bytes]:
        """Words of the index as they are written."""
        if not self._spelling:
            self._spelling = list(self._vocabulary)
        return [self._spelling[number - 1] for number in self._words[start : start + length].tolist()]

    # --- searching ---

    def _search(self, rows: Sequence[Sequence[str]]) -> list[Hit | None]:
        texts = [spaced(text) for row in rows for text in row]
        if not texts:
            return [None] * len(rows)
        split = b" \x00 ".join([*texts, b""]).split()
        longest = max([self.run, 8, *self._by_size])
        numbers = numpy.zeros(len(split) + longest, dtype=numpy.int64)
        numbers[: len(split)] = numpy.fromiter(map(self._vocabulary.get, split, itertools.repeat(UNKNOWN)), numpy.int64, len(split))
        ends = numpy.flatnonzero(numbers == END)
        starts = numpy.concatenate([[0], ends[:-1] + 1])
        hashes = _Hashes(numbers, self._random)
        runs = hashes.everywhere(self.run, len(split))
        places = self._tables["run"].among(runs)
        candidates = [(place, self.run, value) for place, value in zip(places.tolist(), runs[places].tolist(), strict=True)]
        runs_end = len(candidates)
        candidates += self._question_places(hashes, len(split), starts)
        found: list[Hit | None] = [None] * len(rows)
        row_of_turn = numpy.repeat(numpy.arange(len(rows)), [len(row) for row in rows])
        turns = numpy.searchsorted(ends, [place for place, *_ in candidates])
        here = _Row(-1, rows[0], split, starts, ends, 0, 0)
        # The first place first; at the same place the most words first, a run before a question of as many.
        for place, less, number, value in sorted((place, -size, number, value) for number, (place, size, value) in enumerate(candidates)):
            turn = int(turns[number])
            row = int(row_of_turn[turn])
            if found[row] is not None:
                continue
            if row != here.number:
                first = int(row_of_turn.searchsorted(row))
                here = _Row(row, rows[row], split, starts, ends, first, first + len(rows[row]))
            is_run = number < runs_end
            found[row] = self._run_hit(here, turn, place, value) if is_run else self._question_hit(here, turn, place, -less, value)
        return found

    def _question_places(self, hashes: _Hashes, count: int, starts: numpy.ndarray) -> list[tuple[int, int, int]]:
        """Places (with size and hash) whose hash is that of a question; of those of one word at the starts of turns alone."""
        found: list[tuple[int, int, int]] = []
        places = {size: self._tables[name].among(hashes.everywhere(size, count)) for size in STEMS
                  if (name := f"stem {size}") in self._tables}
        for size, known in self._by_size.items():
            where = starts if size == 1 else places[_stem(size)]
            values = hashes.at(where, size)
            same = numpy.flatnonzero(known[numpy.minimum(numpy.searchsorted(known, values), len(known) - 1)] == values)
            found += [(place, size, value) for place, value in zip(where[same].tolist(), values[same].tolist(), strict=True)]
        return found

    def _run_hit(self, here: _Row, turn: int, place: int, value: int) -> Hit | None:
        for at in range(int(numpy.searchsorted(self._run_hashes, numpy.uint64(value))), len(self._run_hashes)):
            if int(self._run_hashes[at]) != value:
                return None
            known = int(self._run_places[at])
            if here.split[place : place + self.run] == self._spelled(known, self.run):
                item = self._items[self._owners[known]]
                return Hit(item.benchmark, item.id, self._way(here, turn, place, item, known), self._shared(here, turn, place, known))
        return None

    def _way(self, here: _Row, turn: int, place: int, item: _Item, known: int) -> str:
        """How much of the question stands around a run of it."""
        first = place - (known - item.start)
        if not item.start <= known < item.start + item.length or first < here.starts[turn]:
            return "run"
        if here.split[first : first + item.length] != self._spelled(item.start, item.length):
            return "run"
        begins = first == here.starts[turn]
        return "turn" if begins and (here.is_turn(turn, item.length) or here.is_before_options(turn, item.length)) else "question"

    def _shared(self, here: _Row, turn: int, place: int, known: int) -> str:
        """The words around a run that go on alike in both texts."""
        first, last, ahead = place, place + self.run, known - place
        while first > here.starts[turn] and first + ahead > 0 and self._spelled(first + ahead - 1, 1) == [here.split[first - 1]]:
            first -= 1
        while last < here.ends[turn] and self._spelled(last + ahead, 1) == [here.split[last]]:
            last += 1
        return here.words(first, last)

    def _question_hit(self, here: _Row, turn: int, place: int, size: int, value: int) -> Hit | None:
        begins = bool(place == here.starts[turn])
        for number in self._by_hash[size][value]:
            question = self._questions[number]
            if (not begins and number in here.refused) or here.split[place : place + size] != self._question_words[number]:
                continue
            before_options = begins and here.is_before_options(turn, size)
            whole = before_options or size >= FEWEST_WORDS
            for item in (self._items[place] for place in question.items):
                if begins and here.is_turn(turn, size):
                    way = "turn"
                elif (not question.common and whole and (size >= self.enough or not item.lettered)) or (
                    item.lettered and (whole or size + len(item.answer) >= FEWEST_WORDS > size > 1) and here.holds(item)
                ):
                    way = "turn" if before_options else "question"
                else:
                    continue
                return Hit(item.benchmark, item.id, way, here.words(place, place + size))
            here.refused.add(number)  # what is refused here is refused wherever it stands within a turn of this row
        return None


def overlap_with(items: Iterable[dict[str, Any]], mix: Mix) -> Overlap:
    """Index benchmark rows (columns `id`, `benchmark`, `question`, `context`, `options`, `right`, `lettered`)."""
    return Overlap(items, mix)


class _Row:
    """A row in a batch: its texts, the batch's words, where its turns start and end among them."""

    def __init__(self, number: int, texts: Sequence[str], split: list[bytes], starts: numpy.ndarray, ends: numpy.ndarray,
                 first: int, last: int) -> None:
        self.number, self.texts, self.split, self.starts, self.ends, self.first, self.last = number, texts, split, starts, ends, first, last
        self.refused: set[int] = set()
        self._joined = b""

    def words(self, first: int, last: int) -> str:
        """Words of the batch."""
        return b" ".join(self.split[first:last]).decode()

    def is_turn(self, turn: int, size: int) -> bool:
        """A turn has so many words."""
        return bool(self.ends[turn] - self.starts[turn] == size)

    def is_before_options(self, turn: int, size: int) -> bool:
        """So many words of a turn are followed by listed options."""
        text = self.texts[turn - self.first]
        return any(len(spaced(text[: found.start()]).split()) == size for found in OPTION.finditer(text))

    def holds(self, item: _Item) -> bool:
        """The row holds the right answer: its words, or its signs."""
        if not item.answer:
            return bool(item.signs) and any(item.signs in text for text in self.texts)
        if not self._joined:
            self._joined = b" %b " % b" ".join(self.split[self.starts[self.first] : self.ends[self.last - 1]])
        return b" %b " % b" ".join(item.answer) in self._joined


# --- hashes ---------------------------------------------------------------------------------------


class _Hashes:
    """Polynomial hashes of runs of words: of 2w words from two of w."""

    def __init__(self, numbers: numpy.ndarray, random: numpy.ndarray) -> None:
        self._of = {1: random[numbers]}
        for size in (1, 2, 4):
            half = self._of[size]
            whole = half * _power(size)
            whole[:-size] += half[size:]
            self._of[2 * size] = whole

    def at(self, places: numpy.ndarray, size: int) -> numpy.ndarray:
        """Of `size` words from each of some places on."""
        value, done = numpy.zeros(len(places), dtype=numpy.uint64), 0
        for piece in _pieces(size):
            value = value * _power(piece) + self._of[piece][places + done]
            done += piece
        return value

    def everywhere(self, size: int, count: int) -> numpy.ndarray:
        """Of `size` words from each of the first `count` places on."""
        first, *others = _pieces(size)
        value, done = self._of[first][:count], first
        for piece in others:
            value = value * _power(piece)
            value += self._of[piece][done : done + count]
            done += piece
        return value


class _Table:
    """Sorted hashes, behind a table of bytes that says of most others that they are not among them."""

    def __init__(self, known: numpy.ndarray) -> None:
        bits = max(10, (16 * len(known)).bit_length())
        self._known, self._shift = known, numpy.uint64(64 - bits)
        self._maybe = numpy.zeros(1 << bits, dtype=bool)
        self._maybe[known >> self._shift] = True

    def among(self, values: numpy.ndarray) -> numpy.ndarray:
        """Places of the values that are among the known."""
        if not len(self._known):
            return numpy.zeros(0, dtype=numpy.int64)
        places = numpy.flatnonzero(self._maybe[values >> self._shift])
        asked = values[places]
        return places[self._known[numpy.minimum(numpy.searchsorted(self._known, asked), len(self._known) - 1)] == asked]


def _random(count: int) -> numpy.ndarray:
    """64 bits for each number, by SplitMix64's finaliser."""
    value = numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(BASE)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> numpy.uint64(shift))) * numpy.uint64(factor)
    return value ^ (value >> numpy.uint64(31))


def _power(exponent: int) -> numpy.uint64:
    return numpy.uint64(pow(BASE, exponent, 1 << 64))


def _pieces(size: int) -> list[int]:
    """Powers of two, at most 8, that add up to a size."""
    return [8] * (size // 8) + [piece for piece in (4, 2, 1) if size & piece]


def _stem(size: int) -> int:
    """How many of a question's first words are looked for at every place."""
    return max(stem for stem in STEMS if stem <= size)


def _padded(numbers: numpy.ndarray, size: int) -> numpy.ndarray:
    return numpy.concatenate([numbers, numpy.zeros(size + 8, dtype=numbers.dtype)])


def _fewer_items(values: numpy.ndarray, owners: numpy.ndarray, most: int) -> numpy.ndarray:
    """Which of some sorted hashes fewer than `most` items hold; owners of equal hashes are in order."""
    if not len(values):
        return numpy.zeros(0, dtype=bool)
    another = numpy.concatenate([[True], values[1:] != values[:-1]])
    holder = another | numpy.concatenate([[True], owners[1:] != owners[:-1]])
    first = numpy.flatnonzero(another)
    return numpy.repeat(numpy.add.reduceat(holder.astype(numpy.int64), first) < most, numpy.diff([*first, len(values)]))


def batches(rows: Sequence[Sequence[str]], most: int) -> Iterator[Sequence[Sequence[str]]]:
    """Rows in their order, of about so many characters at a time."""
    start = size = 0
    for place, row in enumerate(rows):
        size += sum(map(len, row))
        if size >= most:
            yield rows[start : place + 1]
            start, size = place + 1, 0
    if start < len(rows):
        yield rows[start:]
