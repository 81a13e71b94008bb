"""How fast and how full the data part is, beside TRL and datasets, in one run on this machine.

    python benchmarks/data.py            prints a table
    python benchmarks/data.py --json     prints one object a line: name, ours, peer, ratio, goal, unit, met

Only ratios of one run are worth keeping: machines differ, and the same one varies. Texts are the docstrings of the installed
packages, cut into conversations of lengths as instruction data has them; the tokenizer has Llama 3's pattern and as many
tokens, 128,000, and is trained on the same texts here. Nothing is fetched.
"""

from __future__ import annotations

import os

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TQDM_DISABLE="1")

import argparse
import functools
import gc
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from measurement import Measurement, show
from texts import conversations, documentation

from med42.data.chat import BEGIN, END, PAD, Chat, tokenizer_file
from med42.data.conversation import row_digest
from med42.data.encoding import why_not_tiktoken
from med42.data.pack_data import row_groups_of, tokenise, write_chunks
from med42.data.packed import PackedChunks
from med42.data.packing import OnlineBestFit, fewest_chunks, plan_chunks
from med42.data.shards import KEPT, write_shard
from med42.recipe.schema import Pack
from med42.report.quiet import work_offline_and_quietly
from med42.training.prepare_base import train_tokenizer

CHUNK = 8192
VOCABULARY = 128_000
CONVERSATIONS = 6_000
ROUNDS = 3
DOCUMENTS = 200_000  # of each mix of lengths
PATH_ROWS = (10_000, 100_000, 1_000_000)
CORES_ROWS = 300_000


# --- tokenise, label, pack ----------------------------------------------------------------------


def tokenise_label_pack(folder: Path) -> list[Measurement]:
    """Tokens a second of one core, from shards on the disk to packed chunks on the disk, both sides; all ids and labels compared.

    TRL's side is what SFTTrainer itself does with the same shards. The time is that of the processor, on one core, so that
    what else the machine does is no part of it. Each side has its tokenizer loaded. What our stage does once, before it
    begins, is told apart: it loads the tokenizer and proves tiktoken's ids on a sample.
    """
    texts, mix = documentation(), folder / "mix"
    chats = conversations(texts, CONVERSATIONS)
    rows = [{"id": row_digest(chat), "source": "documentation", "messages": chat} for chat in chats]
    write_shard(pyarrow.Table.from_pylist(rows, schema=KEPT), mix, 0)
    clock = time.perf_counter()
    tokenizer = train_tokenizer(VOCABULARY, texts)
    tokenizer.save(str(folder / "tokenizer.json"))
    print(f"{sum(map(len, texts)) / 1e6:.0f} MB of documentation; {tokenizer.get_vocab_size():,} tokens trained on it "
          f"in {time.perf_counter() - clock:.0f} s; {len(chats):,} conversations", file=sys.stderr)
    prepare_as_trl = trl_preparation(folder, mix)
    sample = [turn["content"] for chat in chats[:1000] for turn in chat]
    once = seconds_of(lambda: why_not_tiktoken(tokenizer_file(folder), sample) or Chat(folder, fast=True))
    assert why_not_tiktoken(tokenizer_file(folder), sample) == ""
    fast, slow, theirs, tokens = Chat(folder, fast=True), Chat(folder), list[float](), 0
    ours: dict[str, list[float]] = {"tiktoken": [], "tokenizers": []}
    for number in range(ROUNDS):
        for name, chat in (("tiktoken", fast), ("tokenizers", slow)):
            out = folder / f"{name}-{number}"
            out.mkdir()
            work = functools.partial(tokenise, chat, Pack(chunk=CHUNK), 0)
            ours[name].append(seconds_of(lambda work=work, out=out: write_chunks(Pack(chunk=CHUNK), map(work, row_groups_of(mix)), out)))
        packed = list[Any]()
        theirs.append(seconds_of(lambda packed=packed: packed.append(prepare_as_trl())))
        wanted = sorted(documents_of(packed[0]))
        for name in ours:
            assert sorted(documents_of(PackedChunks(folder / f"{name}-{number}"))) == wanted, "ids or labels differ"
        tokens = PackedChunks(folder / f"tiktoken-{number}").tokens
    print(f"ids and labels of {len(wanted):,} documents, {tokens:,} tokens, are the same on both sides", file=sys.stderr)
    rates = {name: tokens / statistics.median(seconds) / 1000 for name, seconds in (ours | {"trl": theirs}).items()}
    ratios = {name: statistics.median(their / our for their, our in zip(theirs, seconds, strict=True)) for name, seconds in ours.items()}
    return [
        Measurement("tokenise + label + pack, by tiktoken", rates["tiktoken"], rates["trl"], ratios["tiktoken"], 8.0,
                    "k tokens/s/core", ratios["tiktoken"] >= 8.0),
        Measurement("tokenise + label + pack, by tokenizers", rates["tokenizers"], rates["trl"], ratios["tokenizers"], None,
                    "k tokens/s/core", None),
        Measurement("once before: loading, and proof on 1,000 conversations", once, None, None, None, "s", None),
    ]


