"""The stage `train_sft`: supervised fine-tuning on packed chunks (Table 2)."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import numpy as np

from med42.data.chat import IGNORED
from med42.data.packed import Chunk, PackedChunks
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.journal import Job, Progress
from med42.lineage.record import Record, read_record
from med42.recipe import Recipe
from med42.report import page
from med42.report.quiet import work_offline_and_quietly
from med42.training.checkpoints import checkpoint_folder, discard, marking_callback, newest
from med42.training.launch import is_first_process, main, start
from med42.training.model import assert_finite, load_model, save_model
from med42.training.trainer import (
    assert_world_size,
    curves,
    progress_callback,
    score_supervised_positions_only,
    training_arguments,
    write_log,
)

PACKAGES = ("torch", "transformers", "trl", "accelerate")


@stage
def train_sft(recipe: Recipe, base: Path, packed: Path, out: Path, job: Job) -> Record:
    """Fine-tune the base model on packed chunks.

    Raises:
        Med42Error: chunks of another tokenizer, a loss that is not finite, another world size.
    """
    if read_record(packed).inputs["base"] != read_record(base).digest:
        raise Med42Error(packed, "chunks packed with another base model's tokenizer", "chunks of this base", "Run pack_data for this base.")
    inputs = {"base": base, "packed": packed}
    plan = Plan("train_sft", "model", {"seed": recipe.seed, "sft": recipe.sft.model_dump(mode="json")}, inputs, "training", PACKAGES)
    record = produce(plan, out, job, lambda draft: start(train, recipe.sft.devices, recipe, inputs, draft, job))
    discard(checkpoint_folder("train_sft", recipe, recipe.sft, inputs, job))
    return record


def collate(chunks: list[Chunk], pad: int, in_one_row: bool = False) -> dict[str, Any]:
    """Chunks as one batch in which no document sees another.

    Args:
        chunks: `input_ids`, `labels` and `seq_lengths` of each.
        pad: the token that fills up shorter chunks.
        in_one_row: lay all chunks one after another. Flash attention reads the documents' bounds from the positions of
            a single row only; in several rows it would, without a word, let documents see one another.

    Returns:
        `input_ids`, `labels`, `position_ids`, each int64 of shape [chunks, longest]. Positions start again at
        each document: with no attention mask given, transformers derives the block-diagonal mask from them.
        A document's first token is predicted by nothing, so its label is -100. Each padding token is a
        document of its own.
    """
    import torch

    if in_one_row:
        chunks = [{key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}]
    longest = max(len(chunk["input_ids"]) for chunk in chunks)
    ids = torch.full((len(chunks), longest), pad)
    labels = torch.full((len(chunks), longest), IGNORED)
    positions = torch.zeros((len(chunks), longest), dtype=torch.int64)
    for row, chunk in enumerate(chunks):
        size = len(chunk["input_ids"])
        ids[row, :size], labels[row, :size] = torch.as_tensor(chunk["input_ids"]), torch.as_tensor(chunk["labels"])
        start = 0
        for length in chunk["seq_lengths"].tolist():
            positions[row, start : start + length] = torch.arange(length)
            labels[row, start] = IGNORED
            start += length
    return {"input_ids": ids, "labels": labels, "position_ids": positions}


def gather(chunks: PackedChunks, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
    """Chunks by number, as a batch of `datasets`: read when the trainer asks for them."""
    gathered = [chunks[number] for number in batch["chunk"]]
    return {key: [chunk[key] for chunk in gathered] for key in gathered[0]}


def train(recipe: Recipe, inputs: dict[str, Path], draft: Path, scratch: Path, job: Job) -> Outcome:
    """Train with TRL's SFTTrainer on chunks that are packed already; the first process writes the model."""
    work_offline_and_quietly()
    import datasets
    from transformers import AutoTokenizer, PrinterCallback
    from trl import SFTConfig, SFTTrainer

    settings, base, packed = recipe.sft, inputs["base"], inputs["packed"]
    score_supervised_positions_only()
    assert_world_size(settings.devices.processes)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = load_model(base, settings)
    chunks = PackedChunks(packed)
    checkpoints = checkpoint_folder("train_sft", recipe, settings, inputs, job)
    clock = time.monotonic()
    history: list[dict[str, Any]] = []
    steps = 0
    if settings.steps != 0:
        rows = datasets.Dataset.from_dict({"chunk": range(len(chunks))}).with_transform(functools.partial(gather, chunks))
        arguments = SFTConfig(
            **training_arguments(settings, recipe.seed, checkpoints, scratch), per_device_train_batch_size=settings.rows_per_device,
            dataset_kwargs={"skip_prepare_dataset": True}, packing=False, max_length=None,
        )
        trainer = SFTTrainer(
            model=model, args=arguments, train_dataset=rows, processing_class=tokenizer,
            data_collator=lambda batch: collate(batch, tokenizer.pad_token_id or 0, settings.attention == "flash_attention_2"),
            callbacks=[progress_callback(Progress(job, "train_sft", 0, "steps")), marking_callback()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=newest(checkpoints))
        history, steps = trainer.state.log_history, trainer.state.global_step
        model = trainer.accelerator.unwrap_model(trainer.model)
    logged = [entry for entry in history if "loss" in entry]
    assert_finite(logged, "train_sft")
    if is_first_process():
        save_model(model, base, draft)
        _write_page(recipe, steps, logged, draft)
        write_log(logged, draft)
    seconds = time.monotonic() - clock
    measured: dict[str, Any] = {
        "steps": steps, "rows_per_step": settings.rows_per_step, "tokens_per_step": settings.rows_per_step * recipe.pack.chunk,
        "epochs": steps * settings.rows_per_step / len(chunks),
    }
    if logged:
        measured |= {"first_loss": logged[0]["loss"], "last_loss": logged[-1]["loss"]}
    loss = f", loss {measured['first_loss']:.2f} -> {measured['last_loss']:.2f}" if logged else ""
    return Outcome({**measured, "summary": f"{steps:,} steps{loss}"}, {"train_seconds": round(seconds, 2)})


def _write_page(recipe: Recipe, steps: int, logged: list[dict[str, Any]], draft: Path) -> None:
    settings = recipe.sft
    rows = [(key, str(value)) for key, value in settings.model_dump(mode="json").items()]
    (draft / "page.html").write_text(page.page(
        "Supervised fine-tuning", f"{steps:,} steps of {settings.rows_per_step} chunks x {recipe.pack.chunk:,} tokens.",
        [page.heading("Curves"),
         *curves(logged, {"loss": ("loss",), "learning rate": ("learning_rate",), "gradient norm": ("grad_norm",)}),
         page.heading("Settings"), page.table(("key", "value"), rows)],
    ))


if __name__ == "__main__":
    main(train)
