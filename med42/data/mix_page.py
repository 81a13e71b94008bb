"""The pages and reports of a mix: one over all, and one for each gate, each beside a JSON file that says the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from med42.data.decontaminate import Hit
from med42.data.licences import find_licence, terms_of
from med42.data.pages import account_blocks
from med42.data.phi import phi_blocks
from med42.recipe import Recipe
from med42.report import page

SHOWN = 40  # leaks and pairs a page shows; its JSON file has them all


@dataclass(frozen=True)
class Leak:
    """A training row that holds benchmark text: where it comes from, what it shares, and its own text."""

    source: str
    id: str
    hit: Hit
    text: str


@dataclass(frozen=True)
class NearPair:
    """A row that is left out, and the row it is near to."""

    source: str
    id: str
    kept_source: str
    kept_id: str


@dataclass(frozen=True)
class Findings:
    """What the gates found in the prepared sources.

    Attributes:
        items: the benchmark rows, by id.
        leaks: every training row that holds text of one.
        near: every near duplicate.
        examples: texts of some near duplicates and of what they are near to.
        residue: leaks that the finished mix holds.
        lengths: characters of the taken rows, by source: median, 95% and longest.
        phi: what the PHI gate reported of each source.
    """

    items: dict[str, dict[str, Any]]
    leaks: Sequence[Leak]
    near: Sequence[NearPair]
    examples: Sequence[tuple[str, str]]
    residue: int
    lengths: dict[str, tuple[int, int, int]]
    phi: dict[str, dict[str, Any]]


def write_mix_pages(recipe: Recipe, draft: Path, manifest: dict[str, Any], found: Findings) -> dict[str, Any]:
    """Write `page.html`, and a page and a report for each gate; returns what the gates come to."""
    leaks = _decontamination(recipe, draft, manifest, found)
    duplicates = _duplicates(recipe, draft, manifest, found)
    terms = _licences(recipe, draft, manifest)
    phi = _phi(draft, found)
    accounts, total = manifest["sources"], manifest["rows"]
    rows = []
    for name, source in sorted(recipe.sources.items()):
        kept = accounts[name]["kept"]
        median, most, longest = found.lengths[name]
        rows.append((name, source.domain, source.license, kept, accounts[name]["repeated"], f"{100 * kept / total:.2f}",
                     "" if source.paper_percent is None else f"{source.paper_percent:.2f}", median, most, longest))
    general = sum(accounts[name]["kept"] for name, source in recipe.sources.items() if source.domain == "general") / total
    (draft / "page.html").write_text(page.page(
        "Data mix", f"{total:,} conversations of {len(recipe.sources)} sources; {1 - general:.1%} medical, {general:.1%} general.",
        [page.heading("Shares"),
         page.bars(("source", "", "rows"), [(row[0], row[3], f"{row[3]:,} ({row[5]}%)") for row in rows]),
         page.heading("Sources"),
         page.table(("source", "domain", "licence", "rows", "repeated", "%", "% (paper)", "characters: median", "95%", "longest"), rows),
         page.heading("Gates"),
         page.table(("gate", "passed", "found"), [
             (_link("decontamination"), leaks["residue"] <= recipe.mix.residue,
              f"{leaks['leaks']:,} rows held benchmark text; {leaks['residue']:,} are left in the mix"),
             (_link("duplicates"), True, f"{duplicates['exact']:,} exact and {duplicates['near']:,} near duplicates left out"),
             (_link("phi"), True, f"{phi['with_findings']:,} of {phi['examined']:,} rows examined hold text in the form of an identifier; "
              f"{phi['acted_on']:,} were masked or left out"),
             (_link("licences"), recipe.use == "research" or terms["commercial"],
              f"for {recipe.use} use; commercial use {'allowed' if terms['commercial'] else 'not allowed'} by all"),
         ]),
         *account_blocks(manifest)],
    ))
    return {"decontamination": leaks, "duplicates": duplicates, "phi": phi, "terms": terms}


def _link(gate: str) -> Markup:
    return Markup('<a href="{0}.html">{0}</a>').format(gate)


def _decontamination(recipe: Recipe, draft: Path, manifest: dict[str, Any], found: Findings) -> dict[str, Any]:
    by_source = Counter((leak.source, leak.hit.benchmark, leak.hit.way) for leak in found.leaks)
    listed = [
        {"source": leak.source, "id": leak.id, "benchmark": leak.hit.benchmark, "item": leak.hit.item, "way": leak.hit.way,
         "shared": leak.hit.words, "text": leak.text, "question": found.items[leak.hit.item]["question"]}
        for leak in sorted(found.leaks, key=lambda leak: (leak.source, leak.id))
    ]
    summary = {"leaks": len(listed), "residue": found.residue, "items": len(found.items), "words": recipe.mix.overlap_tokens}
    _write_json(draft / "decontamination.json", {**summary, "rule": recipe.mix.leaks, "hits": listed})
    per_item = Counter(leak.hit.item for leak in found.leaks)
    blocks = [
        page.paragraph(f"Every row of every source was compared with every one of the {len(found.items):,} questions that will be "
                       "scored, and the finished mix once more.", "note"),
        page.heading("By source and benchmark"),
        page.table(("source", "benchmark", "how", "rows"), [(*key, count) for key, count in sorted(by_source.items())])
        if by_source else page.paragraph("No row held benchmark text.", "good"),
        page.paragraph(f"{found.residue:,} left in the mix; the recipe allows {recipe.mix.residue:,}.",
                       "good" if found.residue <= recipe.mix.residue else "bad"),
    ]
    if listed:
        blocks += [page.heading("Questions that were met most often"),
                   page.table(("question", "benchmark", "rows"), [(found.items[item]["question"], found.items[item]["benchmark"], count)
                                                                  for item, count in per_item.most_common(10)])]
        blocks.append(page.heading(f"Both texts of {min(SHOWN, len(listed))} of {len(listed):,}; decontamination.json has them all"))
        for leak in listed[:SHOWN]:
            title = f"{leak['source']} {leak['id'][:12]}, {leak['benchmark']}, {leak['way']}: shared words \"{leak['shared']}\""
            blocks += [page.paragraph(title),
                       page.table(("training row", "benchmark question"), [(leak["text"], leak["question"])])]
    (draft / "decontamination.html").write_text(page.page(
        "Decontamination", f"{len(listed):,} rows held a run of {recipe.mix.overlap_tokens} words of a benchmark, or a question.", blocks))
    return summary


def _duplicates(recipe: Recipe, draft: Path, manifest: dict[str, Any], found: Findings) -> dict[str, Any]:
    exact = {name: sum(count for reason, count in account["dropped"].items() if reason.startswith("duplicate"))
             for name, account in manifest["sources"].items()}
    pairs = Counter((pair.source, pair.kept_source) for pair in found.near)
    summary = {"exact": sum(exact.values()), "near": len(found.near)}
    listed = [{"source": pair.source, "id": pair.id, "kept_source": pair.kept_source, "kept_id": pair.kept_id} for pair in found.near]
    _write_json(draft / "duplicates.json", {**summary, "rule": recipe.mix.dedup.model_dump(mode="json"), "exact_by_source": exact,
                                            "near_duplicates": listed})
    blocks = [
        page.heading("Exact duplicates of rows of other sources, or of other parts of the source"),
        page.table(("source", "rows"), sorted(exact.items())),
        page.paragraph("Those inside a source are left out where it is prepared, and stand in its own account.", "note"),
        page.heading("Near duplicates"),
        page.table(("source", "near to a row of", "rows"), [(*key, count) for key, count in sorted(pairs.items())])
        if pairs else page.paragraph("None was found." if recipe.mix.dedup.near else "Not looked for: mix.dedup.near is off."),
        *([page.heading("Some of them"), page.table(("left out", "kept"), found.examples)] if found.examples else []),
    ]
    (draft / "duplicates.html").write_text(page.page(
        "Duplicates", f"{summary['exact']:,} exact and {summary['near']:,} near duplicates were left out of the mix.", blocks))
    return summary


def _licences(recipe: Recipe, draft: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    terms = terms_of({name: source.license for name, source in recipe.sources.items()})
    total = manifest["rows"]
    rows = []
    for name, source in sorted(recipe.sources.items()):
        licence, kept = find_licence(source.license, f"sources.{name}"), manifest["sources"][name]["kept"]
        rows.append((name, source.license, f"{100 * kept / total:.2f}", *("yes" if asked else "no" for asked in (
            licence.commercial, licence.attribution, licence.share_alike)), source.terms))
    base = find_licence(recipe.base.license, "base")
    duties = [f"its name begins with '{base.name_begins}'"] * bool(base.name_begins) + [f"it shows '{base.notice}'"] * bool(base.notice)
    _write_json(draft / "licences.json", {"use": recipe.use, "base": {"license": recipe.base.license, "duties": duties}, "mix": terms,
                                          "sources": {name: source.license for name, source in sorted(recipe.sources.items())}})
    blocks = [
        page.table(("source", "licence", "% of the mix", "commercial use", "attribution", "share alike", "terms"), rows),
        page.heading("What they come to"),
        page.table(("what", "answer"), [
            ("commercial use of a model trained on all of it", "allowed" if terms["commercial"] else "not allowed, or not known to be"),
            *((key.replace("_", " "), ", ".join(sources) or "none") for key, sources in terms.items() if key != "commercial"),
            (f"duties of the base model ({recipe.base.license})", "; ".join(duties) or "none beyond naming it"),
        ]),
        page.paragraph("The plain reading of each licence, no legal advice.", "note"),
    ]
    (draft / "licences.html").write_text(page.page("Licences", f"Declared use: {recipe.use}.", blocks))
    return terms


def _phi(draft: Path, found: Findings) -> dict[str, Any]:
    summary = {key: sum(report[key] for report in found.phi.values()) for key in ("rows", "examined", "with_findings")}
    summary["acted_on"] = sum(report["acted_on"] for report in found.phi.values() if report["policy"] != "report")
    _write_json(draft / "phi.json", {**summary, "sources": found.phi})
    (draft / "phi.html").write_text(page.page(
        "Protected health information", f"{summary['with_findings']:,} of {summary['examined']:,} rows examined hold text in the form of "
        "an identifier. Each source's own page shows masked evidence.", phi_blocks(found.phi)))
    return summary


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
