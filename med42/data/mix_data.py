"""The stage `mix_data`: shares of each source, without benchmark text and without duplicates across sources."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from med42.data.conversation import order
from med42.data.decontaminate import Overlap, overlap_with
from med42.data.licences import terms_of
from med42.data.pages import account_blocks
from med42.data.shards import ConversationWriter, read_shards
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.journal import Job
from med42.lineage.record import Record, read_record
from med42.recipe import Recipe
from med42.report import page

NOT_TAKEN = "not taken: the recipe's share is full"


@stage
def mix_data(recipe: Recipe, sources: list[Path], benchmarks: Path, out: Path, job: Job) -> Record:
    """Mix prepared sources into one training set.

    Which rows of a source are taken is decided by the order of their digests under the seed, so adding
    or changing one source never changes which rows another gives.

    Raises:
        Med42Error: a source's share cannot be met, or nothing is left of a source.
    """
    parts = {read_record(path).name.removeprefix("prepare_source-"): path for path in sources}
    if missing := sorted(recipe.sources.keys() - parts.keys()):
        raise Med42Error("sources", f"none prepared for {', '.join(missing)}", "one artifact for each source", "Run prepare_source for it.")
    shares = {name: {"rows": source.rows, "weight": source.weight, "domain": source.domain} for name, source in recipe.sources.items()}
    plan = Plan(
        stage="mix_data", kind="conversations",
        parameters={"seed": recipe.seed, "mix": recipe.mix.model_dump(mode="json"), "shares": shares},
        inputs={f"source-{name}": parts[name] for name in sorted(parts)} | {"benchmarks": benchmarks},
        layer="data", packages=("pyarrow",),
    )
    # By name: the recipe's digest does not tell in which order its keys stand, so neither may what wins among duplicates.
    return produce(plan, out, job, lambda draft: _mix(recipe, {name: parts[name] for name in sorted(recipe.sources)}, benchmarks, draft))


def quotas(recipe: Recipe, available: dict[str, int]) -> dict[str, int]:
    """Rows to take from each source, from its `rows`, its `weight`, or all it has.

    Weights share out `mix.rows`, less what fixed rows take, by largest remainder.

    Raises:
        Med42Error: a share exceeds what the source has times `mix.repeat_limit`.
    """
    fixed = {name: source.rows for name, source in recipe.sources.items() if source.rows is not None}
    weights = {name: Fraction(source.weight) for name, source in recipe.sources.items() if source.weight is not None}
    wanted = {name: fixed.get(name, available[name]) for name in recipe.sources if name not in weights}
    if weights:
        left = (recipe.mix.rows or 0) - sum(wanted.values())
        if left <= 0:
            raise Med42Error("mix.rows", f"{recipe.mix.rows:,}, of which sources without a weight take {sum(wanted.values()):,}",
                             "rows left for the weighted sources", "Raise mix.rows.")
        exact = {name: left * weight / sum(weights.values()) for name, weight in weights.items()}
        wanted |= {name: int(share) for name, share in exact.items()}
        by_remainder = sorted(exact, key=lambda name: (int(exact[name]) - exact[name], name))
        for name in by_remainder[: left - sum(int(share) for share in exact.values())]:
            wanted[name] += 1
    for name, count in wanted.items():
        most = int(available[name] * recipe.mix.repeat_limit)
        if count > most:
            if recipe.mix.shortfall == "error":
                raise Med42Error(
                    f"sources.{name}", f"{available[name]:,} rows x repeat_limit {recipe.mix.repeat_limit:g} = {most:,}",
                    f"{count:,} rows, its share of the mix",
                    "Lower its rows or weight, raise mix.repeat_limit, or set mix.shortfall to accept.")
            wanted[name] = most
    return {name: wanted[name] for name in recipe.sources}


def _mix(recipe: Recipe, parts: dict[str, Path], benchmarks: Path, draft: Path) -> Outcome:
    overlap = overlap_with(read_shards(benchmarks, ["benchmark", "question", "context"]), recipe.mix.overlap_tokens)
    writer, seen = ConversationWriter(draft), set[str]()
    clean = {name: _clean(name, path, overlap, seen, writer) for name, path in parts.items()}
    wanted = quotas(recipe, {name: len(rows) for name, rows in clean.items()})
    taken: list[tuple[str, str, int, dict[str, Any]]] = []
    for name, rows in clean.items():
        rows.sort(key=lambda row: order(recipe.seed, row["id"]))
        for place in range(wanted[name]):
            row = rows[place % len(rows)]
            taken.append((order(recipe.seed, f"mix {place // len(rows)} {row['id']}"), name, place // len(rows), row))
        for row in rows[wanted[name] :]:
            writer.drop(name, "", row["id"], NOT_TAKEN)
    for _, name, passed, row in sorted(taken, key=lambda item: item[:3]):
        writer.keep(name, row["id"], row["messages"], repeat=passed > 0)
    manifest = writer.close()
    total = manifest["rows"]
    shares = {name: wanted[name] / total for name in parts}
    medical = sum(wanted[name] for name in parts if recipe.sources[name].domain == "medical")
    (draft / "page.html").write_text(page.page(
        "Data mix", f"{total:,} conversations of {len(parts)} sources; {medical / total:.1%} medical.",
        [page.heading("Shares"),
         page.bars(("source", "", "rows"), [(name, wanted[name], f"{wanted[name]:,} ({shares[name]:.1%})") for name in parts]),
         page.paragraph(f"No row shares {recipe.mix.overlap_tokens} words in a row, or a whole question, with a benchmark row.", "note"),
         *account_blocks(manifest)],
    ))
    terms = terms_of({name: str(read_record(path).measured["license"]) for name, path in parts.items()})
    return Outcome({"rows": total, "medical_share": medical / total, "merkle_root": manifest["merkle_root"],
                    "accounts": manifest["sources"], "terms": terms,
                    "summary": f"{total:,} conversations, {medical / total:.1%} medical"})


def _clean(name: str, path: Path, overlap: Overlap, seen: set[str], writer: ConversationWriter) -> list[dict[str, Any]]:
    kept = []
    for row in read_shards(path):
        if row["id"] in seen:
            writer.drop(name, "", row["id"], "duplicate of a row of another source")
        elif benchmark := overlap.leak(message["content"] for message in row["messages"]):
            writer.drop(name, "", row["id"], f"overlaps benchmark {benchmark}")
        else:
            kept.append(row)
        seen.add(row["id"])
    if not kept:
        raise Med42Error(f"sources.{name}", "every row left out (duplicates or benchmark text)", "at least one row to train on",
                         f"See {path}/page.html, and the benchmarks of the recipe.")
    return kept
