"""A model that a server of OpenAI's completions holds, as vLLM's does, scored through lm-eval's own `local-completions`.

A prompt and its answer go as token ids, and the server echoes them with the log-probability of each. It reads the prompt again for every
answer, as lm-eval's models do. That the server holds the model that is to be scored no answer proves: so some questions are scored by the
model's own weights too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.models.utils import has_bos_prefix, resolve_max_length
from transformers import AutoConfig, AutoTokenizer

from med42.data.completions import ask, choices_of
from med42.errors import Med42Error
from med42.evaluation.answers import all_answers
from med42.evaluation.questions import Answer, Answered, ByQuestion, Question
from med42.recipe.schema import AnswerForm, ServerScorer

KEY = "evaluation.server"


class ServerLM(ByQuestion, LocalCompletionsAPI):
    """lm-eval's API model, asked question by question, by our client, which looks at every answer before lm-eval does.

    Attributes:
        url: of the server, with the label in it.
        served: what the server calls the model.
    """

    def __init__(self, server: ServerScorer, label: str, folder: Path, budget: int, answered: Answered | None = None,
                 tell: Callable[[int, int], None] | None = None) -> None:
        """Find the model on its server.

        Args:
            server: the recipe's.
            label: what the model is called: `base`, `sft`, `dpo-1`.
            folder: the model artifact, for its tokenizer and how much it reads.
            budget: tokens of a batch that is kept whole.
            answered: what an earlier attempt scored.
            tell: called with the questions done and the questions in all.

        Raises:
            Med42Error: the server is away, or does not serve a model of that name.
        """
        self.server, self.url, self.served = server, *(text.replace("{label}", label) for text in (server.url.rstrip("/"), server.model))
        said = ask(server, KEY, f"{self.url}/models", None, _models, "a list of models")
        if self.served not in said:
            raise Med42Error(f"{self.url}/models", f"models {', '.join(sorted(said))}", f"'{self.served}' among them",
                             f"Serve that model, or check {KEY}.model.")
        self.reads = resolve_max_length(AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
        self.limit = min(self.reads, said[self.served] or self.reads)
        super().__init__(model=self.served, base_url=f"{self.url}/completions", tokenizer=str(folder), tokenizer_backend="huggingface",
                         tokenized_requests=True, batch_size=server.at_once, max_length=self.limit, max_retries=1)
        self.written_at_once = server.at_once
        self.longest = self.max_length  # a token less than the limit: one more is always written
        self.begin(budget, answered, tell)

    def tok_encode(self, string: Any, left_truncate_len: int | None = None, add_special_tokens: bool = False, truncation: bool = False,
                   **kwargs: Any) -> Any:
        """Tokens as lm-eval's HF model makes them: a text without a first control token gets the tokenizer's, where it has one."""
        if isinstance(string, str):
            special = not has_bos_prefix(string, self.tokenizer.bos_token)
            return super().tok_encode(string, left_truncate_len, special, truncation, **kwargs)
        return [self.tok_encode(text, left_truncate_len, add_special_tokens, truncation, **kwargs) for text in string]

    def score_batch(self, batch: list[Question]) -> list[list[Answer]]:
        """Score some questions, every answer a prompt of its own.

        Raises:
            Med42Error: the server reads less than the model, and less than a question has.
        """
        if self.limit < self.reads and (longest := max(question.longest for question in batch)) > self.longest:
            raise Med42Error(self.url, f"a server that reads {self.limit:,} tokens", f"{longest + 1:,}, as a question with its answer has",
                             f"The model reads {self.reads:,}: start the server with more (vLLM: --max-model-len).")
        requests = [(None, list(question.prompt), list(answer)) for question in batch for answer in question.answers]
        told = iter(LocalCompletionsAPI._loglikelihood_tokens(self, requests))
        return [[next(told) for _ in question.answers] for question in batch]

    def model_call(self, messages: Any, *, generate: bool = True, gen_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        """One request; messages are [prompts, tokens]."""
        asked = self._create_payload(self.create_message(messages), generate=generate, gen_kwargs=copy.deepcopy(gen_kwargs),
                                     seed=self._seed, eos=self.eos_string)
        self.tokens_read += sum(map(len, messages))
        wanted = f"{len(messages)} texts" if generate else f"the log-probabilities of {len(messages)} prompts"
        return ask(self.server, KEY, self.base_url, asked, lambda told: _whole(told, messages, generate), wanted)


def compared(server: ServerLM, local: Any, items: Sequence[dict[str, Any]], forms: Sequence[AnswerForm]) -> dict[str, Any]:
    """How far a server's log-likelihoods are from those of the model's own weights.

    Args:
        server: where the model is served.
        local: the model's own weights, as lm-eval's model.
        items: questions, of which the recipe's `checked` are asked, spread over all.
        forms: of the answers.

    Returns:
        `checked`, the questions; `apart`, the mean distance in nats a token; `largest`, the largest distance of an answer in nats.

    Raises:
        Med42Error: they are further apart than the recipe's `tolerance`.
    """
    count = min(server.server.checked, len(items))
    chosen = [items[place * len(items) // count] for place in range(count)]
    pairs = [(server.apply_chat_template([{"role": "user", "content": item["prompt"]}]), answer) for item in chosen
             for answer in all_answers(item["options"], item["lettered"], forms)]
    requests = [Instance("loglikelihood", {}, pair, place) for place, pair in enumerate(pairs)]
    ours, theirs = ([value for value, _ in lm.loglikelihood(requests, disable_tqdm=True)] for lm in (local, server))
    distances = [abs(one - other) for one, other in zip(ours, theirs, strict=True)]
    apart, largest = sum(distances) / sum(len(server._encode_pair(*pair)[1]) for pair in pairs), max(distances)
    if not apart <= server.server.tolerance:
        raise Med42Error(f"model '{server.served}' of {server.url}",
                         f"log-likelihoods of {count} questions that are {apart:.3g} nats a token from those of the model's own weights "
                         f"(one answer {largest:.3g})", f"at most {server.server.tolerance:g}",
                         f"The server holds other weights, or in another number format: serve this very model, or raise {KEY}.tolerance.")
    return {"checked": count, "apart": apart, "largest": largest}


def _models(told: Any) -> dict[str, int | None]:
    """The models that a server lists, and how many tokens each reads, where that is told.

    Raises:
        ValueError: it is no such list.
    """
    listed = told.get("data") if isinstance(told, dict) else None
    if not isinstance(listed, list) or not all(isinstance(model, dict) and isinstance(model.get("id"), str) for model in listed):
        raise ValueError("no list of models")
    return {model["id"]: int(model["max_model_len"]) if model.get("max_model_len") else None for model in listed}


def _whole(told: Any, prompts: Sequence[Sequence[int]], generate: bool) -> Any:
    """A response that lm-eval can read.

    Raises:
        ValueError: it has other choices than were asked for, a choice without text, or not one log-probability for each token.
    """
    for choice, prompt in zip(choices_of(told, len(prompts)), prompts, strict=True):
        if generate:
            if not isinstance(choice.get("text"), str):
                raise ValueError("a choice without text")
            continue
        logprobs = choice.get("logprobs") or {}
        values, likeliest = logprobs.get("token_logprobs"), logprobs.get("top_logprobs")
        if not isinstance(values, list) or not isinstance(likeliest, list):
            raise ValueError("a choice without log-probabilities: the server must echo the prompt with them")
        if len(values) != len(likeliest) or len(values) != len(prompt) + 1:
            raise ValueError(f"{len(values)} log-probabilities for a prompt of {len(prompt)} tokens and one more")
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in values[1:-1]):
            raise ValueError("a log-probability that is no finite number")
        if not all(isinstance(best, dict) and best for best in likeliest[1:-1]):
            raise ValueError("a token without the likeliest one beside it")
    return told
