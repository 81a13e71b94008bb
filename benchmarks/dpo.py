"""How fast a step of DPO is with each prompt computed once, beside TRL's DPOTrainer, in one run on this machine.

    python benchmarks/dpo.py                 prints a table
    python benchmarks/dpo.py --json          prints one object a line: name, ours, peer, ratio, goal, unit, met
    python benchmarks/dpo.py --hh FILE       takes the lengths of hh-rlhf from its own file (JSON lines, may be gzipped)
    python benchmarks/dpo.py --hidden 256    with a smaller model: a quarter of the time, and more of it spent beside the arithmetic

A pass is what DPOTrainer does with all pairs of a profile, policy moved away from its reference: collator, loss with all metrics,
backward, gradients added up; no optimizer on either side. Real tokens are those of prompt, chosen and rejected answer, counted
once each. TRL scores supervised positions only, as it does on a GPU; on a CPU as it is shipped it scores every position, which
is slower. The arithmetic beside each profile is the bound: places that TRL computes for one that we compute. Losses and
gradients of both are compared before anything is timed. Times are processor seconds of one thread, which other work on the machine
changes little. Only ratios of one run are worth keeping.
"""

from __future__ import annotations

import os

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TQDM_DISABLE="1")

import argparse
import gzip
import json
import math
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measurement import Measurement, show

from med42.report.quiet import work_offline_and_quietly

TRL_BATCHES = (1, 2, 4)  # pairs a step, in random order; 8 and more only add padding
OUR_BATCHES = (1, 2, 4, 8)  # laid into one row; a longer row shares nothing more, and leaves the cache sooner
VOCABULARY = 2048  # with a hidden size of 512, head and body cost in the ratio of an 8B model's
BOUND_REACHED, AT_BEST, AT_FOUR = 0.9, 1.6, 2.3


@dataclass(frozen=True)
class Profile:
    """Pairs of one kind.

    Attributes:
        name: what they are like.
        lengths: prompt, chosen and rejected tokens of each.
    """

    name: str
    lengths: list[tuple[int, int, int]]

    @property
    def real(self) -> int:
        """Tokens, each counted once."""
        return sum(map(sum, self.lengths))

    def places(self, batch: int) -> int:
        """Places that TRL computes, so many pairs a step."""
        groups = [self.lengths[first : first + batch] for first in range(0, len(self.lengths), batch)]
        return sum(2 * len(group) * max(prompt + max(chosen, rejected) for prompt, chosen, rejected in group) for group in groups)

    def our_places(self) -> int:
        """Places of the packed rows."""
        return sum(prompt + chosen + rejected - 1 for prompt, chosen, rejected in self.lengths)


def profiles(hh: Path | None) -> list[Profile]:
    """UltraFeedback-like, hh-rlhf, and long clinical prompts with short answers; mean and deviation of prompt and answers."""
    draw = np.random.default_rng(0)

    def lengths(count: int, prompt: tuple[int, int], answer: tuple[int, int], longest: int) -> list[tuple[int, int, int]]:
        columns = [_log_normal(draw, *moments, count, longest) for moments in (prompt, answer, answer)]
        return list(zip(*columns, strict=True))

    dialogues = Profile("hh-rlhf, real lengths", _real_lengths(hh, 16)) if hh else Profile(
        "hh-rlhf-like", lengths(16, (150, 110), (50, 40), 512))
    return [Profile("UltraFeedback-like", lengths(8, (180, 150), (280, 180), 1024)), dialogues,
            Profile("clinical: long prompts, short answers", lengths(4, (1200, 250), (150, 60), 2048))]


def _log_normal(draw: Any, mean: int, deviation: int, count: int, longest: int) -> list[int]:
    """Evenly spaced quantiles in random order: a few pairs have the moments of many."""
    spread = math.log(1 + (deviation / mean) ** 2)
    normal = statistics.NormalDist(math.log(mean) - spread / 2, math.sqrt(spread))
    values = draw.permutation(np.exp([normal.inv_cdf((place + 0.5) / count) for place in range(count)]))
    return [int(value) for value in np.clip(values, 4, longest)]


