"""How large audit bundles are and how long checking one takes, on one core of this machine.

    python benchmarks/audit.py            prints a table
    python benchmarks/audit.py --json     prints one object a line: name, ours, peer, ratio, goal, unit, met

A bundle is that of a release of three rounds: 23 records, a mix of so many rows with half as many left out, and 60,000 pairs a
round at a million rows. `med42 audit verify` is a process of its own, started and ended, with a signature checked by a given key.
The peer of the row sets is pymerkle 7, where it is installed: the same root of the same rows, and a proof.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measurement import Measurement, machine

from med42.lineage.artifact import Outcome, Plan, produce
from med42.lineage.digest import merkle_root
from med42.lineage.journal import Job
from med42.lineage.record import CARRIED, read_record
from med42.lineage.row_set import LEFT_OUT, ROWS, check_proof, prove, read_row_set, write_row_set
from med42.lineage.signature import KEY
from med42.recipe import Recipe, load_recipe, recipe_digest
from med42.release.seal_audit import seal_audit

SIZES = (10_000, 100_000, 1_000_000)
TIMES = 3
PEER_ROWS = 100_000
LABELS = 40


def digests(name: str, count: int) -> bytes:
    """The digests of so many made-up rows."""
    return b"".join(hashlib.sha256(f"{name} {number}".encode()).digest() for number in range(count))


def chain(folder: Path, recipe: Recipe, rows: int) -> Path:
    """Artifacts of a whole release whose row sets have that many rows; returns the last."""
    job = Job("benchmark")

    def make(name: str, stage: str, kind: str, inputs: dict[str, str], measured: dict[str, Any], count: int = 0, left: int = 0) -> Path:
        def build(draft: Path) -> Outcome:
            (draft / "file").write_text(name)
            told = dict(measured)
            for file, many in ((ROWS, count), (LEFT_OUT, left)):
                if many:
                    held = digests(f"{name} {file}", many)
                    labels = [f"label {number}" for number in range(LABELS)]
                    write_row_set(draft / file, labels, iter([(held, [number % LABELS for number in range(many)])]))
                    if file == ROWS:
                        told["merkle_root"] = merkle_root(held)
            return Outcome(told)

        parameters = {"recipe": recipe_digest(recipe)} if stage in ("decide_release", "push_model") else {"of": name}
        paths = {key: folder / of for key, of in inputs.items()}
        produce(Plan(stage, kind, parameters, paths, "release", (), name), folder / name, job, build)
        return folder / name

    sources = [make(f"prepare_source-{number}", "prepare_source", "conversations", {}, {}) for number in range(8)]
    make("benchmarks", "prepare_benchmarks", "benchmarks", {}, {})
    make("mix", "mix_data", "conversations", {f"source-{path.name}": path.name for path in sources}, {}, rows, rows // 2)
    make("base", "prepare_base", "model", {"mix": "mix"}, {})
    model = make("sft", "train_sft", "model", {"base": "base", "mix": "mix"}, {}).name
    for number in (1, 2, 3):
        make(f"pairs-{number}", "build_preferences", "preferences", {"benchmarks": "benchmarks"}, {}, max(rows * 6 // 100, 1))
        model = make(f"dpo-{number}", "train_dpo", "model", {"policy": model, "preferences": f"pairs-{number}"}, {}).name
        make(f"scores-{number}", "evaluate_model", "scores", {"model": model, "benchmarks": "benchmarks"},
             {"scores": {}, "history": [], "average": 0.5, "protocol": ""})
    make("decision", "decide_release", "decision", {"scores": "scores-3"}, {"approved": True, "verdicts": []})
    return make("push", "push_model", "release", {"decision": "decision", "model": model}, {"files": {}, "kind": "directory", "where": "x"})


def bundles(folder: Path) -> Iterator[Measurement]:
    """Size, and time and memory of checking, by rows."""
    recipe, key = load_recipe("tiny"), folder / "key.pem"
    subprocess.run(("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key), check=True)
    public = folder / "key.pub"
    subprocess.run(("openssl", "ec", "-in", key, "-pubout", "-out", public), check=True, capture_output=True)
    os.environ[KEY] = str(key)
    for rows in SIZES:
        place = folder / str(rows)
        place.mkdir()
        subject = chain(place, recipe, rows)
        started = time.monotonic()
        record = seal_audit(recipe, subject, place / "seal", Job("benchmark"))
        sealed = time.monotonic() - started
        path = place / "seal" / record.measured["bundle"]
        runs = [verified(path, public) for _ in range(TIMES)]
        name = f"{rows:,} rows"
        last = rows == SIZES[-1]
        yield of_ours(f"{name}: bundle", path.stat().st_size / 1e6, "MB", 100 if last else None)
        yield of_ours(f"{name}: sealed and signed in", sealed, "s", None)
        clock, processor, memory = (statistics.median(run[part] for run in runs) for part in range(3))
        yield of_ours(f"{name}: verified in", clock, "s", None)  # by the clock, which others on the machine slow down
        yield of_ours(f"{name}: verified, of the processor", processor, "s", 5 if last else None)
        yield of_ours(f"{name}: memory of verifying", memory, "MB", 500 if last else None)
        mix = next(file for file in (subject / CARRIED).iterdir() if file.name == f"{read_record(place / 'mix').digest}.{ROWS}")
        content = memoryview(mix.read_bytes())
        started = time.monotonic()
        held = read_row_set(content, mix)
        proof = prove(held, held.digest(len(held) // 2).hex())
        yield of_ours(f"{name}: one proof", time.monotonic() - started, "s", None)
        yield of_ours(f"{name}: one proof", len(json.dumps(proof)) / 1e3, "kB", None)


COMMAND = """
import sys, time
from med42.cli.main import app
try:
    app()
