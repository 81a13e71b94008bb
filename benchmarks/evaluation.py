"""How fast multiple-choice questions are scored, beside lm-eval's HF model, in one run on this machine.

    python benchmarks/evaluation.py            prints a table
    python benchmarks/evaluation.py --json     prints one object a line: name, ours, peer, ratio, goal, unit, met

Three shapes of question, full-answer scoring: MedMCQA's, PubMedQA's and MMLU-Pro's. The model has random weights of the Llama shape,
with attention made strong, so that who sees whom matters; tokens are given, so that no tokenizer is timed on either side. lm-eval's
batch size is swept and its best one is the peer. The time is that of the processor, on one core, so that what else the machine does is
no part of it. All log-likelihoods are compared. Beside each ratio stands what the arithmetic of
tokens allows: k (P + A) tokens over P + k A, for a prompt of P tokens and k answers of A. Nothing is fetched.
"""

from __future__ import annotations

import os

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TQDM_DISABLE="1", LMEVAL_LOG_LEVEL="ERROR")

import argparse
import functools
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from measurement import Measurement

from med42.data.chat import BEGIN, END, PAD
from med42.report.quiet import work_offline_and_quietly
from med42.training.prepare_base import train_tokenizer

VOCABULARY = 8192
HIDDEN, LAYERS = 512, 8
ROUNDS = 3
PEER_BATCHES = (1, 2, 4, 8, 16)
BUDGETS = (512, 1024, 2048)  # tokens that ours reads at once
CLOSE = 5e-4  # of a log-likelihood in fp32; lm-eval at two batch sizes differs from itself by 5e-5

Request = tuple[tuple[str, str], list[int], list[int]]


@dataclass(frozen=True)
class Shape:
    """A kind of question.

    Attributes:
        name: whose.
        prompt: tokens of a prompt, on average.
        answers: how many.
        answer: tokens of an answer, from and to.
        questions: how many are timed.
        goal: ratio to reach.
    """

    name: str
    prompt: int
    answers: int
    answer: tuple[int, int]
    questions: int
    goal: float | None


SHAPES = (
    Shape("short, 4 options (MedMCQA)", 120, 4, (8, 12), 24, 3.0),
    Shape("long, 3 options (PubMedQA)", 400, 3, (1, 12), 12, None),
    Shape("10 options (MMLU-Pro)", 250, 10, (8, 16), 8, 6.0),
)


@dataclass(frozen=True)
class Scoring(Measurement):
    """A line with what scoring alone has.

    Attributes:
        tokens: what the arithmetic of tokens allows.
        apart: greatest difference of a log-likelihood.
    """

    tokens: float
    apart: float


def requests_of(shape: Shape) -> list[Request]:
    """Questions as tokens: prompts of 0.7 to 1.3 times the average, answers that begin alike as lettered ones do."""
    draw, made = random.Random(0), list[Request]()
    for number in range(shape.questions):
        prompt = [draw.randrange(10, VOCABULARY) for _ in range(round(shape.prompt * draw.uniform(0.7, 1.3)))]
        for place in range(shape.answers):
            # A line break that all answers share, as the chat template leaves it, then the answer's own.
            answer = [9, *(draw.randrange(10, VOCABULARY) for _ in range(draw.randint(*shape.answer)))]
            made.append(((f"question {number}", f"answer {place}"), prompt, answer))
    return made


def token_ratio(requests: list[Request]) -> float:
    """Tokens that lm-eval reads, without padding, over those that a shared prompt leaves; the last one of an answer is read by neither."""
    from med42.evaluation.questions import questions_of

    shared = sum(len(question.row.tokens) for question in questions_of(requests))
    return sum(len(prompt) + len(answer) - 1 for _, prompt, answer in requests) / shared