def _real_lengths(path: Path, count: int) -> list[tuple[int, int, int]]:
    """Of evenly spaced quantiles of the pairs' lengths, in random order, by a tokenizer of 8,192 tokens trained on the file."""
    from med42.preferences.pair import Pair
    from med42.preferences.sources import hh_rlhf
    from med42.training.prepare_base import train_tokenizer

    with (gzip.open(path, "rt") if path.suffix == ".gz" else path.open()) as lines:
        pairs = [pair for pair in (hh_rlhf.pair(json.loads(line)) for line in lines) if isinstance(pair, Pair)]
    texts = [("".join(turn["content"] for turn in pair.prompt), pair.chosen, pair.rejected) for pair in pairs]
    tokenizer = train_tokenizer(8_192, iter([text for three in texts for text in three]))
    # Four tokens of the template around each turn.
    found: list[Any] = sorted((tuple(len(tokenizer.encode(text).ids) + 4 for text in three) for three in texts), key=sum)
    return [found[int((place + 0.5) / count * len(found))] for place in np.random.default_rng(0).permutation(count)]


# --- the two trainers ---------------------------------------------------------------------------


def trainers(profile: Profile, folder: Path, hidden: int) -> tuple[Any, Any]:
    """Ours and TRL's, on the same pairs and the same model, which is moved away from its reference."""
    import datasets
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import DPOConfig

    from med42.training.preference_trainer import PreparedDPOTrainer, SharedPromptTrainer

    draw = np.random.default_rng(1)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    datasets.Dataset.from_list([{name: draw.integers(3, VOCABULARY, size).tolist() for name, size in zip(names, lengths, strict=True)}
                                for lengths in profile.lengths]).to_parquet(str(folder / "pairs.parquet"))
    words = {"<pad>": 0, "<eos>": 1} | {f"w{number}": number for number in range(2, VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words)), pad_token="<pad>", eos_token="<eos>")
    found = []
    for ours in (True, False):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=4, num_attention_heads=hidden // 64,
            num_key_value_heads=hidden // 128, intermediate_size=hidden * 11 // 4, max_position_embeddings=4096, pad_token_id=0))
        arguments = DPOConfig(output_dir=str(folder / str(ours)), use_cpu=True, bf16=False, report_to="none", max_length=None,
                              precompute_ref_log_probs=True, per_device_train_batch_size=1, activation_checkpointing=False)
        rows = datasets.Dataset.from_parquet(str(folder / "pairs.parquet"), cache_dir=str(folder))
        given = {"model": model, "args": arguments, "train_dataset": rows, "processing_class": tokenizer}
        trainer = SharedPromptTrainer(lambda name, rows, score: score(list(rows)), **given) if ours else PreparedDPOTrainer(**given)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for weight in trainer.model.parameters():
                weight.add_(0.002 * torch.randn(weight.shape, generator=generator))
        found.append(trainer)
    return found[0], found[1]


def passed(trainer: Any, batch: int) -> tuple[float, float, Any]:
    """Processor seconds, mean loss of a pair, and gradient of one pass over all pairs, so many a step."""
    import torch

    pairs = list(trainer.train_dataset)
    trainer.model.train()
    trainer.model.zero_grad()
    total, clock = 0.0, time.process_time()
    for first in range(0, len(pairs), batch):
        some = pairs[first : first + batch]
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator(some))) * len(some) / len(pairs)
        loss.backward()
        total += loss.item()
    seconds = time.process_time() - clock
    return seconds, total, torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()])


