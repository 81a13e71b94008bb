"""Loading and saving models: safetensors only, with tokenizer and chat template beside the weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from med42.errors import Med42Error
from med42.recipe.schema import Compute

# What travels with the weights from the base through every stage.
COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json")


def load_model(folder: Path, compute: Compute) -> Any:
    """A causal language model from an artifact folder, in fp32 or bf16 weights, attention by recipe.

    Raises:
        Med42Error: no safetensors weights, or weights that do not fit the configuration.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    if not any(folder.glob("*.safetensors")):
        raise Med42Error(folder, "no *.safetensors file", "weights as safetensors (pickled weights are refused)",
                         "Make the model artifact again.")
    if compute.threads:
        torch.set_num_threads(compute.threads)
    try:
        # fp32 master weights; bf16 is the autocast of the trainer, as in mixed-precision FSDP.
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=compute.attention, use_safetensors=True
        )
    except (SafetensorError, ValueError, RuntimeError, OSError) as error:
        raise Med42Error(folder, f"weights that do not load ({error})", "a whole model", "Make the model artifact again.") from error


def save_model(model: Any, start: Path, out: Path, weights: dict[str, Any] | None = None) -> None:
    """Write weights and configuration, and copy the tokenizer and template of the model it started from.

    Args:
        model: the model.
        start: folder of the model that it started from.
        out: folder to write into.
        weights: gathered from the shards of all processes, where the model itself holds only its own.
    """
    write_weights(model, out, weights)
    for name in COMPANIONS:
        if (start / name).is_file() and not (out / name).is_file():
            shutil.copyfile(start / name, out / name)


def copy_model(start: Path, out: Path) -> None:
    """Copy a model as it is, without loading it."""
    names = {path.name for pattern in ("*.safetensors", "*.safetensors.index.json", "config.json") for path in start.glob(pattern)}
    for name in sorted(names | {name for name in COMPANIONS if (start / name).is_file()}):
        shutil.copyfile(start / name, out / name)


def write_weights(model: Any, out: Path, weights: dict[str, Any] | None = None) -> None:
    """Write weights and configuration, for everyone to read."""
    model.save_pretrained(out, state_dict=weights)
    for path in out.glob("*.safetensors"):
        path.chmod(0o644)  # written as 0600, which other users of a shared volume cannot read