def trl_preparation(folder: Path, mix: Path) -> Callable[[], Any]:
    """What SFTTrainer does with conversations before it trains, as a call that does it again."""
    work_offline_and_quietly()
    import datasets
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer
    from trl import __file__ as trl_file

    datasets.disable_caching()
    datasets.disable_progress_bars()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), bos_token=BEGIN, eos_token=END, pad_token=PAD)
    # Llama 3's own template, to the letter: SFTTrainer exchanges it for its training template with generation marks.
    tokenizer.chat_template = (Path(trl_file).parent / "chat_templates" / "llama3.jinja").read_text()
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                                         num_key_value_heads=1, intermediate_size=8, tie_word_embeddings=True))
    arguments = SFTConfig(output_dir=str(folder / "trl"), assistant_only_loss=True, packing=True, packing_strategy="bfd", max_length=CHUNK,
                          report_to="none", use_cpu=True, bf16=False, disable_tqdm=True)
    paths = [str(path) for path in sorted(mix.glob("part-*.parquet"))]

    def rows(number: int) -> Any:
        return datasets.Dataset.from_parquet(paths, cache_dir=str(folder / f"cache-{number}"), columns=["messages"])

    trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows(0).select(range(8)), processing_class=tokenizer)
    numbers = itertools.count(1)
    return lambda: trainer._prepare_dataset(rows(next(numbers)), tokenizer, arguments, True, None, "train")


def documents_of(chunks: Any) -> Iterator[tuple[bytes, bytes]]:
    """Ids and labels of each document of packed chunks."""
    for chunk in chunks:
        ids, labels = (np.asarray(chunk[key], np.int32) for key in ("input_ids", "labels"))
        start = 0
        for length in np.asarray(chunk["seq_lengths"]).tolist():
            yield ids[start : start + length].tobytes(), labels[start : start + length].tobytes()
            start += length


def seconds_of(work: Callable[[], Any]) -> float:
    """Processor seconds of some work in this process, on one core."""
    with one_core():
        gc.collect()
        clock = time.process_time()
        work()
        return time.process_time() - clock


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process on one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


# --- fill ---------------------------------------------------------------------------------------


