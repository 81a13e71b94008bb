"""An lm-eval model that reads a question's prompt once for all of its answers.

lm-eval's HF model reads prompt and answer again for every answer. Here a question is one row: what its answers have in common
(the prompt, and their own first tokens where these are the same), then each answer's own tokens, which see the common part and
themselves, at the positions that they would have alone:

    row          c0 c1 c2 c3 | a4 a5 | b4 b5 b6          c common, a and b two answers
    positions     0  1  2  3 |  4  5 |  4  5  6
    b5 sees      c0 c1 c2 c3           b4 b5

With a prompt of P tokens and k answers of A tokens that is P + kA tokens instead of k(P + A). Rows are read longest first, as
many at once as a budget of tokens holds, set right: what is scored (the common part's end and the answers) stands at the end of
every row, and the head computes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from med42.errors import Med42Error
from med42.evaluation.questions import Answer, Answered, ByQuestion, Question, Row

WRITTEN_AT_ONCE = 8  # prompts


class SharedPrefixLM(ByQuestion, HFLM):
    """lm-eval's HF model with log-likelihoods by question, equal to its own up to rounding.

    A question too long for the model is scored one answer at a time with the prompt's beginning cut off, as lm-eval does.
    """

    def __init__(self, model: Any, tokenizer: Any, budget: int, answered: Answered | None = None,
                 tell: Callable[[int, int], None] | None = None, device: str = "cpu", part: tuple[int, int] = (0, 1)) -> None:
        """Wrap a loaded causal model.

        Args:
            model: in its number format, on its device, with attention by SDPA.
            tokenizer: its tokenizer.
            budget: tokens that are read at once.
            answered: what an earlier attempt scored.
            tell: called with the questions done and the questions in all.
            device: of the model.
            part: number of this process, and how many share the batches; those of the others are told as 0 and kept by them.

        Raises:
            Med42Error: the model's attention cannot be told who sees whom.
        """
        attention, layers = model.config._attn_implementation, set(getattr(model.config, "layer_types", None) or ())
        if attention != "sdpa" or layers - {"full_attention"}:
            raise Med42Error("model", f"attention by {attention}{', '.join(['', *sorted(layers)])}",
                             "full attention by sdpa, which takes a mask for each row", "Load the model with attn_implementation='sdpa'.")
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=WRITTEN_AT_ONCE, device=device)
        self.written_at_once = WRITTEN_AT_ONCE
        self.longest = self.max_length + 1  # an answer's last token is only predicted
        self.begin(budget, answered, tell, part)

    def score_batch(self, batch: list[Question]) -> list[list[Answer]]:
        """Score some questions, those that fit in rows."""
        fitting = [question for question in batch if question.longest <= self.longest]
        scored = dict(zip(map(id, fitting), self._score_rows(fitting), strict=True)) if fitting else {}
        for question in batch:
            if id(question) not in scored:
                alone = [(None, list(question.prompt), list(answer)) for answer in question.answers]
                scored[id(question)] = HFLM._loglikelihood_tokens(self, alone, disable_tqdm=True)
        return [scored[id(question)] for question in batch]

    def _score_rows(self, questions: list[Question]) -> list[list[Answer]]:
        """Read some questions at once."""
        rows = [question.row for question in questions]
        width = max(len(row.tokens) for row in rows)
        kept = max(len(row.tokens) - row.prompt + 1 for row in rows)  # at the end of every row: from the prompt's last token on
        ids, positions = torch.zeros(2, len(rows), width, dtype=torch.long)
        sees = torch.zeros(len(rows), 1, width, width, dtype=torch.bool)
        for number, row in enumerate(rows):
            pad = width - len(row.tokens)
            ids[number, pad:], positions[number, pad:] = torch.tensor(row.tokens), torch.tensor(row.positions)
            sees[number, 0] = _who_sees_whom(row, width)
        with torch.inference_mode():
            logits = self.model(input_ids=ids.to(self.device), attention_mask=sees.to(self.device), position_ids=positions.to(self.device),
                                logits_to_keep=kept, use_cache=False).logits
        self.tokens_read += sum(len(row.tokens) for row in rows)
        return [self._answers(question, row, logits[number]) for number, (question, row) in enumerate(zip(questions, rows, strict=True))]

    def _answers(self, question: Question, row: Row, logits: torch.Tensor) -> list[Answer]:
        """Sums over the tokens of each answer; logits are [kept, vocabulary], the last one that of the row's last token."""
        # The head's values of every token that predicts something, once and in fp32; then one number for each token of each answer.
        scores = logits[len(logits) - (len(row.tokens) - row.prompt + 1) :].float()
        sizes = [len(answer) for answer in question.answers]
        places = [place - (row.prompt - 1) for number, size in enumerate(sizes) for place in row.predicting(number, size)]
        wanted = torch.tensor([token for answer in question.answers for token in answer], device=logits.device)
        values = (scores[places, wanted] - scores.logsumexp(-1)[places]).cpu()
        greedy = (scores.argmax(-1)[places] == wanted).cpu()
        return [(sum(value.tolist()), bool(same.all())) for value, same in zip(values.split(sizes), greedy.split(sizes), strict=True)]


def _who_sees_whom(row: Row, width: int) -> torch.Tensor:
    """Bool [width, width]: line i says whom token i sees. Padding stands first and sees itself alone: no line may be empty."""
    sees = torch.eye(width, dtype=torch.bool)
    pad = width - len(row.tokens)
    inside = sees[pad:, pad:]
    inside[: row.common, : row.common] = True
    for start, end in zip(row.starts, row.starts[1:], strict=False):
        inside[start:end, : row.common] = True
        inside[start:end, start:end] = True
    return sees.tril_()
