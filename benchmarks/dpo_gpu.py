"""Tokens a second and FLOPs utilisation of DPO on one GPU, each prompt computed once, beside TRL's DPOTrainer; runs alone, fetches nothing.

    python benchmarks/dpo_gpu.py            on a GPU: layers of Llama 3 8B, as many as its memory holds, bf16
    python benchmarks/dpo_gpu.py --small    on anything: that the script works; its numbers say nothing
    python benchmarks/dpo_gpu.py --hh FILE  takes the lengths of hh-rlhf from its own file (JSON lines, may be gzipped)

Profiles, real tokens and the bound are those of `benchmarks/dpo.py`; ids and weights are random. A pass is what DPOTrainer does with all
pairs of a profile, 1, 2 or 4 a step on both sides, policy moved away from its reference: collator, loss with all metrics, backward with
activation checkpointing, gradients added up; no optimizer. Weights and gradients are bf16, as they are under DeepSpeed. Ours computes
packed rows with flex attention. Each pass is run once before it is timed, for what is compiled; that takes longer where lengths are new.
What this machine lacks a package or the memory for is left out, and said so.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib.util
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dpo import BOUND_REACHED, TRL_BATCHES, Profile, profiles
from measurement import Measurement, show
from sft_gpu import LLAMA3_8B, SMALL, never_asked

from med42.recipe.schema import Shape
from med42.report.quiet import work_offline_and_quietly
from med42.training.planning import load_accelerators, parameter_count

BYTES_A_WEIGHT = 4  # bf16 weights and gradients
# Of four pairs of 1,800 tokens, padded, 14,400 places: 3.8 GB kept of 32 layers, 3.1 of the layer at work, 3.2 of the head; and CUDA's own.
BYTES_FOR_THE_REST = 15e9
NEEDS = {"sdpa": None, "flash_attention_2": "flash_attn"}  # TRL's attention, and the package that it takes

# How far the losses of a pass's steps may lie apart, root mean square. Measured with six layers of 1,024 in bf16: 0.001; positions that go
# on through a row gave 0.02, a rejected branch that sees the chosen answer 0.4. All three grow with the model: the logits of 4,096 spread
# twice as wide, 32 layers add up sqrt(32 / 6) times the error, longer answers 1.4 times: 6.5 in all.
APART_IN_FP32, APART_IN_BF16 = 1e-5, 0.03

# The losses of a pass's steps and the median of its seconds, by profile and pairs a step.
Passes = dict[tuple[str, int], tuple[list[float], float]]


def measure(title: str, shape: Shape, kinds: list[Profile], ours: bool, attention: str, repetitions: int) -> Passes:
    """All passes of one side: those of one trainer, which has the pairs of all profiles."""
    found: Passes = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(shape, kinds, ours, attention, Path(folder))
        first = 0
        for kind in kinds:
            pairs = list(trainer.train_dataset.select(range(first, first + len(kind.lengths))))
            first += len(pairs)
            for batch in TRL_BATCHES:
                try:
                    compiling, losses = passed(trainer, pairs, batch)
                    seconds = [passed(trainer, pairs, batch)[0] for _ in range(repetitions)]
                except torch.cuda.OutOfMemoryError:
                    print(f"{title}, {kind.name}, pairs a step: {batch}: left out, it needs more memory", file=sys.stderr)
                    continue
                found[kind.name, batch] = losses, statistics.median(seconds)
                print(f"{title}, {kind.name}, pairs a step: {batch}; seconds {compiling:.3f} the first time, then "
                      + ", ".join(f"{value:.3f}" for value in seconds), file=sys.stderr)
    del trainer
    gc.collect()  # a model whose forward was replaced refers to itself
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def trainer_of(shape: Shape, kinds: list[Profile], ours: bool, attention: str, folder: Path) -> Any:
    """Ours or TRL's, on the pairs of all profiles, one profile after another; the model is moved away from its reference."""
    import datasets
    from transformers import AutoModelForCausalLM, LlamaConfig
    from trl import DPOConfig

    from med42.training.preference_trainer import PreparedDPOTrainer, SharedPromptTrainer
    from med42.training.reference import reference_log_probs

    draw, names = np.random.default_rng(1), ("prompt_ids", "chosen_ids", "rejected_ids")
    # A file, because TRL keeps the reference's log-probabilities beside it.
    datasets.Dataset.from_list([{name: draw.integers(2, shape.vocabulary, size).tolist() for name, size in zip(names, lengths, strict=True)}
                                for kind in kinds for lengths in kind.lengths]).to_parquet(str(folder / "pairs.parquet"))
    rows = datasets.Dataset.from_parquet(str(folder / "pairs.parquet"), cache_dir=str(folder))
    on_gpu = torch.cuda.is_available()
    config = LlamaConfig(vocab_size=shape.vocabulary, hidden_size=shape.hidden_size, num_hidden_layers=shape.layers,
                         num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, intermediate_size=shape.feed_forward,
                         max_position_embeddings=8192, pad_token_id=1)
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if on_gpu else torch.float32, attn_implementation=attention)
    # The weights compute in bf16 themselves; bf16 here would be autocast around weights in fp32.
    arguments = DPOConfig(output_dir=str(folder / "out"), use_cpu=not on_gpu, bf16=False, report_to="none", max_length=None,
                          precompute_ref_log_probs=True, per_device_train_batch_size=1, activation_checkpointing=True)
    given = {"model": model, "args": arguments, "train_dataset": rows, "processing_class": never_asked()}
    trainer = SharedPromptTrainer(
        lambda name, pairs, score: reference_log_probs(folder / f"{name}.safetensors", {}, pairs, 4096, score), **given,
    ) if ours else PreparedDPOTrainer(**given)
    generator = torch.Generator(device).manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.002 * torch.randn(weight.shape, generator=generator, device=device, dtype=weight.dtype))
    model.activation_checkpointing_enable()  # Trainer.train() would
    model.train()
    return trainer