def length_mixes() -> dict[str, np.ndarray[Any, Any]]:
    """Five mixes of document lengths, longer ones cut at the chunk; s is the spread of the log-normal."""
    draw = np.random.default_rng(0)

    def lengths(mean: float, spread: float, count: int) -> np.ndarray[Any, Any]:
        return np.exp(draw.normal(np.log(mean) - spread**2 / 2, spread, count))

    made = {
        "mean 350, s 0.9": lengths(350, 0.9, DOCUMENTS),
        "mean 350, s 1.4": lengths(350, 1.4, DOCUMENTS),
        "70% of 350, 30% of 2,500": np.concatenate([lengths(350, 0.9, DOCUMENTS * 7 // 10), lengths(2500, 0.7, DOCUMENTS * 3 // 10)]),
        "mean 2,500, s 0.7": lengths(2500, 0.7, DOCUMENTS),
        "uniform 3,000 to 8,192": draw.integers(3000, CHUNK + 1, DOCUMENTS),
    }
    return {name: draw.permutation(np.clip(values.astype(np.int64), 8, CHUNK)) for name, values in made.items()}


def fill() -> list[Measurement]:
    """Chunks that the bound allows over those that were made, of a global plan and of one pass; TRL packs 1,000 rows at a time.

    The bound is ceil(tokens / chunk). Where most documents are longer than half a chunk no two of them share one, and no plan
    comes near it: there the bound is that of Martello and Toth, and no goal is set.
    """
    found = []
    for name, lengths in length_mixes().items():
        fit = np.median(lengths) <= CHUNK / 2
        bound = -(-int(lengths.sum()) // CHUNK) if fit else fewest_chunks(lengths, CHUNK)
        ours, theirs = bound / len(plan_chunks(lengths, CHUNK)), bound / chunks_by_trl(lengths)
        online = OnlineBestFit(CHUNK)
        closed = sum(online.add(place, length) is not None for place, length in enumerate(lengths.tolist()))
        title = name + ("" if fit else " (of what can be)")
        found.append(Measurement(f"fill, {title}", 100 * ours, 100 * theirs, ours / theirs, 99.9 if fit else None, "% of the bound",
                                 ours >= 0.999 if fit else None))
        streamed = bound / (closed + len(online.rest()))
        found.append(Measurement(f"fill in one pass, {title}", 100 * streamed, None, None, None, "% of the bound", None))
    return found


def chunks_by_trl(lengths: np.ndarray[Any, Any]) -> int:
    """Chunks that TRL's packing makes of documents of these lengths, a thousand at a time as SFTTrainer calls it."""
    from trl.data_utils import _pack_bfd

    chunks = 0
    for start in range(0, len(lengths), 1000):
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[start : start + 1000])]).astype(np.int32)
        documents = pyarrow.ListArray.from_arrays(offsets, np.zeros(offsets[-1], np.int8))
        chunks += len(_pack_bfd(pyarrow.table({"input_ids": documents}), CHUNK))
    return chunks


# --- the whole path -----------------------------------------------------------------------------


def whole_path(folder: Path) -> list[Measurement]:
    """From publishers' files to packed chunks over more and more rows, and on one core beside all."""
    runs = {rows: _path(rows, folder) for rows in PATH_ROWS}
    middle, largest = (runs[rows] for rows in PATH_ROWS[1:])
    # The slope of the line through the three points of log time over log rows.
    exponent = float(np.polyfit(np.log(PATH_ROWS), np.log([runs[rows]["seconds"] for rows in PATH_ROWS]), 1)[0])
    steepest = math.log(largest["seconds"] / middle["seconds"]) / math.log(PATH_ROWS[2] / PATH_ROWS[1])
    flatness = middle["megabytes"] / largest["megabytes"]
    one, all_cores = (_path(CORES_ROWS, folder, cores) for cores in (1, None))
    if one["root"] != all_cores["root"] or one["tokens"] != all_cores["tokens"]:
        raise SystemExit("one core and all of them came to different data")
    speedup, cores = one["seconds"] / all_cores["seconds"], all_cores["cores"]
    for run in (*runs.values(), one, all_cores):
        stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in run["by_stage"].items())
        peaks = ", ".join(f"{stage} {megabytes:.0f}" for stage, megabytes in run["megabytes_by_stage"].items())
        print(f"{run['rows']:,} rows, {run['cores']} cores: {run['seconds']:.1f} s ({stages}), peak {run['megabytes']:.0f} MB ({peaks}), "
              f"{run['tokens']:,} tokens", file=sys.stderr)
    return [
        Measurement("whole path: seconds of 10k, 100k, 1M rows grow with the exponent", exponent, None, 1.05 / exponent, 1.0, "",
                    exponent <= 1.05),
        Measurement("whole path: the same from 100k to 1M alone", steepest, None, 1.05 / steepest, 1.0, "", steepest <= 1.05),
        Measurement("whole path: peak memory of 1M rows; of 100k", largest["megabytes"], middle["megabytes"], flatness, 1 / 1.1, "MB",
                    flatness >= 1 / 1.1),
        Measurement(f"whole path: {CORES_ROWS:,} rows on {cores} cores; on 1", all_cores["seconds"], one["seconds"], speedup,
                    1.8 if cores == 2 else None, "s", speedup >= 1.8 if cores == 2 else None),
        Measurement("whole path: rows a second, all cores, 1M rows", PATH_ROWS[2] / largest["seconds"], None, None, None, "rows/s", None),
    ]


def _path(rows: int, folder: Path, cores: int | None = None) -> dict[str, Any]:
    """One measurement in a process of its own."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    done = subprocess.run((sys.executable, str(Path(__file__).with_name("data_path.py")), str(rows), str(folder)), check=True,
                          stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setaffinity(0, allowed))
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


# --- the table ----------------------------------------------------------------------------------


PARTS: dict[str, Callable[[Path], list[Measurement]]] = {
    "pack": tokenise_label_pack,
    "fill": lambda folder: fill(),
    "path": whole_path,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object a line instead of a table")
    parser.add_argument("--only", choices=PARTS, help="one part")
    asked = parser.parse_args()
    found: list[Measurement] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, part in PARTS.items():
            if asked.only in (None, name):
                folder = Path(scratch) / name
                folder.mkdir()
                found += part(folder)
    show(found, "TRL's", asked.json)


if __name__ == "__main__":
    main()
