"""The stage `train_sft`: supervised fine-tuning on packed chunks (Table 2)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from med42.data.chat import IGNORED
from med42.data.packed import Chunk, PackedChunks
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.journal import Job
from med42.lineage.record import Record, read_record
from med42.recipe import Recipe
from med42.recipe.schema import Sft
from med42.report import page
from med42.report.quiet import work_offline_and_quietly
from med42.training.checkpoint_bucket import discard
from med42.training.checkpoints import checkpoint_folder
from med42.training.launch import Launch, main, start
from med42.training.model import load_model
from med42.training.trainer import Training, curves, planned, score_supervised_positions_only, training_arguments, write_log

PACKAGES = ("torch", "transformers", "trl", "accelerate")


@stage
def train_sft(recipe: Recipe, base: Path, packed: Path, out: Path, job: Job, launch: Launch = start) -> Record:
    """Fine-tune the base model on packed chunks, on this machine or where `launch` starts the processes.

    Raises:
        Med42Error: chunks of another tokenizer, a loss that is not finite, another world size.
    """
    if read_record(packed).inputs["base"] != read_record(base).digest:
        raise Med42Error(packed, "chunks packed with another base model's tokenizer", "chunks of this base", "Run pack_data for this base.")
    inputs = {"base": base, "packed": packed}
    plan = Plan("train_sft", "model", {"seed": recipe.seed, "sft": recipe.sft.model_dump(mode="json")}, inputs, "training", PACKAGES)
    record = produce(plan, out, job, lambda draft: launch(train, "train_sft", recipe.sft, recipe, inputs, draft, job))
    discard(recipe.sft.checkpoint_bucket, checkpoint_folder("train_sft", recipe, recipe.sft, inputs, job))
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
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    settings, base, chunks = recipe.sft, inputs["base"], PackedChunks(inputs["packed"])
    training = Training("train_sft", recipe, settings, inputs, scratch, job, settings.batch * recipe.pack.chunk, len(chunks))
    score_supervised_positions_only()
    tokenizer = AutoTokenizer.from_pretrained(base)
    arguments = SFTConfig(
        **training_arguments(settings, settings.rows_per_device, recipe.seed, training), dataset_kwargs={"skip_prepare_dataset": True},
        packing=False, max_length=None,
    )
    model = load_model(base, settings)
    chunks.assert_vocabulary(model.config.vocab_size)
    if settings.steps != 0:
        rows = datasets.Dataset.from_dict({"chunk": range(len(chunks))}).with_transform(functools.partial(gather, chunks))
        training.run(SFTTrainer(
            model=model, args=arguments, train_dataset=rows, processing_class=tokenizer, peft_config=_low_rank(settings),
            data_collator=lambda batch: collate(batch, tokenizer.pad_token_id or 0, settings.attention == "flash_attention_2"),
        ))
    if training.save(model, base, draft):
        _write_page(recipe, training, draft)
        write_log(training.logged, draft)
    measured: dict[str, Any] = {
        "steps": training.steps, "rows_per_step": settings.batch, "tokens_per_step": settings.batch * recipe.pack.chunk,
        "epochs": training.steps * settings.batch / len(chunks),
    }
    loss = ""
    if training.logged:
        measured |= {"first_loss": training.logged[0]["loss"], "last_loss": training.logged[-1]["loss"]}
        loss = f", loss {measured['first_loss']:.2f} -> {measured['last_loss']:.2f}"
    return Outcome({**measured, "summary": f"{training.steps:,} steps{loss}"}, training.observed())


def _low_rank(settings: Sft) -> Any:
    """PEFT's settings of low-rank updates; None where all weights are trained."""
    if settings.lora is None:
        return None
    from peft import LoraConfig

    lora = settings.lora
    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.projections, task_type="CAUSAL_LM")


def _write_page(recipe: Recipe, training: Training, draft: Path) -> None:
    settings = recipe.sft
    rows = [(key, str(value)) for key, value in settings.model_dump(mode="json").items()]
    (draft / "page.html").write_text(page.page(
        "Supervised fine-tuning", f"{training.steps:,} steps of {settings.batch} chunks x {recipe.pack.chunk:,} tokens.",
        [page.heading("Curves"),
         *curves(training.logged, {"loss": ("loss",), "learning rate": ("learning_rate",), "gradient norm": ("grad_norm",)}),
         *planned(recipe, "train_sft"), page.heading("Settings"), page.table(("key", "value"), rows)],
    ))


if __name__ == "__main__":
    main(train, lambda inputs: "train_sft")