def passed(trainer: Any, pairs: list[dict[str, Any]], batch: int) -> tuple[float, list[float]]:
    """Seconds of one pass over the pairs, so many a step, and the loss of each step."""
    trainer.model.zero_grad()
    clock, losses = now(), []
    for first in range(0, len(pairs), batch):
        some = pairs[first : first + batch]
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator(some)))
        (loss * len(some) / len(pairs)).backward()
        losses.append(loss.detach())
    return now() - clock, torch.stack(losses).tolist()


def now() -> float:
    """Seconds, when the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def flops(shape: Shape, kind: Profile) -> float:
    """Floating-point operations of a pass that computes each real token once; what is computed again is not counted.

    As in med42.training.planning, 6 a weight and place, the head's at answers alone, and 12 a layer, hidden size and pair of places of
    which one sees the other: of a prompt with its chosen answer n (n + 1) / 2, of the rejected branch the prompt's too.
    """
    seen = sum((prompt - 1 + chosen) * (prompt + chosen) // 2 + rejected * (prompt - 1) + rejected * (rejected + 1) // 2
               for prompt, chosen, rejected in kind.lengths)
    head = shape.vocabulary * shape.hidden_size
    body = parameter_count(shape) - 2 * head
    answers = sum(chosen + rejected for _, chosen, rejected in kind.lengths)
    return float(6 * (body * kind.our_places() + head * answers) + 12 * shape.layers * shape.hidden_size * seen)


def compared(shape: Shape, kinds: list[Profile], ours: Passes, theirs: Passes, attention: str, peak: float) -> list[Measurement]:
    """The lines of what both sides have measured; it stops where their losses differ."""
    found = []
    for kind in kinds:
        for batch in TRL_BATCHES:
            key = kind.name, batch
            if key not in ours or key not in theirs:
                continue
            (losses, mine), (wanted, other) = ours[key], theirs[key]
            title = f"{kind.name}, pairs a step: {batch}, TRL with {attention}"
            apart = float(np.sqrt(np.mean(np.square(np.subtract(losses, wanted)))))
            print(f"{title}: first losses {losses[0]:.6f}, {wanted[0]:.6f}; all {len(losses)} {apart:.1e} apart", file=sys.stderr)
            if not apart <= (APART_IN_BF16 if torch.cuda.is_available() else APART_IN_FP32):
                raise SystemExit(f"dpo_gpu: {title}: losses differ, {losses} and {wanted}")
            bound, ratio = kind.places(batch) / kind.our_places(), other / mine
            goal, met = (BOUND_REACHED * bound, ratio >= BOUND_REACHED * bound) if shape != SMALL else (None, None)
            found.append(Measurement(f"{title}; bound {bound:.2f}", kind.real / mine, kind.real / other, ratio, goal, "tokens/s", met))
            if peak:
                used = [100 * flops(shape, kind) / seconds / peak for seconds in (mine, other)]
                found.append(Measurement(f"{title}: FLOPs utilisation", *used, None, None, "%", None))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object a line instead of a table")
    parser.add_argument("--small", action="store_true", help="a toy model, to see that the script works")
    parser.add_argument("--hh", type=Path, help="hh-rlhf's file, for its lengths")
    parser.add_argument("--repetitions", type=int, default=5, help="of each measurement; medians are told")
    asked = parser.parse_args()
    if not asked.small and not torch.cuda.is_available():
        raise SystemExit("dpo_gpu: found no GPU; expected one. Run it on a machine with a GPU, or with --small.")
    work_offline_and_quietly()
    from med42.training.trainer import score_supervised_positions_only

    score_supervised_positions_only()
    shape, kinds, peak = SMALL, profiles(asked.hh), 0.0
    if asked.small:
        kinds = [dataclasses.replace(kind, lengths=[(p // 8 + 2, c // 8 + 2, r // 8 + 2) for p, c, r in kind.lengths]) for kind in kinds]
    else:
        name, room = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0] - BYTES_FOR_THE_REST
        peak = next((row.bf16_tflops * 1e12 for key, row in load_accelerators().items() if key in name), 0.0)
        shape = next(kept for layers in range(LLAMA3_8B.layers, 0, -1)
                     if BYTES_A_WEIGHT * parameter_count(kept := LLAMA3_8B.model_copy(update={"layers": layers})) < room or layers == 1)
        print(f"{name}: {shape.layers} of {LLAMA3_8B.layers} layers, {parameter_count(shape):,} parameters", file=sys.stderr)
        if not peak:
            print(f"FLOPs utilisation: left out, {name} is not in the table of accelerators", file=sys.stderr)
    # Its attention is set by the trainer: flex attention on a GPU, elsewhere a call for each answer.
    ours = measure("ours", shape, kinds, True, "sdpa", asked.repetitions)
    found = []
    for attention, package in NEEDS.items():
        missing = package and importlib.util.find_spec(package) is None
        if missing or (asked.small and package):
            print(f"TRL with {attention}: left out, {f'no {package}' if missing else 'a toy'}", file=sys.stderr)
            continue
        theirs = measure(f"TRL with {attention}", shape, kinds, False, attention, asked.repetitions)
        found += compared(shape, kinds, ours, theirs, attention, peak)
    show(found, "TRL's", asked.json)


if __name__ == "__main__":
    main()
