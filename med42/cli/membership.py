"""What `med42 audit contains` tells: whether a row was trained on, with a proof."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from med42.data.conversation import Message, row_digest
from med42.errors import Med42Error
from med42.lineage.bundle import Bundle
from med42.lineage.row_set import LEFT_OUT, ROWS, prove
from med42.preferences.pair import Pair

LARGEST = 64 << 20  # bytes of a file with rows


def asked_rows(row_or_file: str) -> list[tuple[str, str]]:
    """The digests that are asked for, each with where it comes from.

    A file holds one JSON value a line, or one or a list of them: a conversation (`{"messages": [...]}` or the list of turns)
    or a pair (`prompt`, `chosen`, `rejected`), in the form in which prepared rows have them.

    Raises:
        Med42Error: no digest and no such file.
    """
    if re.fullmatch(r"[0-9a-f]{64}", row_or_file):
        return [("row", row_or_file)]
    path = Path(row_or_file)
    try:
        if path.stat().st_size > LARGEST:
            raise Med42Error(path, f"{path.stat().st_size:,} bytes", f"at most {LARGEST:,}", "Ask for fewer rows at once.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Med42Error(row_or_file[:200], f"no row ({getattr(error, 'strerror', None) or 'not UTF-8'})",
                         "a row's digest (64 hex digits), or a JSON file with rows", "Check the path or the digest.") from error
    return [(f"{path}, row {number}", _digest(value, f"{path}, row {number}")) for number, value in enumerate(_values(text, path), 1)]


def memberships(bundle: Bundle, digest: str) -> Iterator[dict[str, Any]]:
    """For every set of rows: whether the row is in it, under which label, and the proof."""
    trained_on = {record.inputs.get("preferences") for record in bundle.of_stage("train_dpo")}
    for name, rows in sorted(bundle.rows.items(), key=lambda one: (bundle.records[one[0].partition(".")[0]].name, one[0])):
        owner, _, kind = name.partition(".")
        record = bundle.records[owner]
        place = rows.find(bytes.fromhex(digest))
        # Where rounds are trained on the model's own answers, published pairs gave their prompts alone.
        used = "trained on" if record.stage == "mix_data" or owner in trained_on else "asked for answers"
        told = {"record": record.name, "digest": record.digest, "set": "left out" if kind == LEFT_OUT else used,
                "in": place is not None, "label": rows.label(place) if place is not None else ""}
        yield told | ({"proof": prove(rows, digest)} if kind == ROWS else {})


def read_proofs(path: Path) -> list[dict[str, Any]]:
    """Proofs as `contains --proof` wrote them.

    Raises:
        Med42Error: the file is not there, or holds something else.
    """
    try:
        proofs = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(proofs, list) or not all(isinstance(proof, dict) for proof in proofs):
            raise ValueError("no list of proofs")
    except (OSError, ValueError, RecursionError) as error:
        raise Med42Error(path, f"no proofs ({error})", "what `audit contains --proof` wrote", "Check the path.") from error
    return proofs


def _values(text: str, path: Path) -> list[Any]:
    try:
        whole = json.loads(text)
        return whole if isinstance(whole, list) and whole and not _is_turn(whole[0]) else [whole]
    except (ValueError, RecursionError):
        pass
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise Med42Error(path, f"text that is not JSON ({error})", "JSON, or a JSON value a line", "Check the file.") from error


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value


def _digest(value: Any, where: str) -> str:
    try:
        if isinstance(value, dict) and {"prompt", "chosen", "rejected"} <= value.keys():
            return Pair(_turns(value["prompt"]), str(value["chosen"]), str(value["rejected"])).id
        return row_digest(_turns(value["messages"] if isinstance(value, dict) else value))
    except (KeyError, TypeError) as error:
        raise Med42Error(where, "no conversation and no pair", "messages with role and content, or prompt, chosen and rejected",
                         "Give the row as the prepared data has it.") from error


def _turns(value: Any) -> list[Message]:
    return [Message(role=str(turn["role"]), content=str(turn["content"])) for turn in value]
