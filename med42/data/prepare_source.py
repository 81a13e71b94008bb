"""The stage `prepare_source`: one source's rows become conversations, or a reason why not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

from med42.data.conversation import Conversation, Dropped, row_digest
from med42.data.families import find_family
from med42.data.pages import account_blocks
from med42.data.readers import Located, locate
from med42.data.row import ColumnError, Row
from med42.data.shards import ConversationWriter
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.journal import Job
from med42.lineage.record import Record
from med42.recipe import Recipe
from med42.recipe.schema import Source
from med42.report import page


class Converter(Protocol):
    """A module of `med42.data.sources`."""

    def conversations(self, row: Row, source: Source) -> Iterator[Conversation | Dropped]:
        """Conversations of one row, or why there is none."""
        ...


@stage
def prepare_source(recipe: Recipe, name: str, out: Path, job: Job) -> Record:
    """Read one source of the recipe and write its conversations.

    Args:
        recipe: the resolved recipe.
        name: the source's key in the recipe.
        out: folder to make.
        job: the run, its store, and where files are looked up.

    Raises:
        Med42Error: the source cannot be found or read, has other columns, or gives no conversation.
    """
    source, key = recipe.sources[name], f"sources.{name}"
    converter = find_converter(source.family, key)
    located = locate(source.origin, job.data_root, recipe.seed, f"{key}.origin")
    labels = locate(source.labels, job.data_root, recipe.seed, f"{key}.labels") if source.labels else None
    settings = source.model_dump(mode="json", exclude={"rows", "weight", "paper_percent"})
    plan = Plan(
        stage="prepare_source", name=f"prepare_source-{name}", kind="conversations",
        parameters={"name": name, "source": settings, "pinned": located.pinned, "labels": labels.pinned if labels else {}},
        inputs={}, layer="data", packages=("pyarrow",),
    )
    return produce(plan, out, job, lambda draft: _prepare(name, source, _with_labels(converter, labels, key), located, draft))


def _with_labels(converter: Converter, labels: Located | None, key: str) -> Converter:
    if labels is None:
        return converter
    if not hasattr(converter, "labelled"):
        raise Med42Error(f"{key}.labels", "labels for a family that takes none", "no such key", "Remove it.")
    try:
        return cast(Converter, converter.labelled(row for _, row in labels.rows()))
    except ColumnError as error:
        raise Med42Error(f"{key}.labels, column '{error.column}'", error.found, error.expected, "Check the files of the labels.") from error


def find_converter(family: str, key: str) -> Converter:
    """The converter of a source family.

    Raises:
        Med42Error: there is none of that name.
    """
    return cast(Converter, find_family("med42.data.sources", family, key))


def _prepare(name: str, source: Source, converter: Converter, located: Located, draft: Path) -> Outcome:
    writer, seen, rows = ConversationWriter(draft), set[str](), 0
    for place, row in located.rows():
        rows += 1
        try:
            for result in converter.conversations(row, source):
                if isinstance(result, Dropped):
                    writer.drop(name, place, "", result.reason)
                elif (row_id := row_digest(result)) in seen:
                    writer.drop(name, place, row_id, "duplicate inside the source")
                else:
                    seen.add(row_id)
                    writer.keep(name, row_id, result)
        except ColumnError as error:
            raise Med42Error(f"{place}, column '{error.column}'", error.found, error.expected,
                             f"The file is not in the form of family '{source.family}'; check sources.{name}.") from error
    manifest = writer.close()
    account = manifest["sources"].get(name, {"kept": 0, "dropped": {}})
    if not account["kept"]:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in account["dropped"].items()) or "no rows"
        raise Med42Error(f"sources.{name}", f"no conversation in {rows} rows ({reasons})", "at least one",
                         "Check the source's family and files.")
    (draft / "page.html").write_text(page.page(
        f"Source {name}", f"{rows:,} rows of family {source.family} ({source.license}) gave {account['kept']:,} conversations.",
        account_blocks(manifest),
    ))
    return Outcome({"rows": rows, "merkle_root": manifest["merkle_root"], "accounts": manifest["sources"], "license": source.license,
                    "summary": f"{account['kept']:,} of {account['read']:,} conversations"})
