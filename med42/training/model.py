"""Loading and saving models: safetensors only, with tokenizer and chat template beside the weights."""

from __future__ import annotations

import math
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


def save_model(model: Any, start: Path, out: Path) -> None:
    """Write weights and configuration, and copy the tokenizer and template of the model it started from."""
    write_weights(model, out)
    for name in COMPANIONS:
        if (start / name).is_file() and not (out / name).is_file():
            shutil.copyfile(start / name, out / name)


def write_weights(model: Any, out: Path) -> None:
    """Write weights and configuration, for everyone to read."""
    model.save_pretrained(out)
    for path in out.glob("*.safetensors"):
        path.chmod(0o644)  # written as 0600, which other users of a shared volume cannot read


def assert_finite(history: list[dict[str, Any]], stage: str) -> None:
    """Refuse a training that went wrong without saying so.

    Raises:
        Med42Error: a logged loss that is not finite.
    """
    for entry in history:
        if "loss" in entry and not math.isfinite(entry["loss"]):
            raise Med42Error(f"{stage}, step {entry['step']}", f"loss {entry['loss']}", "a finite loss",
                             "Lower the learning rate, or look at the rows of that step.")
