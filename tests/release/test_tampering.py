"""Random tamperings of a whole, signed bundle are found and named, and malformed bundles end in one readable error.

MED42_TAMPERINGS and MED42_MALFORMED give how many; the full counts are 1,000 and 10,000.
"""

import contextlib
import copy
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from audit_chain import Chain, make_chain
from signing import make_key

from med42.cli.answers import QUESTIONS, answer, told_by
from med42.cli.withdrawal import differences, impact
from med42.errors import Med42Error
from med42.lineage.archive import read_archive, write_archive
from med42.lineage.bundle import check_chain, check_rows, check_signed, unpack
from med42.lineage.digest import canonical
from med42.lineage.graph import draw
from med42.lineage.record import Record
from med42.lineage.row_set import WIDTH
from med42.lineage.signature import KEY, find_signer, sign_entries

TAMPERINGS, MALFORMED = int(os.environ.get("MED42_TAMPERINGS", "70")), int(os.environ.get("MED42_MALFORMED", "400"))
CLOSING_WORDS = ("bundle.json", "signature.json", "signer.pem")


@pytest.fixture(scope="module")
def signed(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A bundle signed by one key, its entries, and another key that nobody trusts."""
    folder = tmp_path_factory.mktemp("signed")
    key, other = make_key(folder, "ours"), make_key(folder, "theirs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY, str(key))
        chain: Chain = make_chain(folder, tiny)
        patch.setenv(KEY, str(other))
        stranger = find_signer()
    content = chain.bundle.read_bytes()
    entries = {name: bytes(view) for name, view in read_archive(memoryview(content), "here").items()}
    return SimpleNamespace(content=content, entries=entries, trusted=key.with_suffix(".pub").read_bytes(), stranger=stranger)


def verify(content: bytes, trusted: bytes | None) -> Any:
    bundle = unpack(content, "here")
    check_chain(bundle, "here")
    check_rows(bundle, "here")
    check_signed(bundle, "here", trusted)
    return bundle


def refitted(entries: dict[str, bytes], index: dict[str, Any] | None = None) -> dict[str, bytes]:
    """Entries with an index that fits them again."""
    told = json.loads(entries["bundle.json"])
    listed = {name: hashlib.sha256(content).hexdigest() for name, content in entries.items()
              if name not in ("bundle.json", "signature.json")}
    told |= {"entries": listed, "recipe_digest": listed["recipe.json"], **(index or {})}
    return entries | {"bundle.json": canonical(told)}


def resigned(entries: dict[str, bytes], signer: Any) -> dict[str, bytes]:
    rest = {name: content for name, content in entries.items() if name != "signature.json"}
    rest = refitted(rest | {"signer.pem": signer.public})
    return rest | {"signature.json": sign_entries(rest, "tiny", signer)}


def with_record(entries: dict[str, bytes], name: str, change: Callable[[dict[str, Any]], None], deep: bool) -> dict[str, bytes]:
    """A record changed under its new digest; `deep` also changes all that descends from it, up to the subject."""
    records = {Record.model_validate(json.loads(content)).digest: json.loads(content)
               for entry, content in entries.items() if entry.startswith("records/")}
    digest = name.removeprefix("records/").removesuffix(".json")
    change(records[digest])
    renamed = {digest: Record.model_validate(records[digest]).digest}
    while deep and renamed[digest] != digest:  # circumstances are no part of a digest
        stale = next((old for old, told in records.items() if set(told["inputs"].values()) & renamed.keys()), None)
        if stale is None:
            break
        told = records[stale]
        told["inputs"] = {key: renamed.get(value, value) for key, value in told["inputs"].items()}
        renamed[stale] = Record.model_validate(told).digest
    rest = {entry: content for entry, content in entries.items() if not entry.startswith("records/")}
    rest |= {f"records/{renamed.get(old, old)}.json": canonical(told) for old, told in records.items()}
    for old, new in renamed.items():  # row sets go by their record's digest
        rest = {entry.replace(f"rows/{old}.", f"rows/{new}."): content for entry, content in rest.items()}
    subject = json.loads(entries["bundle.json"])["subject"]
    return refitted(rest, {"subject": renamed.get(subject, subject)})


# --- tampering ------------------------------------------------------------------------------------


def flip(bundle: SimpleNamespace, draw: random.Random) -> tuple[bytes, tuple[str, ...]]:
    place = draw.randrange(len(bundle.content))
    changed = bytearray(bundle.content)
    changed[place] ^= draw.randrange(1, 256)
    start = 0
    for name in sorted(bundle.entries):
        begin = bundle.content.index(b"PK\3\4", start) + 30 + len(name)
        start = begin + len(bundle.entries[name])
        if begin <= place < start:
            return bytes(changed), (name,)
    return bytes(changed), ()


def truncate(bundle: SimpleNamespace, draw: random.Random) -> tuple[bytes, tuple[str, ...]]:
    return bundle.content[: draw.randrange(len(bundle.content))], ()


def delete(bundle: SimpleNamespace, draw: random.Random) -> tuple[bytes, tuple[str, ...]]:
    name = draw.choice(sorted(bundle.entries))
    rest = {key: value for key, value in bundle.entries.items() if key != name}
    if draw.random() < 0.5 and name not in ("bundle.json", "recipe.json"):
        rest = refitted(rest)
    return write_archive(rest), (name, *CLOSING_WORDS, "no record")


def swap(bundle: SimpleNamespace, draw: random.Random) -> tuple[bytes, tuple[str, ...]]:
    one, two = draw.sample(sorted(bundle.entries), 2)
    return write_archive(bundle.entries | {one: bundle.entries[two], two: bundle.entries[one]}), (one, two, *CLOSING_WORDS)


def reorder(bundle: SimpleNamespace, draw: random.Random) -> tuple[bytes, tuple[str, ...]]:
    pieces, start = [], 0
    for name in sorted(bundle.entries):
        stop = start + 30 + len(name) + len(bundle.entries[name])
        pieces.append(bundle.content[start:stop])
        start = stop
    one, two = sorted(draw.sample(range(len(pieces)), 2))
    pieces[one], pieces[two] = pieces[two], pieces[one]
    return b"".join(pieces) + bundle.content[start:], tuple(sorted(bundle.entries)[one : two + 1])


def sign_again(bundle: SimpleNamespace, draw: random.Random) -> tuple[bytes, tuple[str, ...]]:
    return write_archive(resigned(bundle.entries, bundle.stranger)), ("signature.json",)


def change(draw: random.Random) -> Callable[[dict[str, Any]], None]:
    def one(record: dict[str, Any]) -> None:
        kind = draw.choice(("measured", "parameters", "files", "code", "made"))
        if kind in ("measured", "parameters"):
            record[kind]["planted"] = draw.random()
        elif kind == "files":
            record["files"]["planted"] = {"sha256": "00" * 32, "bytes": draw.randrange(100)}
        elif kind == "code":
            record["code"] = f"{draw.randrange(10**9):064d}"
        else:
            record["made"]["run"] = f"run-{draw.randrange(10**9)}"
    return one


def replace_record(bundle: SimpleNamespace, draw: random.Random) -> tuple[bytes, tuple[str, ...]]:
    name = draw.choice([name for name in sorted(bundle.entries) if name.startswith("records/")])
    entries = with_record(bundle.entries, name, change(draw), deep=draw.random() < 0.5)
    fate = draw.choice(("kept", "taken away", "made anew"))
    if fate == "taken away":
        entries = refitted({entry: content for entry, content in entries.items() if entry not in ("signature.json", "signer.pem")})
    elif fate == "made anew":
        entries = resigned(entries, bundle.stranger)
    return write_archive(entries), ("signature.json", "no record", "rows/", "another recipe")


KINDS = (flip, truncate, delete, swap, reorder, sign_again, replace_record)


def test_every_tampering_is_found_and_named(signed, capsys):
    verify(signed.content, signed.trusted)
    counts: Counter[str] = Counter()
    for number in range(TAMPERINGS):
        kind = KINDS[number % len(KINDS)]
        changed, names = kind(signed, random.Random(number))
        if changed == signed.content:
            continue
        with pytest.raises(Med42Error) as told:
            verify(changed, signed.trusted)
        words = str(told.value)
        assert words.startswith("here") and (not names or any(name in words for name in names)), (number, kind.__name__, names, words)
        counts[kind.__name__] += 1
    with capsys.disabled():
        print("\ntamperings found:", dict(counts))
    assert counts.total() == TAMPERINGS


# --- malformed ------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (None, True, -1, 0, 2**53 - 1, 1e300, -0.5, "", "x" * 10_000, "\x00\x1b[31m", "<script>", "../../etc", "é" * 99, [],
                        {}, [[]], {"": {}}, {"a": [None] * 50}, "00" * 32)


def odd_json(value: Any, draw: random.Random, places: int = 3) -> Any:
    """JSON with a few of its values replaced, removed or added to."""
    value = json.loads(json.dumps(value))
    for _ in range(draw.randrange(1, places + 1)):
        holder, key = {"": value}, ""
        while isinstance(holder[key], (dict, list)) and holder[key] and draw.random() < 0.85:
            holder = holder[key]
            key = draw.choice(list(holder)) if isinstance(holder, dict) else draw.randrange(len(holder))
        kind = draw.randrange(4)
        if kind == 0 and "" not in holder:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict) and "" not in holder:
            holder[f"new{draw.randrange(9)}"] = copy.deepcopy(draw.choice(ODD))
        else:
            holder[key] = copy.deepcopy(draw.choice(ODD))
        value = holder.get("", value) if isinstance(holder, dict) else value
    return value


def malformed(bundle: SimpleNamespace, draw: random.Random) -> bytes:
    """A bundle with something wrong: in its bytes, its headers, its JSON, its rows; often fitted together again."""
    entries = dict(bundle.entries)
    kind = draw.randrange(9)
    if kind == 0:
        return draw.randbytes(draw.randrange(3_000))
    if kind == 1:
        changed = bytearray(bundle.content)
        for _ in range(draw.randrange(1, 40)):
            place = draw.randrange(len(changed))
            changed[place : place + draw.randrange(3)] = draw.randbytes(draw.randrange(4))
        return bytes(changed)
    if kind == 2:  # headers and table of contents
        changed = bytearray(bundle.content)
        marks = [place for place in range(len(changed) - 4) if changed[place : place + 2] == b"PK"]
        for _ in range(draw.randrange(1, 4)):
            changed[draw.choice(marks) + draw.randrange(46) : ][:1] = b""
            place = draw.choice(marks) + draw.randrange(30)
            changed[place : place + 4] = draw.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", draw.randbytes(4)))
        return bytes(changed)
    names = sorted(entries)
    if kind == 3:
        name = draw.choice([name for name in names if name.endswith(".json")])
        text = entries[name]
        entries[name] = draw.choice((b"[" * 100_000, text[:-1], text.replace(b":", b": ", 1), b'{"a":1,"a":2}', b"1e999", b"9" * 5_000,
                                     b"\xff\xfe", b'{"a":NaN}', text.replace(b"{", b'{"schema":"x",', 1), text * 2, b"", b"null", b"[]",
                                     b'"\\ud800"'))
        if name == "bundle.json":
            return write_archive(entries)
    elif kind == 4:
        name = draw.choice([name for name in names if name.startswith("rows/")])
        rows = entries[name]
        at = draw.randrange(len(rows))
        entries[name] = draw.choice((rows[:at], rows[at:], rows[:at] + draw.randbytes(WIDTH) + rows[at:], b"[]\n", b"\n", b"[" * 70_000,
                                     draw.randbytes(99)))
    elif kind == 5:
        entries["signature.json"] = canonical(odd_json(json.loads(entries["signature.json"]), draw))
        return write_archive(entries)
    elif kind == 6:
        entries["bundle.json"] = canonical(odd_json(json.loads(entries["bundle.json"]), draw))
        return write_archive(entries)
    elif kind == 7:
        entries["recipe.json"] = canonical(odd_json(json.loads(entries["recipe.json"]), draw))
    else:
        name = draw.choice([name for name in names if name.startswith("records/")])

        def odd(record: dict[str, Any]) -> None:
            for part in draw.sample(("measured", "parameters", "inputs", "packages", "made"), 2):
                record[part] = odd_json(record[part], draw, 6)
        try:
            entries = with_record(entries, name, odd, deep=True)
        except ValueError:  # what no record can hold, under its old name
            told = json.loads(entries[name])
            odd(told)
            entries[name] = canonical(told)
    if draw.random() < 0.9:
        entries = refitted({entry: content for entry, content in entries.items() if entry not in ("signature.json", "signer.pem")})
    return write_archive(entries)


def look_into(content: bytes) -> str:
    """Everything that commands do with a bundle; returns what became of it."""
    try:
        bundle = verify(content, None)
    except Med42Error as error:
        assert str(error).startswith("here")
        return "refused"
    known = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, Med42Error)  # told as unreadable by the command
    told = told_by(bundle, "here", "")
    assert "<script" not in draw(bundle.subject, bundle.records)
    for number in range(1, len(QUESTIONS) + 1):
        with contextlib.suppress(*known):
            assert answer(told, number)
    for ask in (lambda: impact(bundle, "flashcards"), lambda: differences(bundle, bundle)):
        with contextlib.suppress(*known):
            ask()
    return "accepted"


def test_malformed_bundles_end_in_one_readable_error(signed, capsys):
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for number in range(MALFORMED):
        content = malformed(signed, random.Random(f"malformed {number}"))
        started = time.monotonic()
        outcomes[look_into(content)] += 1
        slowest = max(slowest, time.monotonic() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with capsys.disabled():
        print(f"\nmalformed bundles: {dict(outcomes)}, slowest {slowest:.2f} s, this process at most {peak / 1e6:.0f} MB")
    assert outcomes["refused"] > MALFORMED / 2
    assert slowest < 30


# --- as large as they may be ----------------------------------------------------------------------


def hoarding(kind: str, bundle: SimpleNamespace) -> bytes:
    entries = {name: content for name, content in bundle.entries.items() if name not in ("signature.json", "signer.pem")}
    name = next(name for name in sorted(entries) if name.startswith("records/"))
    if kind == "rows":
        count = 5_000_000
        digests = b"".join(number.to_bytes(32, "big") + b"\0\0" for number in range(1, count))
        entries[next(name for name in sorted(entries) if name.startswith("rows/") and "left_out" not in name)] = b'["a"]\n' + digests
    elif kind == "mappings":
        told = json.loads(entries[name])
        told["measured"]["all"] = [{} for _ in range(190_000)]
        entries[name] = canonical(told)
    elif kind == "keys":
        told = json.loads(entries[name])
        told["measured"]["all"] = {f"{number:x}": [number] for number in range(130_000)}
        entries[name] = canonical(told)
    elif kind == "records":
        entries |= {f"records/{number:064x}.json": entries[name] for number in range(1_900)}
    elif kind == "report":
        entries["report.html"] = b"x" * (31 << 20)
    elif kind == "entries":
        entries |= {f"statements/{number}.json": b"{}" for number in range(9_000)}
    elif kind == "labels":
        labels = canonical([str(number) for number in range(120_000)])
        entries[next(name for name in sorted(entries) if name.startswith("rows/"))] = labels + b"\n"
    return write_archive(refitted(entries))


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
sys.argv = ["med42", *sys.argv[1:]]
try:
    runpy.run_module("med42.cli.main", run_name="nothing")["app"]()
finally:
    # Not by getrusage, which remembers the memory of the process that started this one.
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print("peak", int(peak.split()[1]) // 1024, file=sys.stderr)
"""


@pytest.mark.parametrize("kind", ["rows", "mappings", "keys", "records", "report", "entries", "labels"])
def test_a_bundle_as_large_as_may_be_takes_little_memory_and_time(signed, tmp_path, kind):
    path = tmp_path / "large.med42"
    path.write_bytes(hoarding(kind, signed))
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", LIMITED, "audit", "verify", path], capture_output=True, text=True, timeout=120)
    seconds = time.monotonic() - started
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    peak = int(done.stderr.split("peak ")[1])
    print(f"{kind}: {path.stat().st_size / 1e6:.0f} MB, {seconds:.1f} s, {peak} MB")
    assert peak < 500


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.med42")
    for path in (tmp_path / "pipe.med42", Path("/dev/zero"), tmp_path):
        done = subprocess.run([sys.executable, "-c", LIMITED, "audit", "verify", path], capture_output=True, text=True, timeout=30)
        assert done.returncode == 1
        assert "no plain file" in done.stderr or "Is a directory" in done.stderr
