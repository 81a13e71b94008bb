"""Requests put together by question, answered batch by batch, and kept so that a kill loses one batch at most."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from med42.errors import Med42Error

Answer = tuple[float, bool]  # sum of log-probabilities in nats; whether greedy decoding would say it


@dataclass(frozen=True)
class Row:
    """A question as it is read. The last token of an answer is only predicted, so no row holds it.

    Attributes:
        tokens: common part, then the own tokens of every answer.
        positions: of each token.
        starts: where the own tokens of each answer start, and where the last one's end.
        common: tokens of the common part.
        prompt: tokens of the prompt; what predicts the answers begins with its last one.
    """

    tokens: list[int]
    positions: list[int]
    starts: list[int]
    common: int
    prompt: int

    def predicting(self, answer: int, length: int) -> list[int]:
        """Places of the tokens that predict an answer of some length, one after another."""
        shared = range(self.prompt - 1, min(self.common, self.prompt - 1 + length))
        own = range(self.starts[answer], self.starts[answer] + length - len(shared))
        return [*shared, *own]


@dataclass(frozen=True)
class Question:
    """Requests with one prompt.

    Attributes:
        prompt: its tokens.
        answers: tokens of each answer, at least one each.
        places: where each request stands among all of a call.
    """

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    places: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Tokens of the prompt and the longest answer."""
        return len(self.prompt) + max(map(len, self.answers))

    @cached_property
    def row(self) -> Row:
        """The question as it is read."""
        read = [self.prompt + answer[:-1] for answer in self.answers]
        first, last = min(read), max(read)  # in the order of words, what these two have in common all have
        common = next((place for place, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
        tokens, positions, starts = list(read[0][:common]), list(range(common)), [common]
        for sequence in read:
            tokens += sequence[common:]
            positions += range(common, len(sequence))
            starts.append(len(tokens))
        return Row(tokens, positions, starts, common, len(self.prompt))


def questions_of(requests: Sequence[tuple[Any, Sequence[int], Sequence[int]]]) -> list[Question]:
    """Requests (anything, prompt, answer) by prompt, the longest row first; their order changes nothing."""
    by_prompt: dict[tuple[int, ...], list[tuple[tuple[int, ...], int]]] = defaultdict(list)
    for place, (_, prompt, answer) in enumerate(requests):
        by_prompt[tuple(prompt)].append((tuple(answer), place))
    found = [Question(prompt, *(tuple(part) for part in zip(*sorted(answers), strict=True))) for prompt, answers in by_prompt.items()]
    return sorted(found, key=lambda question: (-len(question.row.tokens), question.prompt))


def batches_of(questions: Sequence[Question], budget: int) -> list[list[Question]]:
    """Questions in their order, as many at once as a budget of tokens holds, padding included; one that is longer goes alone."""
    batches: list[list[Question]] = []
    longest = 0
    for question in questions:
        if batches and (len(batches[-1]) + 1) * longest <= budget:
            batches[-1].append(question)
        else:
            batches.append([question])
            longest = len(question.row.tokens)
    return batches


class Answered:
    """What was scored or written, batch by batch in a file, so that a killed evaluation goes on where it was.

    Batches are the same for the same questions, and one that is not there whole is read again: an evaluation that was killed
    comes to the same bits. A last line that is torn counts as not there.
    """

    def __init__(self, path: Path | None, number: int = 0) -> None:
        """Read what is there.

        Args:
            path: the file; others beside it, whose names begin alike, are those of other processes.
            number: of this process.
        """
        self._path = path.with_name(f"{path.stem}-{number}{path.suffix}") if path and number else path
        self._found: dict[str, Any] = {}
        for file in sorted(path.parent.glob(f"{path.stem}*{path.suffix}")) if path else ():
            content = file.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if whole != content and file == self._path:
                file.write_bytes(whole)
            for line in whole.splitlines():
                told = json.loads(line)
                self._found[told["batch"]] = told["answers"]

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: str) -> Any:
        """The answers of a batch, as they were added to JSON; None where there are none."""
        return self._found.get(key)

    def add(self, key: str, answers: Any) -> None:
        """Keep a batch's answers, on the disk before this returns."""
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as handle:
                handle.write(json.dumps({"batch": key, "answers": answers}) + "\n")
                handle.flush()
                os.fsync(handle.fileno())


class ByQuestion:
    """What a model class of lm-eval becomes when requests are scored by question; stands before that class among the parents.

    Like lm-eval, but for one thing: where a tokenizer merges the end of the prompt with the beginning of an answer, lm-eval scores tokens
    that the text does not have. Here that is refused.

    Attributes:
        score_batch: scores some questions at once; what a child gives.
        budget: tokens of a batch.
        tell: called with the questions done and the questions in all.
        part: number of this process, and how many share the batches; those of the others are told as 0 and kept by them.
        tokens_read: tokens that were read so far, without padding.
        found: batches that were there already.
        cut: questions longer than the model reads, whose prompt's beginning is cut off, as lm-eval does.
        longest: tokens of prompt and answer that the model reads.
        written_at_once: prompts that the model writes an answer to at once.
    """

    score_batch: Callable[[list[Question]], list[list[Answer]]]
    tokenizer: Any
    tok_encode: Callable[..., Any]
    cache_hook: Any
    longest: int
    written_at_once: int

    def begin(self, budget: int, answered: Answered | None, tell: Callable[[int, int], None] | None,
              part: tuple[int, int] = (0, 1)) -> None:
        """Start the counts; to be called when lm-eval's class is there."""
        self.budget, self.tell, self.part = budget, tell, part
        self.answered = Answered(None) if answered is None else answered
        self.tokens_read = self.cut = self.found = 0
        self._last_context: tuple[str, list[int]] = ("", [])

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of prompt and answer; white space at the prompt's end counts to the answer, as in lm-eval.

        Raises:
            Med42Error: the tokenizer merges across the boundary, or sees nothing in the answer.
        """
        stripped = context.rstrip()
        continuation = context[len(stripped) :] + continuation
        if self._last_context[0] != stripped:
            self._last_context = (stripped, self.tok_encode(stripped))
        prompt = self._last_context[1]
        whole = self.tok_encode(stripped + continuation)
        if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
            end, begin = self.tokenizer.decode(prompt[-1:]), self.tokenizer.decode(whole[len(prompt) - 1 : len(prompt) + 1])
            raise Med42Error("tokenizer", f"a prompt that ends in {end!r} alone and in {begin!r} before the answer {continuation!r}",
                             "the same tokens of a prompt with and without its answer",
                             "The likelihood of such an answer is not defined; choose a chat template that ends with a control token.")
        return prompt, whole[len(prompt) :]

    def _loglikelihood_tokens(self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False,
                              override_bs: int | None = None) -> list[Answer]:
        """Score (texts, prompt tokens, answer tokens) and return them in their order."""
        told: list[Answer | None] = [None] * len(requests)
        questions = questions_of(requests)
        batches, done = batches_of(questions, self.budget), 0
        for number, batch in enumerate(batches):
            key = _key([(question.prompt, question.answers) for question in batch])
            scored = self.answered.get(key)
            self.found += scored is not None
            if scored is not None:
                scored = [[(float(value), bool(greedy)) for value, greedy in answers] for answers in scored]
            elif number % self.part[1] != self.part[0]:
                scored = [[(0.0, False)] * len(question.answers) for question in batch]
            else:
                scored = self.score_batch(batch)
                self.answered.add(key, scored)
            for question, answers in zip(batch, scored, strict=True):
                self.cut += question.longest > self.longest
                for place, answer in zip(question.places, answers, strict=True):
                    told[place] = answer
                    if requests[place][0] is not None:
                        self.cache_hook.add_partial("loglikelihood", requests[place][0], answer)
            done += len(batch)
            if self.tell:
                self.tell(done, len(questions))
        return [answer for answer in told if answer is not None]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Let the model write, the longest prompts first, as many at once as lm-eval's class takes; in the requests' order."""
        order = sorted(range(len(requests)), key=lambda place: (-len(requests[place].args[0]), requests[place].args[0]))
        told, size = [""] * len(requests), self.written_at_once
        for first in range(0, len(order), size):
            batch = [requests[place] for place in order[first : first + size]]
            key = _key([request.args for request in batch])
            texts = self.answered.get(key)
            if texts is None:
                texts = super().generate_until(batch, disable_tqdm=True)  # type: ignore[misc]
                self.answered.add(key, texts)
            for place, text in zip(order[first : first + size], texts, strict=True):
                told[place] = text
        return told


def _key(asked: Any) -> str:
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