def measure(profile: Profile, folder: Path, hidden: int, repetitions: int) -> tuple[list[Measurement], float, float]:
    """The profile's lines, and its ratios at TRL's best batch and at four pairs a step."""
    ours, theirs = trainers(profile, folder, hidden)
    _, our_loss, our_gradient = passed(ours, OUR_BATCHES[-1])
    _, their_loss, their_gradient = passed(theirs, 1)
    apart = ((our_gradient - their_gradient).norm() / their_gradient.norm()).item()
    if not (abs(our_loss - their_loss) < 1e-5 and apart < 1e-4):
        raise SystemExit(f"{profile.name}: losses {our_loss:.7f} and {their_loss:.7f}, gradients {apart:.1e} apart")
    both = ((theirs, TRL_BATCHES), (ours, OUR_BATCHES))
    their_seconds, our_seconds = ({batch: [passed(trainer, batch)[0]] for batch in batches} for trainer, batches in both)
    best, fast = (min(seconds, key=lambda batch: seconds[batch][0]) for seconds in (their_seconds, our_seconds))
    for _ in range(repetitions):
        for trainer, seconds, batches in ((theirs, their_seconds, {best, 4}), (ours, our_seconds, {fast, 4})):
            for batch in sorted(batches):
                seconds[batch].append(passed(trainer, batch)[0])
    answers = sum(chosen + rejected for _, chosen, rejected in profile.lengths)
    print(f"{profile.name}: {len(profile.lengths)} pairs, {profile.real:,} real tokens; we compute {profile.our_places():,} places, TRL "
          + ", ".join(f"{profile.places(batch):,} at {batch}" for batch in TRL_BATCHES)
          + f"; head on {answers:,} places (TRL as shipped: {profile.places(best):,}); loss {our_loss:.6f}, {their_loss:.6f}; "
          f"gradients {apart:.1e} apart; seconds TRL "
          + ", ".join(f"{statistics.median(values):.2f} at {batch}" for batch, values in their_seconds.items()) + ", ours "
          + ", ".join(f"{statistics.median(values):.2f} at {batch}" for batch, values in our_seconds.items()), file=sys.stderr)
    lines, ratios = [], []
    for title, batch, mine in (("TRL's best batch", best, fast), ("4 pairs a step", 4, 4)):
        ratio = statistics.median(t / o for t, o in zip(their_seconds[batch], our_seconds[mine], strict=True))
        bound = profile.places(batch) / profile.our_places()
        speeds = [profile.real / statistics.median(seconds) for seconds in (our_seconds[mine], their_seconds[batch])]
        lines.append(Measurement(f"{profile.name}, {title} ({batch}; ours {mine}); bound {bound:.2f}", *speeds, ratio,
                                 BOUND_REACHED * bound, "tokens/s", ratio >= BOUND_REACHED * bound))
        ratios.append(ratio)
    return lines, ratios[0], ratios[1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object a line instead of a table")
    parser.add_argument("--hh", type=Path, help="hh-rlhf's file, for its lengths")
    parser.add_argument("--hidden", type=int, default=512, help="the model's hidden size, a multiple of 128")
    parser.add_argument("--repetitions", type=int, default=3, help="after a first pass with each number of pairs; medians are told")
    asked = parser.parse_args()
    work_offline_and_quietly()
    import torch

    torch.set_num_threads(1)
    from med42.training.trainer import score_supervised_positions_only

    score_supervised_positions_only()
    found, at_best, at_four = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for profile in profiles(asked.hh):
            folder = Path(scratch) / str(len(found))
            folder.mkdir()
            lines, best, four = measure(profile, folder, asked.hidden, asked.repetitions)
            found += lines
            at_best.append(best)
            at_four.append(four)
    for title, ratios, goal in (("TRL's best batch", at_best, AT_BEST), ("4 pairs a step", at_four, AT_FOUR)):
        mean = statistics.geometric_mean(ratios)
        found.append(Measurement(f"geometric mean, {title}", mean, None, mean, goal, "x", mean >= goal))
    show(found, "TRL's", asked.json)


if __name__ == "__main__":
    main()
