"""How fast SFT is, beside TRL's SFTTrainer on the same conversations, in one run on this machine.

    python benchmarks/sft.py            prints a table
    python benchmarks/sft.py --json     prints one object a line: name, ours, peer, ratio, goal, unit, met

Each side starts from the same conversations on the disk and the same base model, and makes the same number of steps of as many chunks:
ours by the stages `pack_data` and `train_sft`, TRL's by SFTTrainer with what is best for it on a CPU: packing by best-fit
decreasing, assistant turns only, one row of documents a micro-step (several in a row would cost a mask over all of them).
The sides take turns, each time in a process of its own, on one core. Nothing is fetched.
"""

from __future__ import annotations

import os

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TQDM_DISABLE="1", OMP_NUM_THREADS="1")

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow
from measurement import Measurement, show
from texts import conversations, documentation

from med42.data.conversation import row_digest
from med42.data.pack_data import pack_data
from med42.data.packed import PackedChunks
from med42.data.shards import KEPT, write_shard
from med42.lineage.artifact import Outcome, Plan, produce
from med42.lineage.journal import Job
from med42.lineage.record import read_record
from med42.recipe import Recipe, load_recipe
from med42.training.prepare_base import prepare_base
from med42.training.train_sft import train_sft
from med42.training.trainer import training_order

ROUNDS = 3
STEPS = 6
CONVERSATIONS = 3_000
JOB = Job("benchmark")
# 14 million parameters; the head is 35% of the work of a token, where in Llama 3 8B it is 7%.
MODEL = ["base.vocabulary=12000", "base.hidden_size=384", "base.layers=6", "base.feed_forward=1024", "base.heads=6", "base.kv_heads=2",
         "base.context=1024", "pack.chunk=1024"]
TRAINING = [f"sft.steps={STEPS}", "sft.batch=4", "sft.rows_per_device=1", "sft.threads=1", "sft.learning_rate=1e-4"]


def recipe() -> Recipe:
    """The shipped `tiny` with the sizes above."""
    return load_recipe("tiny", [*MODEL, *TRAINING])


def prepare(folder: Path) -> None:
    """Write the conversations as a mix, and a base model whose tokenizer is trained on them."""
    chats = conversations(documentation(), CONVERSATIONS, tokens=250)
    rows = [{"id": row_digest(chat), "source": "documentation", "messages": chat} for chat in chats]

    def build(draft: Path) -> Outcome:
        write_shard(pyarrow.Table.from_pylist(rows, schema=KEPT), draft, 0)
        return Outcome({"rows": len(rows)})

    produce(Plan("mix_data", "conversations", {}, {}, "data"), folder / "mix", JOB, build)
    prepare_base(recipe(), folder / "mix", folder / "base", JOB)


def ours(folder: Path, out: Path) -> dict[str, Any]:
    """Pack and train by the stages."""
    import trl.trainer.sft_trainer  # noqa: F401  as on the other side, libraries are loaded before the clock starts

    clock = time.perf_counter()
    pack_data(recipe(), folder / "mix", folder / "base", out / "packed", JOB)
    packed = time.perf_counter() - clock
    record = train_sft(recipe(), folder / "base", out / "packed", out / "model", JOB)
    chunks = PackedChunks(out / "packed")
    log = json.loads((out / "model/training_log.json").read_text())
    return {"data": packed, "all": time.perf_counter() - clock, "training": record.made.observed["train_seconds"],
            "fill": read_record(out / "packed").measured["fill"], "tokens": chunks.tokens, "losses": [entry["loss"] for entry in log]}