finally:
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print("peak", int(peak.split()[1]) * 1024, time.process_time(), file=sys.stderr)
"""


def verified(path: Path, public: Path) -> tuple[float, float, float]:
    """Seconds by the clock and of the processor, and MB, of `med42 audit verify --key` on one core, started and ended."""
    core = min(os.sched_getaffinity(0))
    command = ("taskset", "--cpu-list", str(core), sys.executable, "-c", COMMAND, "audit", "verify", path, "--key", public)
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.monotonic() - started
    assert "verified" in done.stdout and "as asked" in done.stdout, done.stdout
    peak, processor = done.stderr.split("peak ")[1].split()
    return seconds, float(processor), int(peak) / 1e6


def peers(folder: Path) -> Iterator[Measurement]:
    """A row set's root and proof beside pymerkle's, of the same rows."""
    try:
        from pymerkle import InmemoryTree
    except ImportError:
        print("pymerkle is not installed: no peer for the row sets", file=sys.stderr)
        return
    write_row_set(folder / "rows", ["all"], iter([(digests("peer", PEER_ROWS), [0] * PEER_ROWS)]))
    content = memoryview((folder / "rows").read_bytes())
    mine, theirs = [], []
    for _ in range(TIMES):
        started = time.monotonic()
        held = read_row_set(content, "rows")
        wanted = held.digest(PEER_ROWS // 3)
        proof = prove(held, wanted.hex())
        mine.append(time.monotonic() - started)
        started = time.monotonic()
        tree = InmemoryTree(algorithm="sha256")
        for row in range(PEER_ROWS):
            tree.append_entry(held.digest(row))
        tree.prove_inclusion(PEER_ROWS // 3 + 1)
        theirs.append(time.monotonic() - started)
        assert tree.get_root().hex() == held.root and check_proof(proof, held.root), "both trees are RFC 6962's"
    ours, peer = statistics.median(mine), statistics.median(theirs)
    yield Measurement(f"{PEER_ROWS:,} rows: root and a proof", ours, peer, peer / ours, 1, "s", peer >= ours)


def of_ours(name: str, value: float, unit: str, most: float | None) -> Measurement:
    """A measurement without a peer, which should be at most so much."""
    return Measurement(name, value, None, None, most, unit, None if most is None else value <= most)


def table(found: list[Measurement]) -> str:
    """The measurements in Markdown."""
    lines = ["| measured | ours | peer | goal | |", "|---|---:|---:|---:|---|"]
    for one in found:
        peer = f"{one.peer:.2f} {one.unit} ({one.ratio:.1f} x)" if one.peer is not None else ""
        goal = "" if one.goal is None else f"{one.goal:g} x" if one.peer is not None else f"at most {one.goal:g} {one.unit}"
        met = "" if one.met is None else "met" if one.met else "MISSED"
        lines.append(f"| {one.name} | {one.ours:.2f} {one.unit} | {peer} | {goal} | {met} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object a line instead of a table")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, Path(os.devnull).open("w") as quiet:
        Path(scratch, "peer").mkdir()
        out, sys.stdout = sys.stdout, quiet  # stages tell what they do
        try:
            found = [*bundles(Path(scratch)), *peers(Path(scratch, "peer"))]
        finally:
            sys.stdout = out
    print(machine(), file=sys.stderr if asked.json else sys.stdout)
    print("\n".join(json.dumps(asdict(one)) for one in found) if asked.json else table(found))


if __name__ == "__main__":
    main()
