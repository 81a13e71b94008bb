"""The whole data path, from publishers' files to packed chunks, over growing numbers of generated rows.

    python benchmarks/data_path.py ROWS FOLDER     one measurement in this process, printed as JSON

`benchmarks/data.py` starts this for each size, on one core and on all, and reads what it prints. The rows are made here:
words drawn by frequency as in natural text, three sources in three formats, 2% exact duplicates, 1% near ones, 0.2% leaks.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet

from med42.data.mix_data import mix_data
from med42.data.pack_data import pack_data
from med42.data.prepare_source import prepare_source
from med42.evaluation.prepare_benchmarks import prepare_benchmarks
from med42.lineage.artifact import Outcome, Plan, produce
from med42.lineage.journal import Job
from med42.recipe import Recipe, load_recipe
from med42.training.prepare_base import train_tokenizer

WORDS = 20_000  # different ones
MEAN_WORDS = 60  # of an answer; a question has a third of that
QUESTIONS = 1_000  # of the benchmark
SHARES = {"parquet": 0.6, "jsonl": 0.3, "csv": 0.1}
AT_ONCE = 50_000


def make_rows(rows: int, folder: Path) -> None:
    """Write the sources and the benchmark: the same bytes for the same number of rows."""
    draw = numpy.random.Generator(numpy.random.PCG64(42))
    letters = numpy.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = numpy.array(["".join(draw.choice(letters, 2 + draw.integers(9))) for _ in range(WORDS)])
    likely = 1 / numpy.arange(3, WORDS + 3)
    likely /= likely.sum()

    def texts(count: int, mean: int) -> list[str]:
        lengths = numpy.maximum(4, draw.lognormal(numpy.log(mean) - 0.32, 0.8, count).astype(int))
        drawn = words[draw.choice(WORDS, lengths.sum(), p=likely)]
        ends = numpy.cumsum(lengths)
        return [" ".join(drawn[end - length : end]) for end, length in zip(ends, lengths, strict=True)]

    questions = texts(QUESTIONS, 25)
    with (folder / "exam.jsonl").open("w") as file:
        for question in questions:
            options = dict(zip(("opa", "opb", "opc", "opd"), texts(4, 5), strict=True))
            file.write(json.dumps({"question": question, **options, "cop": 1, "subject_name": "made"}) + "\n")
    for kind, share in SHARES.items():
        left, number = int(rows * share), 0
        while left:
            count = min(left, AT_ONCE)
            asked, answers = texts(count, MEAN_WORDS // 3), texts(count, MEAN_WORDS)
            for place in range(count):
                if place % 50 == 1:
                    asked[place], answers[place] = asked[place - 1], answers[place - 1]
                elif place % 100 == 3:
                    asked[place], answers[place] = asked[place - 1], answers[place - 1] + " indeed"
                elif place % 500 == 5:
                    answers[place] += " " + questions[place // 500 % QUESTIONS]
            _write(folder, kind, number, asked, answers)
            left, number = left - count, number + 1


def _write(folder: Path, kind: str, number: int, asked: list[str], answers: list[str]) -> None:
    path = folder / f"rows-{number:03d}.{kind}"
    table = pyarrow.table({"instruction": asked, "input": [""] * len(asked), "output": answers})
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        lines = (f'"{question}",,"{answer}"\n' for question, answer in zip(asked, answers, strict=True))
        path.write_text("instruction,input,output\n" + "".join(lines))


def recipe_for(folder: Path, out: Path) -> Recipe:
    """A recipe whose three sources are the files of a folder."""
    sources = {
        kind: {"domain": "medical", "family": "meadow", "license": "Apache-2.0",
               "origin": {"kind": "file", "files": sorted(path.name for path in folder.glob(f"rows-*.{kind}"))}}
        for kind in SHARES
    }
    exam = {"family": "medmcqa", "license": "Apache-2.0", "origin": {"kind": "file", "files": ["exam.jsonl"]}}
    path = out / "recipe.yaml"
    path.write_text(json.dumps({
        "extends": "tiny", "name": "data-path", "sources": {**dict.fromkeys(load_recipe("tiny").sources), **sources},
        "evaluation": {"benchmarks": {**dict.fromkeys(load_recipe("tiny").evaluation.benchmarks), "exam": exam}},
        "gates": [], "pack": {"chunk": 8192}, "mix": {"dedup": {"near": True}},
    }))
    return load_recipe(path)


class Peak:
    """The most memory that this process and its workers hold together, in MB: proportional share of anonymous pages, sampled."""

    def __init__(self) -> None:
        self.megabytes, self._stopped = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(0.1):
            self.megabytes = max(self.megabytes, sum(map(_held, _family(os.getpid()))) / 1024)


def _family(process: int) -> list[int]:
    try:
        below = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []
    return [process, *(member for child in below for member in _family(int(child)))]


def _held(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        held = dict(line.split(":", 1) for line in lines[1:])
        # Shared file pages that the system may drop at will are no demand on memory.
        return sum(int(held[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem"))
    except (OSError, KeyError, ValueError):
        return 0


def main(rows: int, folder: Path) -> None:
    """Make the rows if they are not there, run the path, each stage in a process of its own, and print seconds and peaks."""
    data = folder / f"rows-{rows}"
    if not data.exists():
        data.mkdir(parents=True)
        make_rows(rows, data)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        out, job = Path(scratch), Job("benchmark", None, data)
        recipe = recipe_for(data, out)
        prepare_benchmarks(recipe, out / "exam", job)
        seconds, megabytes = dict.fromkeys(("prepare", "mix", "pack"), 0.0), dict.fromkeys(("prepare", "mix", "pack"), 0.0)

        def measured(name: str, stage: Callable[..., Any], *arguments: Any) -> None:
            told = out / "told.json"
            process = multiprocessing.get_context("spawn").Process(target=_run, args=(told, stage, *arguments))
            process.start()
            process.join()
            took, peak = json.loads(told.read_text())
            told.unlink()
            seconds[name], megabytes[name] = seconds[name] + took, max(megabytes[name], peak)

        for name in recipe.sources:
            measured("prepare", prepare_source, recipe, name, out / name, job)
        measured("mix", mix_data, recipe, [out / name for name in recipe.sources], out / "exam", out / "mix", job)
        # Not of the path: a published base comes with its tokenizer.
        produce(Plan("prepare_base", "model", {}, {}, "data"), out / "base", job, functools.partial(_tokenizer, data))
        measured("pack", pack_data, recipe, out / "mix", out / "base", out / "packed", job)
        manifest = json.loads((out / "mix" / "manifest.json").read_text())
        packed = json.loads((out / "packed" / "manifest.json").read_text())
        print(json.dumps({
            "rows": rows, "cores": len(os.sched_getaffinity(0)), "seconds": sum(seconds.values()), "by_stage": seconds,
            "megabytes": max(megabytes.values()), "megabytes_by_stage": megabytes,
            "kept": manifest["rows"], "root": manifest["merkle_root"], "tokens": packed["tokens"],
        }))


def _run(told: Path, stage: Callable[..., Any], *arguments: Any) -> None:
    with Peak() as peak:
        clock = time.monotonic()
        stage(*arguments)
        seconds = time.monotonic() - clock
    told.write_text(json.dumps([seconds, peak.megabytes]))


def _tokenizer(data: Path, draft: Path) -> Outcome:
    """Trains one on the first rows."""
    first = pyarrow.parquet.read_table(data / "rows-000.parquet").slice(0, 2_000)["output"].to_pylist()
    train_tokenizer(4096, first).save(str(draft / "tokenizer.json"))
    return Outcome()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