def measure(shape: Shape, model: Any, tokenizer: Any) -> Scoring:
    """Questions a second of one core, of both, each with its best batch, in pairs of runs one after the other."""
    from lm_eval.models.huggingface import HFLM

    from med42.evaluation.shared_prefix import SharedPrefixLM

    requests = requests_of(shape)

    def theirs(batch: int) -> Callable[[], Any]:
        peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, device="cpu")
        return functools.partial(peer._loglikelihood_tokens, requests, disable_tqdm=True)

    def ours(budget: int) -> Callable[[], Any]:
        return functools.partial(SharedPrefixLM(model, tokenizer, budget)._loglikelihood_tokens, requests)

    best_peer = min(PEER_BATCHES, key=lambda batch: seconds_of(theirs(batch))[0])
    best_own = min(BUDGETS, key=lambda budget: seconds_of(ours(budget))[0])
    their_work, our_work = theirs(best_peer), ours(best_own)
    pairs = [(seconds_of(our_work), seconds_of(their_work)) for _ in range(ROUNDS)]
    apart = max(abs(one[0] - other[0]) for (_, told), (_, expected) in pairs for one, other in zip(told, expected, strict=True))
    assert apart < CLOSE, f"log-likelihoods differ by {apart}"
    assert all(one[1] == other[1] for one, other in zip(pairs[0][0][1], pairs[0][1][1], strict=True)), "greedy answers differ"
    our_seconds, their_seconds = ([pair[side][0] for pair in pairs] for side in (0, 1))
    ratio = statistics.median(their / our for our, their in zip(our_seconds, their_seconds, strict=True))
    ours_a_second, theirs_a_second = (shape.questions / statistics.median(seconds) for seconds in (our_seconds, their_seconds))
    ratios = ", ".join(f"{their / our:.2f}" for our, their in zip(our_seconds, their_seconds, strict=True))
    lowest = min(value for value, _ in pairs[0][1][1])
    print(f"{shape.name}: lm-eval's best batch {best_peer}, our best budget {best_own} tokens; ratios {ratios}; log-likelihoods down to "
          f"{lowest:.0f} are at most {apart:.1e} apart", file=sys.stderr)
    return Scoring(shape.name, ours_a_second, theirs_a_second, ratio, shape.goal, "questions/s/core",
                       None if shape.goal is None else ratio >= shape.goal, token_ratio(requests), apart)


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of some work, and what came out."""
    clock = time.process_time()
    told = work()
    return time.process_time() - clock, told


def subject() -> tuple[Any, Any]:
    """A model of some 27 million parameters, and a tokenizer that lm-eval can hold."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=8, num_key_value_heads=4,
        intermediate_size=3 * HIDDEN, max_position_embeddings=2048))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(6 if "q_proj" in name or "k_proj" in name else 2 if "proj" in name else 1)
    text = train_tokenizer(400, ["a text to train on"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=text, bos_token=BEGIN, eos_token=END, pad_token=PAD)
    return model.eval(), tokenizer


def as_table(measurements: list[Scoring]) -> str:
    """For people."""
    header = ("what", "ours", "lm-eval", "ratio", "tokens allow", "goal", "", "unit")
    verdicts = {None: "", True: "met", False: "NOT met"}
    rows = [(one.name, f"{one.ours:.2f}", f"{one.peer:.2f}", f"{one.ratio:.2f}", f"{one.tokens:.2f}",
             "" if one.goal is None else f"{one.goal:g}", verdicts[one.met], one.unit) for one in measurements]
    widths = [max(len(line[place]) for line in [header, *rows]) for place in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in [header, *rows])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args()
    work_offline_and_quietly()
    import torch

    torch.set_num_threads(1)
    model, tokenizer = subject()
    print(f"{platform.processor() or platform.machine()}, one core of {os.cpu_count()}, torch {torch.__version__}, "
          f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.1f} M parameters, fp32", file=sys.stderr)
    measurements = [measure(shape, model, tokenizer) for shape in SHAPES]
    print("\n".join(json.dumps(asdict(one)) for one in measurements) if options.json else as_table(measurements))
    return 0 if all(one.met is not False for one in measurements) else 1


if __name__ == "__main__":
    raise SystemExit(main())
