"""The stage `preflight`: everything that can be known to be wrong before any work, in seconds."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from med42.cluster.look import checks_on, profile_told
from med42.cluster.profile import Profile
from med42.data.licences import check_licences, licensed
from med42.data.prepare_source import find_converter as source_converter
from med42.errors import Med42Error
from med42.evaluation.prepare_benchmarks import find_converter as benchmark_converter
from med42.lineage.journal import Job
from med42.preferences.build_preferences import find_converter as preference_converter
from med42.recipe import Recipe, recipe_digest
from med42.recipe.derived import shape_of
from med42.recipe.lock import lockable, pin_of
from med42.recipe.schema import BucketOrigin, FileOrigin, HubOrigin, RewardModel
from med42.release.decide_release import find_previous
from med42.report import page

GIB = 1 << 30


@dataclass(frozen=True)
class Verdict:
    """One check: what was looked at, whether it is well, and what was found."""

    check: str
    passed: bool
    found: str


def preflight(recipe: Recipe, shape: str, job: Job, markdown: Path, html: Path) -> None:
    """Run every check, write the verdicts as Markdown and as a page, and stop where one is bad.

    Raises:
        Med42Error: naming every failed check.
    """
    # On a cluster the journal's volume is not there yet: it is one of the things that are looked at.
    with (dataclasses.replace(job, store=None) if profile_told() else job).telling("preflight") as facts:
        verdicts = verdicts_on(recipe, shape, job, markdown)
        markdown.write_text(as_markdown(verdicts))
        html.write_text(as_page(recipe, verdicts))
        if failed := [f"{verdict.check}: {verdict.found}" for verdict in verdicts if not verdict.passed]:
            raise Med42Error(f"{len(failed)} of {len(verdicts)} checks", "; ".join(failed), "every check to pass", "Nothing was started.")
        facts["summary"] = f"{len(verdicts)} checks passed"


def verdicts_on(recipe: Recipe, shape: str, job: Job, output: Path) -> list[Verdict]:
    """Check a recipe against the machine and the services it will need.

    Args:
        recipe: the resolved recipe.
        shape: `shape_of` the recipe that the pipeline was compiled for.
        job: where files are looked up, artifacts kept and the model pushed.
        output: a file on the disk that stages write to.

    Returns:
        All verdicts, good and bad.
    """
    target = job.push_to.partition(":")[0] or recipe.push.kind
    verdicts = [
        Verdict("recipe", True, f"{recipe.name} {recipe_digest(recipe)[:12]}"),
        Verdict("pipeline", shape == shape_of(recipe),
                shape_of(recipe) if shape == shape_of(recipe) else f"compiled for: {shape}; recipe: {shape_of(recipe)}"),
        _verdict("converters", lambda: _converters(recipe)),
        _verdict("licences", lambda: check_licences(recipe, _repository(recipe, job.push_to))),
        _verdict("lock", lambda: _pins(recipe)),
    ]
    if profile := profile_told():
        verdicts += _on_cluster(recipe, profile, target == "hub")
    else:
        verdicts += [_verdict("files", lambda: _files(recipe, job.data_root)), _verdict("reward", lambda: _reward(recipe, job.data_root)),
                     _disk(recipe, job.store or output), _memory(recipe)]
    if target == "directory" and job.push_to and not profile:
        verdicts.append(_verdict("release folder", lambda: _writable(Path(job.push_to.partition(":")[2]))))
    if target == "hub" or any(isinstance(origin, HubOrigin) for _, origin in _origins(recipe)):
        # A cluster's token to push with is a secret of the task that pushes, and was looked at among the secrets.
        verdicts += [_verdict("hub token", lambda: _token(target == "hub" and not profile)), _verdict("hub", _hub_answers)]
    verdicts += [_verdict(f"bucket of {key}", functools.partial(_bucket, recipe, key, origin))
                 for key, origin in _origins(recipe) if isinstance(origin, BucketOrigin)]
    return verdicts


def as_markdown(verdicts: list[Verdict]) -> str:
    """The table of verdicts, for a pipeline's user interface."""
    rows = "\n".join(f"| {verdict.check} | {'ok' if verdict.passed else 'FAILED'} | {verdict.found.replace('|', '/')} |"
                     for verdict in verdicts)
    return f"| check | verdict | found |\n|---|---|---|\n{rows}\n"


def as_page(recipe: Recipe, verdicts: list[Verdict]) -> str:
    """The table of verdicts as a page."""
    blocks = [page.table(("check", "passed", "found"), [(verdict.check, verdict.passed, verdict.found) for verdict in verdicts])]
    try:
        rows = [(part.key, part.name, *("yes" if asked else "no" for asked in (
            part.licence.commercial, part.licence.attribution, part.licence.share_alike)), part.terms) for part in licensed(recipe)]
        blocks += [page.heading("Licences of what is trained on"),
                   page.table(("what", "licence", "commercial use", "attribution", "share alike", "terms"), rows)]
    except Med42Error:
        pass  # told by the check above
    return page.page("Preflight", f"Recipe {recipe.name}: {sum(verdict.passed for verdict in verdicts)} of {len(verdicts)} checks passed.",
                     blocks)


def _verdict(check: str, look: Callable[[], str]) -> Verdict:
    try:
        return Verdict(check, True, look())
    except Med42Error as error:
        return Verdict(check, False, str(error))


