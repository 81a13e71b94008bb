"""The commands of `med42 audit`: all look into one bundle, offline, and check it whole before they tell anything."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from med42.cli.terminal import console, told_plainly
from med42.errors import Med42Error

audit = typer.Typer(help="Look into an audit bundle, offline.", no_args_is_help=True)

BundleArgument = Annotated[Path, typer.Argument(help="A *.med42 file.")]
KeyOption = Annotated[Path | None, typer.Option(
    "--key", help="Public key, or root certificates, of whoever must have signed it (PEM); without it, any signature or none will do.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


@audit.command()
def verify(
    bundle: BundleArgument,
    artifacts: Annotated[Path | None, typer.Option(help="Also compare every artifact below this folder.")] = None,
    release: Annotated[Path | None, typer.Option(help="Also compare a published model in this folder.")] = None,
    key: KeyOption = None,
    identity: Annotated[str, typer.Option(help="Who must have signed it without a key, as sigstore certified them.")] = "",
    issuer: Annotated[str, typer.Option(help="Of the token by which sigstore knew them.")] = "",
) -> None:
    """Check digests, chain, gates, rows and signature of a bundle; exit with 1 where anything is wrong, and name it."""
    from med42.cli.verify import print_verdict
    from med42.lineage.keyless import Identity

    with told_plainly():
        if bool(identity) != bool(issuer) or (identity and key):
            raise Med42Error("--identity", "half of one, or a key besides", "--identity with --issuer, or --key", "Give one of the two.")
        passed = print_verdict(bundle, artifacts, console(), Identity(identity, issuer) if identity else key, release)
    raise typer.Exit(0 if passed else 1)


@audit.command()
def show(
    bundle: BundleArgument,
    question: Annotated[int | None, typer.Option("--question", "-q", min=1, max=20, help="Only this one of the twenty.")] = None,
    as_json: JsonOption = False,
    key: KeyOption = None,
) -> None:
    """Answer the twenty questions of an auditor, in words. Evidence for a review; it certifies nothing."""
    from med42.cli.answers import QUESTIONS, answer, told_by
    from med42.cli.verify import read_bundle

    with told_plainly(), _records_as_known(bundle):
        verified = read_bundle(bundle, key)
        told = told_by(verified.bundle, str(bundle), verified.signed_by)
        numbers = [question] if question else range(1, len(QUESTIONS) + 1)
        answers = {number: answer(told, number) for number in numbers}
    if as_json:
        listed = [{"number": number, "question": QUESTIONS[number - 1][0], "answer": lines} for number, lines in answers.items()]
        print(json.dumps(listed, indent=1))
        return
    for number, lines in answers.items():
        console().print(f"[bold]{number}. {QUESTIONS[number - 1][0]}[/]", highlight=False)
        for line in lines:
            _say(f"   {line}")


@audit.command()
def contains(
    bundle: BundleArgument,
    row: Annotated[str, typer.Argument(metavar="ROW|FILE", help="A row's digest (64 hex digits), or a JSON file with rows.")],
    proof: Annotated[Path | None, typer.Option(help="Write the proofs here; `audit check-proof` needs no bundle.")] = None,
    as_json: JsonOption = False,
    key: KeyOption = None,
) -> None:
    """Tell whether a row was trained on, with a proof, and without any of its text. Exits with 0 either way."""
    from med42.cli.membership import asked_rows, memberships
    from med42.cli.verify import read_bundle

    with told_plainly():
        asked = asked_rows(row)
        held = read_bundle(bundle, key).bundle
        found: list[dict[str, Any]] = [{"asked": where, "row": digest, "sets": list(memberships(held, digest))} for where, digest in asked]
        if proof:
            proofs = [told["proof"] | {"record": told["digest"]} for one in found for told in one["sets"] if "proof" in told]
            _write(proof, json.dumps(proofs, indent=1) + "\n")
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for one in found:
        trained = any(told["in"] and told["set"] == "trained on" for told in one["sets"])
        verdict = "trained on" if trained else "not trained on"
        console().print(f"[bold]{verdict}[/] {escape(one['asked'])} {one['row']}", highlight=False, soft_wrap=True)
        for told in one["sets"]:
            words = f"in, from {told['label']}" if told["in"] and "proof" in told else f"in: {told['label']}" if told["in"] else "not in"
            if "proof" in told:
                leaves = " and ".join(f"row {leaf['place']:,}" for leaf in told["proof"]["leaves"]) or "no row"
                words += f"; proven by {leaves} of {told['proof']['size']:,} and the root {told['proof']['root'][:16]}"
            _say(f"   {told['record']}, {told['set']}: {words}")


@audit.command("check-proof")
def check_proof_(
    proof: Annotated[Path, typer.Argument(help="What `contains --proof` wrote.")],
    root: Annotated[str, typer.Option(help="The Merkle root of a set of rows, as question 2 of `show` tells it.")],
) -> None:
    """Check a proof against a root, without the bundle."""
    from med42.cli.membership import read_proofs
    from med42.lineage.row_set import check_proof

    with told_plainly():
        proofs = [one for one in read_proofs(proof) if one.get("root") == root]
        if not proofs:
            raise Med42Error(proof, "no proof about this root", root[:16], "Compare the root with that of `audit show -q 2`.")
        for one in proofs:
            _say(f"{one['row']}: {'in' if check_proof(one, root) else 'not in'} the {one['size']:,} rows of root {root[:16]}")


@audit.command()
def impact(
    bundle: BundleArgument,
    asked: Annotated[str, typer.Argument(metavar="SOURCE|ROW|REVISION", help="A source's name, a row's digest, or a revision.")],
    as_json: JsonOption = False,
    key: KeyOption = None,
) -> None:
    """Tell what a withdrawal touches: models, rounds, scores, releases; and what a retrain would use again and cost."""
    from med42.cli.verify import read_bundle
    from med42.cli.withdrawal import impact as find

    with told_plainly(), _records_as_known(bundle):
        found = find(read_bundle(bundle, key).bundle, asked)
    if as_json:
        print(json.dumps({"what": found.what, "touched": {record.name: record.digest for record in found.touched},
                          "kept": {record.name: record.digest for record in found.kept}, "seconds": found.seconds}, indent=1))
        return
    _say(f"withdrawn: {found.what}")
    for record in found.touched:
        _say(f"   touched {record.name} ({record.kind}, {record.digest[:16]}): made again in about {record.made.seconds:,.1f} s")
        if record.stage == "push_model":
            _say(f"           published: {record.measured.get('kind')} {record.measured.get('where')}")
    _say(f"a retrain makes {len(found.touched)} artifacts again, in about {found.seconds:,.0f} s of stages as they took before; "
         f"it uses {len(found.kept)} again: {', '.join(record.name for record in found.kept) or 'none'}")


@audit.command()
def diff(first: BundleArgument, second: BundleArgument, as_json: JsonOption = False) -> None:
    """Tell how two releases differ: data, recipe, code, scores, verdict."""
    from med42.cli.verify import read_bundle
    from med42.cli.withdrawal import differences

    with told_plainly(), _records_as_known(first):
        found = differences(read_bundle(first).bundle, read_bundle(second).bundle)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for part, lines in found.items():
        console().print(f"[bold]{part}[/] {'' if lines else 'the same'}", highlight=False)
        for line in lines:
            _say(f"   {line}")


@audit.command()
def replay(
    bundle: BundleArgument,
    into: Annotated[Path, typer.Option("--into", help="Folder for the recipe and its lock file.")] = Path("replay"),
    data_root: Annotated[Path | None, typer.Option(help="Folder in which the recipe's files are looked up.")] = None,
) -> None:
    """Write the exact recipe and lock of a release, print the command that makes it again, and what of it is gone here."""
    from med42.cli.replay import gone, sought, write_replay
    from med42.cli.verify import read_bundle

    with told_plainly(), _records_as_known(bundle):
        held = read_bundle(bundle).bundle
        recipe, lock = write_replay(held, into)
        missing = list(gone(held, data_root))
    _say(f"recipe {recipe} ({held.index['recipe_digest'][:16]}), lock {lock}")
    for commit in sorted({record.made.commit + " with uncommitted changes" * record.made.dirty for record in held.records.values()}):
        _say(f"code   {commit or 'from no checkout'}")
    for line in sought(held):
        _say(f"fetch  {line}")
    for line in missing:
        _say(f"gone   {line}")
    _say(f"run    med42 run {recipe}{f' --data-root {data_root}' if data_root else ''}")
    _say("       then: med42 audit diff " + f"{bundle} work/runs/RUN/{bundle.name}")


@audit.command()
def export(
    bundle: BundleArgument,
    form: Annotated[str, typer.Option("--format", help="openlineage, cyclonedx or intoto.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write; standard output otherwise.")] = None,
) -> None:
    """Write a bundle's content for other tools: OpenLineage events or in-toto statements, one a line, or the CycloneDX bill."""
    from med42.cli.verify import read_bundle

    with told_plainly(), _records_as_known(bundle):
        held = read_bundle(bundle).bundle
        if form == "openlineage":
            from med42.lineage.graph import in_order
            from med42.lineage.openlineage import events

            if importlib.util.find_spec("openlineage") is None:
                raise Med42Error("openlineage", "not installed", "openlineage-python", "Install this package with its extra 'release'.")
            text = "\n".join(events(held.index["recipe"], in_order(held.subject, held.records), held.records)) + "\n"
        elif form == "cyclonedx":
            text = held.bill.decode()
        elif form == "intoto":
            text = b"\n".join(statement for _, statement in sorted(held.statements.items())).decode() + "\n"
        else:
            raise Med42Error("--format", f"'{form}'", "openlineage, cyclonedx or intoto", "Choose one of the three.")
        _write(output, text) if output else print(text, end="")


@audit.command()
def graph(
    bundle: BundleArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write; standard output otherwise.")] = None,
) -> None:
    """Draw what was made of what, as SVG."""
    from med42.cli.verify import read_bundle
    from med42.lineage.graph import draw

    with told_plainly():
        held = read_bundle(bundle).bundle
        text = draw(held.subject, held.records) + "\n"
        _write(output, text) if output else print(text, end="")


@contextmanager
def _records_as_known(bundle: Path) -> Iterator[None]:
    """A record may hold anything: what a command cannot make sense of is told as such."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise Med42Error(bundle, f"a record that this version cannot read ({type(error).__name__}: {str(error)[:200]})",
                         "records as the stages of this version write them", "Look into it with the version that sealed it.") from error


def _say(text: str) -> None:
    """A line whose words come from a bundle: no markup, no control characters."""
    plain = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
    console().print(plain, markup=False, highlight=False, soft_wrap=True)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Med42Error(path, error.strerror or str(error), "a file that can be written", "Choose another place.") from error
