"""The stage `prepare_source`: one source's rows become conversations, or a reason why not.

Blocks of rows are converted and examined side by side on the machine's cores; what is left in this process is to find
duplicates and to write. A big source may be prepared in parts, by tasks of their own: see `med42.recipe.parts`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import pyarrow

from med42.data.conversation import Conversation, Dropped, row_digest
from med42.data.families import find_family
from med42.data.pages import account_blocks
from med42.data.parallel import ordered_map
from med42.data.phi import Account, PhiGate, detector_packages, phi_blocks, phi_report, recall, stop_on
from med42.data.readers import Block, Located, locate
from med42.data.row import ColumnError, Row
from med42.data.seen import Seen
from med42.data.shards import KEPT, ConversationWriter
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.journal import Job, Progress
from med42.lineage.record import Record
from med42.recipe import Recipe
from med42.recipe.parts import WHOLE, source_of, which_part
from med42.recipe.schema import Part, Source
from med42.report import page

PHI = "phi.json"
PLACED = pyarrow.schema([*KEPT, ("place", pyarrow.string())])


class Converter(Protocol):
    """A module of `med42.data.sources`."""

    def conversations(self, row: Row, source: Source) -> Iterator[Conversation | Dropped]:
        """Conversations of one row, or why there is none."""
        ...


@stage
def prepare_source(recipe: Recipe, name: str, out: Path, job: Job) -> Record:
    """Read one source of the recipe, or a part of it, and write its conversations.

    Args:
        recipe: the resolved recipe.
        name: the source's key in the recipe, or one of its parts.
        out: folder to make.
        job: the run, its store, and where files are looked up.

    Raises:
        Med42Error: the source cannot be found or read, has other columns, or gives no conversation.
    """
    part, source = which_part(name), recipe.sources[source_of(name)]
    key = f"sources.{source_of(name)}"
    find_converter(source.family, key)
    located = locate(recipe, f"{key}.origin", source.origin, job.data_root)
    labels = locate(recipe, f"{key}.labels", source.labels, job.data_root) if source.labels else None
    settings = source.model_dump(mode="json", exclude={"rows", "weight", "paper_percent", "paper_rows", "shards"})
    plan = Plan(
        stage="prepare_source", name=f"prepare_source-{name}", kind="conversations",
        parameters={"name": source_of(name), "source": settings, "pinned": located.pinned, "labels": labels.pinned if labels else {},
                    "phi": recipe.phi.model_dump(mode="json"), "seed": recipe.seed}
        | ({"part": part.model_dump()} if part != WHOLE else {}),
        inputs={}, layer="data", packages=("pyarrow", *detector_packages(recipe.phi)),
    )
    return produce(plan, out, job, lambda draft: _prepare(recipe, source_of(name), part, labels, located, draft, job))


def find_converter(family: str, key: str) -> Converter:
    """The converter of a source family.

    Raises:
        Med42Error: there is none of that name.
    """
    return cast(Converter, find_family("med42.data.sources", family, key))


@dataclass(frozen=True)
class Converted:
    """What came of a block of rows.

    Attributes:
        rows: how many there were.
        kept: the conversations, with the place of each.
        dropped: place and reason of each that is left out.
        phi: what the PHI gate saw.
    """

    rows: int
    kept: pyarrow.Table
    dropped: list[tuple[str, str]]
    phi: Account


def _converting(recipe: Recipe, name: str, labelled: Converter | None) -> Callable[[Block], Converted]:
    source = recipe.sources[name]
    converter = labelled or find_converter(source.family, f"sources.{name}")
    gate = PhiGate(recipe.phi, source.phi, recipe.seed)

    def convert(block: Block) -> Converted:
        rows, places, ids, kept = 0, list[str](), list[str](), list[Conversation]()
        dropped: list[tuple[str, str]] = []
        for place, row in block.rows():
            rows += 1
            try:
                for result in converter.conversations(row, source):
                    judged = result if isinstance(result, Dropped) else gate.judge(row_digest(result), result)
                    if isinstance(judged, Dropped):
                        dropped.append((place, judged.reason))
                        continue
                    places.append(place)
                    ids.append(row_digest(judged))
                    kept.append(judged)
            except ColumnError as error:
                raise Med42Error(f"{place}, column '{error.column}'", error.found, error.expected,
                                 f"The file is not in the form of family '{source.family}'; check sources.{name}.") from error
        return Converted(rows, pyarrow.table([ids, [name] * len(ids), kept, places], schema=PLACED), dropped, gate.take())

    return convert


def _labelled(source: Source, labels: Located | None, key: str) -> Converter | None:
    if labels is None:
        return None
    converter = find_converter(source.family, key)
    if not hasattr(converter, "labelled"):
        raise Med42Error(f"{key}.labels", "labels for a family that takes none", "no such key", "Remove it.")
    try:
        return cast(Converter, converter.labelled(row for _, row in labels.rows()))
    except ColumnError as error:
        raise Med42Error(f"{key}.labels, column '{error.column}'", error.found, error.expected, "Check the files of the labels.") from error


def _prepare(recipe: Recipe, name: str, part: Part, labels: Located | None, located: Located, draft: Path, job: Job) -> Outcome:
    source, key = recipe.sources[name], f"sources.{name}"
    writer, seen, phi, rows = ConversationWriter(draft), Seen(), Account(), 0
    progress = Progress(job, f"prepare_source-{name}", None, "rows")
    blocks = (block for number, block in enumerate(located.blocks()) if number % part.of == part.index - 1)
    work = functools.partial(_converting, recipe, name, _labelled(source, labels, key))
    for done in ordered_map(work, blocks):
        rows += done.rows
        progress.step(rows)
        phi.merge(done.phi, recipe.phi.planted)
        stop_on(phi, recipe.phi, source.phi, key)
        new = seen.add([bytes.fromhex(row_id) for row_id in done.kept["id"].to_pylist()])
        again = done.kept.filter(~new)
        writer.keep(name, done.kept.filter(new).select(KEPT.names))
        writer.drop(name, [place for place, _ in done.dropped], [""] * len(done.dropped), [reason for _, reason in done.dropped])
        writer.drop(name, again["place"].to_pylist(), again["id"].to_pylist(), ["duplicate inside the source"] * again.num_rows)
    manifest = writer.close()
    account = manifest["sources"].get(name, {"read": 0, "kept": 0, "dropped": {}})
    if not account["kept"] and part == WHOLE:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in account["dropped"].items()) or "no rows"
        raise Med42Error(key, f"no conversation in {rows} rows ({reasons})", "at least one",
                         "Check the source's family and files.")
    found = phi_report(phi, recipe.phi, source.phi, recipe.seed)
    told = {key: found[key] for key in ("detector", "policy", "examined", "with_findings", "acted_on")}
    sure = recall([found]).values()
    told["planted"] = {"identifiers": sum(one["planted"] for one in sure), "found": sum(one["found"] for one in sure)}
    (draft / PHI).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    of = "" if part == WHOLE else f", part {part.index} of {part.of}"
    (draft / "page.html").write_text(page.page(
        f"Source {name}{of}", f"{rows:,} rows of family {source.family} ({source.license}) gave {account['kept']:,} conversations.",
        [*account_blocks(manifest), *phi_blocks({name: found})],
    ))
    return Outcome({"rows": rows, "merkle_root": manifest["merkle_root"], "accounts": manifest["sources"], "license": source.license,
                    "phi": told,
                    "summary": f"{account['kept']:,} of {account['read']:,} conversations"})