def _on_cluster(recipe: Recipe, profile: Profile, pushes: bool) -> list[Verdict]:
    """What the cluster has of what its profile says; this machine's own disk and memory are not those of the stages."""
    verdicts: list[Verdict] = []
    try:
        for check, look in checks_on(recipe, profile, pushes):
            verdicts.append(_verdict(check, look))
    except Med42Error as error:
        verdicts.append(Verdict("cluster", False, str(error)))
    return verdicts


def _origins(recipe: Recipe) -> list[tuple[str, HubOrigin | FileOrigin | BucketOrigin]]:
    """What the run will read, by key; preference sets that no round asks for are left out."""
    used = {f"preferences.{name}" for names in [*recipe.dpo.rounds, recipe.dpo.held_out] for name in names}
    return [(key, origin) for key, origin in lockable(recipe).items() if not key.startswith("preferences.") or key in used]


def _pins(recipe: Recipe) -> str:
    """How many of what is fetched are pinned."""
    afar = [(key, origin) for key, origin in _origins(recipe) if not isinstance(origin, FileOrigin)]
    if not afar:
        return "nothing is fetched"
    loose = [key for key, origin in afar if key not in recipe.pins]
    if loose and recipe.unlocked == "refuse":
        raise Med42Error(", ".join(loose), f"{len(loose)} of {len(afar)} without a pin", "a commit or generation and digests for each",
                         "Lock the recipe with `med42 lock`, or run with --allow-unlocked (`unlocked: allow` in the recipe).")
    for key, origin in afar:
        pin_of(recipe, key, origin)
    return f"{len(afar) - len(loose)} of {len(afar)} pinned" + (f"; allowed without: {', '.join(loose)}" if loose else "")


def _bucket(recipe: Recipe, key: str, origin: BucketOrigin) -> str:
    from med42.data.buckets import check_bucket

    return f"{check_bucket(origin, pin_of(recipe, key, origin), key)} objects below {origin.url}"


def _converters(recipe: Recipe) -> str:
    for name, source in recipe.sources.items():
        source_converter(source.family, f"sources.{name}")
    for name, preference in recipe.preferences.items():
        preference_converter(preference.family, name)
    for name, benchmark in recipe.evaluation.benchmarks.items():
        benchmark_converter(benchmark.family, name)
    return "one for every source, preference set and benchmark"


def _repository(recipe: Recipe, push_to: str) -> str:
    """Where on a hub the model goes, as `owner/name`; empty for elsewhere."""
    kind, _, place = push_to.partition(":")
    if kind:
        return place if kind == "hub" else ""
    return (recipe.push.repo or "") if recipe.push.kind == "hub" else ""


def _files(recipe: Recipe, data_root: Path | None) -> str:
    if recipe.previous_release:
        find_previous(recipe, Job("", data_root=data_root))
    wanted = [(key, name) for key, origin in _origins(recipe) if isinstance(origin, FileOrigin) for name in origin.files]
    if not wanted:
        return "none needed"
    if data_root is None:
        raise Med42Error(wanted[0][0], f"{len(wanted)} files to look up", "a folder to look them up in", "Give --data-root DIR.")
    missing = [f"{name} ({key})" for key, name in wanted if not (data_root / name).is_file()]
    if missing:
        raise Med42Error(data_root, f"no {', '.join(missing)}", "every file the recipe names",
                         "Put them there, or give another --data-root.")
    return f"{len(wanted)} in {data_root}"


def _reward(recipe: Recipe, data_root: Path | None) -> str:
    reward = recipe.dpo.on_policy and recipe.dpo.on_policy.reward
    if not isinstance(reward, RewardModel):
        return "no model needed"
    folder = (data_root or Path()) / reward.folder
    if not any(folder.glob("*.safetensors")):
        raise Med42Error("dpo.on_policy.reward.folder", f"no *.safetensors in {folder}", "a sequence classifier in the data root",
                         "Put the reward model there, or name another folder.")
    return str(folder)


def _disk(recipe: Recipe, place: Path) -> Verdict:
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / GIB
    return Verdict("disk", free >= recipe.limits.disk_gib, f"{free:.1f} GiB free, {recipe.limits.disk_gib:g} needed")


def _memory(recipe: Recipe) -> Verdict:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return Verdict("memory", total >= recipe.limits.memory_gib, f"{total:.1f} GiB, {recipe.limits.memory_gib:g} needed")


def _writable(folder: Path) -> str:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise Med42Error(existing, "no folder that this user can write", "a place for the released model", "Choose another target.")
    return f"{folder} can be written"


def _token(to_push: bool) -> str:
    from huggingface_hub import get_token

    if get_token() is None:
        if to_push:
            raise Med42Error("hub token", "none", "a token that may write", "Log in with `hf auth login` or set HF_TOKEN.")
        return "none; public repositories only"
    return "present"


def _hub_answers() -> str:
    from huggingface_hub import HfApi, get_token

    from med42.data.hub import told_plainly

    api = HfApi()
    with told_plainly(f"hub {api.endpoint}"):
        if get_token():
            return f"{api.endpoint} knows {api.whoami()['name']}"
        next(iter(api.list_models(limit=1)), None)
        return f"{api.endpoint} answers"
