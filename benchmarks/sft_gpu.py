"""Tokens a second and FLOPs utilisation of SFT on one GPU, ours beside TRL's own path; runs alone, fetches nothing.

    python benchmarks/sft_gpu.py            on a GPU: layers of Llama 3 8B, as many as its memory holds, rows of 8,192 tokens, bf16
    python benchmarks/sft_gpu.py --small    on anything: that the script works; its numbers say nothing

Documents are random tokens of log-normal lengths, packed full. Ours is the collator and settings of `train_sft`; TRL's is SFTTrainer
with its own padding-free collator. Variants that this machine lacks a package for are left out, and said so.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from measurement import Measurement, show

from med42.data.chat import IGNORED
from med42.recipe.schema import Shape
from med42.training.planning import load_accelerators, parameter_count
from med42.training.train_sft import collate
from med42.training.trainer import score_supervised_positions_only

LLAMA3_8B = Shape(vocabulary=128_256, hidden_size=4096, layers=32, heads=32, kv_heads=8, feed_forward=14_336)
SMALL = Shape(vocabulary=512, hidden_size=64, layers=2, heads=4, kv_heads=2, feed_forward=128)
STEPS, WARM = 12, 4
BYTES_A_WEIGHT = 16  # fp32 weights, gradients and two moments
VARIANTS = {
    "sdpa": {}, "varlen attention": {"attention": "flash_attention_2"},
    "varlen attention, compile": {"attention": "flash_attention_2", "torch_compile": True},
    "varlen attention, layer kernels": {"attention": "flash_attention_2", "use_liger_kernel": True},
}
NEEDS = {"attention": "flash_attn", "use_liger_kernel": "liger_kernel"}


def chunks_of(count: int, size: int, vocabulary: int) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Full chunks of random documents of 350 tokens on average, the second half of each supervised."""
    draw, made = np.random.default_rng(0), []
    for _ in range(count):
        lengths: list[int] = []
        while sum(lengths) < size:
            lengths.append(min(size - sum(lengths), max(2, int(draw.lognormal(5.45, 0.9)))))
        ids = draw.integers(10, vocabulary, size).astype(np.int32)
        labels = np.concatenate([np.where(np.arange(n) < n // 2, IGNORED, 1) for n in lengths])
        made.append({"input_ids": ids, "labels": np.where(labels == IGNORED, IGNORED, ids).astype(np.int32),
                     "seq_lengths": np.array(lengths, np.int32)})
    return made


def tokens_a_second(shape: Shape, size: int, ours: bool, attention: str = "sdpa", **more: Any) -> tuple[float, list[float]]:
    """Train a few steps; the speed of those after the warm-up, and the losses."""
    import datasets
    from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=shape.vocabulary, hidden_size=shape.hidden_size, num_hidden_layers=shape.layers,
                         num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, intermediate_size=shape.feed_forward,
                         max_position_embeddings=size, attn_implementation=attention)
    on_gpu = torch.cuda.is_available()
    with torch.device("cuda" if on_gpu else "cpu"):
        model = LlamaForCausalLM(config)
    chunks = chunks_of(STEPS, size, shape.vocabulary)
    rows = datasets.Dataset.from_list([{key: values.tolist() for key, values in chunk.items()} for chunk in chunks])
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder, use_cpu=not on_gpu, bf16=on_gpu, per_device_train_batch_size=1, max_steps=STEPS, learning_rate=5e-6,
            gradient_checkpointing=on_gpu, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, optim="adamw_torch",
            dataset_kwargs={"skip_prepare_dataset": True}, padding_free=not ours, packing=False, max_length=None, **more)
        in_one_row = functools.partial(collate, pad=0, in_one_row=True)

        def arrays(batch: list[dict[str, Any]]) -> dict[str, Any]:
            return in_one_row([{key: np.asarray(values, np.int32) for key, values in row.items()} for row in batch])

        trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=never_asked(),
                             data_collator=arrays if ours else None, callbacks=[Clock()])
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    del model, trainer
    if on_gpu:
        torch.cuda.empty_cache()
    return size * (STEPS - WARM) / (times[-1] - times[WARM - 1]), losses


def never_asked() -> Any:
    """A tokenizer that is never asked; TRL reads its end and padding tokens."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<end>": 0, "<pad>": 1}, unk_token="<end>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<pad>")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object a line instead of a table")
    parser.add_argument("--small", action="store_true", help="a toy model, to see that the script works")
    asked = parser.parse_args()
    if not asked.small and not torch.cuda.is_available():
        raise SystemExit("sft_gpu: found no GPU; expected one. Run it on a machine with a GPU, or with --small.")
    shape, size, peak = (SMALL, 256, 0.0) if asked.small else (LLAMA3_8B, 8192, 0.0)
    if not asked.small:
        name = torch.cuda.get_device_name()
        peak = next((row.bf16_tflops * 1e12 for key, row in load_accelerators().items() if key in name), 0.0)
        free = 0.75 * torch.cuda.mem_get_info()[0]  # the rest is for activations and the head
        shape = next(kept for layers in range(shape.layers, 0, -1)
                     if BYTES_A_WEIGHT * parameter_count(kept := shape.model_copy(update={"layers": layers})) < free or layers == 1)
        print(f"{name}: {shape.layers} of {LLAMA3_8B.layers} layers, {parameter_count(shape):,} parameters", file=sys.stderr)
    # As in med42.training.planning: 6 a weight and token, and causal attention within documents, which are short beside a chunk.
    flops = 6 * (parameter_count(shape) - shape.vocabulary * shape.hidden_size)
    found = []
    for title, settings in VARIANTS.items():
        missing = [NEEDS[key] for key in settings if key in NEEDS and importlib.util.find_spec(NEEDS[key]) is None]
        if missing or (asked.small and settings):
            print(f"{title}: left out, {'no ' + ', '.join(missing) if missing else 'a toy'}", file=sys.stderr)
            continue
        theirs, wanted = tokens_a_second(shape, size, ours=False, **settings)
        score_supervised_positions_only()
        ours, losses = tokens_a_second(shape, size, ours=True, **settings)
        assert np.allclose(losses, wanted, rtol=1e-3), f"{title}: losses differ"
        goal, met = (1.0, ours >= theirs) if peak else (None, None)
        found.append(Measurement(f"{title}: tokens a second", ours, theirs, ours / theirs, goal, "tokens/s", met))
        if peak:
            used = flops * ours / peak
            found.append(Measurement(f"{title}: FLOPs utilisation", 100 * used, 100 * flops * theirs / peak, None, 45.0, "%", used >= 0.45))
    show(found, "TRL's", asked.json)


if __name__ == "__main__":
    main()
