"""What `med42 audit verify` prints, and how every audit command reads a bundle."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from med42.errors import Med42Error
from med42.lineage.archive import LARGEST
from med42.lineage.bundle import SIGNATURE, SIGNER, Bundle, check_artifacts, check_chain, check_rows, check_signed, unpack
from med42.lineage.digest import file_digest, folder_files
from med42.lineage.keyless import Identity
from med42.lineage.record import RECORD, read_record
from med42.lineage.signature import MODEL_SIGNATURE, check_signature


@dataclass(frozen=True)
class Verified:
    """A bundle in which nothing is wrong.

    Attributes:
        bundle: the bundle.
        rows: how many rows its sets tell of.
        signed_by: who signed it; empty where nobody did.
        trusted: the key, roots or identity that the caller gave to compare that with; None for none.
    """

    bundle: Bundle
    rows: int
    signed_by: str
    trusted: bytes | Identity | None


def read_bundle(path: Path, expected: Path | Identity | None = None) -> Verified:
    """Read a bundle and check all that one file can tell: digests, chain, gates, rows, signature.

    Args:
        path: the file.
        expected: who must have signed it: a file with their public key or root certificates, PEM, or their identity.

    Raises:
        Med42Error: it is not as it was sealed, not by whom it should be, or not there.
    """
    content = _read(path, "a bundle (*.med42)", LARGEST)
    trusted = _read(expected, "a public key or root certificates, PEM", 1 << 20) if isinstance(expected, Path) else expected
    bundle = unpack(content, path)
    check_chain(bundle, path)
    return Verified(bundle, check_rows(bundle, path), check_signed(bundle, path, trusted), trusted)


def print_verdict(path: Path, artifacts: Path | None, console: Console, expected: Path | Identity | None = None,
                  release: Path | None = None) -> bool:
    """Verify and say so in a few lines; True where nothing is wrong.

    Raises:
        Med42Error: the bundle is not as it was sealed.
    """
    verified = read_bundle(path, expected)
    bundle = verified.bundle
    problems = check_artifacts(bundle, artifacts) if artifacts else []
    problems += _release_problems(verified, release) if release else []
    for problem in problems:
        console.print(f"[bold red]changed[/] {escape(problem)}", soft_wrap=True)
    if problems:
        console.print(f"[bold red]FAILED[/] {path}: {len(problems)} problems")
        return False
    scope = f"{len(bundle.records)} records, chain complete to {bundle.subject.name}, {verified.rows:,} rows by digest"
    if artifacts:
        scope += f", every file of {len(bundle.records)} artifacts as recorded"
    if release:
        scope += f", {release} as published"
    console.print(f"[bold green]verified[/] {path}: {scope}", soft_wrap=True)
    console.print(_signed_words(verified), soft_wrap=True, highlight=False)
    return True


def _signed_words(verified: Verified) -> str:
    if not verified.signed_by:
        return "[dim]not signed: whoever could change the file could have made all of it[/]"
    if verified.trusted:
        return f"[bold green]signed[/] by {escape(verified.signed_by)}, as asked"
    ask = "--key FILE" if SIGNER in verified.bundle.entries else "--identity and --issuer"
    return f"[dim]signed by {escape(verified.signed_by)}; give {ask} to compare with one that you trust[/]"


def _release_problems(verified: Verified, folder: Path) -> list[str]:
    """How a published model, downloaded or in its folder, differs from what was published."""
    bundle = verified.bundle
    pushes = bundle.of_stage("push_model")
    if not pushes:
        return [f"{folder}: the bundle is about a refusal, nothing was published"]
    expected: dict[str, str] = pushes[0].measured["files"]
    found = {name: file_digest(folder / name) for name in folder_files(folder)
             if not name.startswith((".cache/", ".git/")) and name != ".gitattributes"}
    signature, record = found.pop(MODEL_SIGNATURE, ""), found.pop(RECORD, "")
    problems = [f"{folder / name}: {'missing' if name not in found else 'not what was published' if name in expected else 'added'}"
                for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    if not record or read_record(folder).digest != pushes[0].measured["record"]:
        problems.append(f"{folder / RECORD}: not the record of the published model")
    if signature and SIGNATURE in bundle.entries:
        try:
            check_signature((folder / MODEL_SIGNATURE).read_bytes(), bytes(bundle.entries.get(SIGNER, b"")), found | {RECORD: record},
                            folder / MODEL_SIGNATURE, verified.trusted)
        except Med42Error as error:
            problems.append(str(error))
    elif pushes[0].measured.get("signed_by") and not signature:
        problems.append(f"{folder / MODEL_SIGNATURE}: missing, though the model was signed")
    return problems


def _read(path: Path, expected: str, largest: int) -> bytes:
    """A plain file, of a size that is known before it is read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise Med42Error(path, "no plain file", expected, "Check the path.")
            if status.st_size > largest:
                raise Med42Error(path, f"{status.st_size:,} bytes", f"at most {largest:,}", "It is another kind of file.")
            return file.read(largest + 1)[:largest]
    except OSError as error:
        raise Med42Error(path, error.strerror or str(error), expected, "Check the path.") from error