def trls(folder: Path, out: Path, chunks: PackedChunks | None = None) -> dict[str, Any]:
    """Tokenise, pack and train by SFTTrainer; on our chunks where they are given."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer
    from trl import __file__ as trl_file

    datasets.disable_caching()
    torch.set_num_threads(1)
    clock = time.perf_counter()
    settings = recipe().sft
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    # Llama 3's own template: SFTTrainer exchanges it for its training template with marks round the assistant's turns.
    tokenizer.chat_template = (Path(trl_file).parent / "chat_templates" / "llama3.jinja").read_text()
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32, attn_implementation="sdpa")
    if chunks is None:
        paths = [str(path) for path in sorted((folder / "mix").glob("part-*.parquet"))]
        rows = datasets.Dataset.from_parquet(paths, cache_dir=str(out / "cache"), columns=["messages"])
        way = {"packing": True, "packing_strategy": "bfd", "assistant_only_loss": True, "max_length": recipe().pack.chunk}
    else:
        order = training_order(len(chunks), STEPS * settings.batch, recipe().seed)
        rows = datasets.Dataset.from_list([{key: values.tolist() for key, values in chunks[number].items()} for number in order])
        way = {"train_sampling_strategy": "sequential",
               "dataset_kwargs": {"skip_prepare_dataset": True}, "padding_free": True, "max_length": None}
    trainer = SFTTrainer(model=model, train_dataset=rows, processing_class=tokenizer, args=SFTConfig(
        **way, output_dir=str(out / "trl"), seed=recipe().seed, data_seed=recipe().seed, use_cpu=True, bf16=False, report_to="none",
        per_device_train_batch_size=1, gradient_accumulation_steps=settings.batch, max_steps=STEPS, optim="adamw_torch",
        learning_rate=settings.learning_rate, adam_beta2=settings.betas[1], lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup, gradient_checkpointing=False, logging_steps=1, save_strategy="no", disable_tqdm=True))
    begun = time.perf_counter()
    trainer.train()
    ended = time.perf_counter()
    trainer.save_model(str(out / "model"))
    tokens = sum(len(row["input_ids"]) for row in trainer.train_dataset)
    return {"data": begun - clock, "all": time.perf_counter() - clock, "training": ended - begun, "tokens": tokens,
            "fill": tokens / len(trainer.train_dataset) / recipe().pack.chunk,
            "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]}


def apart(side: str, folder: Path) -> dict[str, Any]:
    """One side in a process of its own, on one core."""
    out = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, __file__, "--side", side, str(folder), str(out)]
    core = {min(os.sched_getaffinity(0))}
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, core))
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told | {"out": str(out)}


def measure(folder: Path) -> list[Measurement]:
    """Both sides in turn."""
    prepare(folder)
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    for number in range(ROUNDS):
        for side, told in found.items():
            told.append(apart(side, folder))
            last = told[-1]
            around = last["all"] - last["training"]
            print(f"round {number + 1}, {side}: {last['training'] / STEPS:.2f} s a step, {around:.1f} s around them", file=sys.stderr)
    same = apart(f"trl-on:{found['ours'][0]['out']}/packed", folder)
    assert same["losses"] == found["ours"][0]["losses"], "TRL's losses on our chunks are others"
    print(f"losses of {STEPS} steps are bit-equal to those of SFTTrainer on the same chunks", file=sys.stderr)
    fills = {side: told[0]["fill"] for side, told in found.items()}
    capacity = STEPS * recipe().sft.batch * recipe().pack.chunk
    rates = {side: [capacity * one["fill"] / one["training"] for one in told] for side, told in found.items()}
    steps = statistics.median(our / their for our, their in zip(rates["ours"], rates["trl"], strict=True))

    def seconds(title: str, take: Any) -> Measurement:
        mine, theirs = ([take(one) for one in found[side]] for side in ("ours", "trl"))
        ratio = statistics.median(their / our for our, their in zip(mine, theirs, strict=True))
        return Measurement(title, statistics.median(mine), statistics.median(theirs), ratio, None, "s", None)

    return [
        Measurement("tokens a second of the steps, padding not counted", statistics.median(rates["ours"]), statistics.median(rates["trl"]),
                    steps, 1.0, "tokens/s/core", steps >= 1.0),
        seconds("all but the steps: prepare, load, save", lambda one: one["all"] - one["training"]),
        Measurement("fill", 100 * fills["ours"], 100 * fills["trl"], fills["ours"] / fills["trl"], None, "%", None),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object a line instead of a table")
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "FOLDER", "OUT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        side, folder, out = asked.side[0], *map(Path, asked.side[1:])
        packed = PackedChunks(Path(side.partition(":")[2])) if side.startswith("trl-on:") else None
        print(json.dumps(ours(folder, out) if side == "ours" else trls(folder, out, packed)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        show(measure(Path(scratch)), "TRL's", asked.json)


if __name__ == "__main__":
    main()
