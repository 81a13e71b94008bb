"""What a change of a recipe, its lock or the code does, as Markdown for a review: mix, tokens, licences, cost, stages made again.

The recipe before the change is resolved by the code before the change, so that a default that the code changes is seen too.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from med42.data.licences import licensed
from med42.errors import Med42Error
from med42.lineage.digest import value_digest
from med42.lineage.provenance import LAYERS, PACKAGE, code_digest
from med42.recipe import Recipe, load_recipe, parse_recipe, recipe_digest
from med42.recipe.derived import expected_chunks, expected_dpo_steps, expected_rows, expected_sft_steps, sum_of
from med42.recipe.parts import source_of, source_parts
from med42.recipe.schema import WHERE_AND_HOW_FAST, InventedOrigin, RandomBase
from med42.training.planning import Accelerator, plan_training

# Run by the code before the change, in its own folder.
BEFORE = """
import json, sys
from med42.errors import Med42Error
from med42.lineage.provenance import LAYERS, code_digest
from med42.recipe import dump_recipe, load_recipe
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = dump_recipe(load_recipe(name))
    except Med42Error as error:
        found[name] = None
print(json.dumps({"recipes": found, "code": {layer: code_digest(layer) for layer in LAYERS}}))
"""


@dataclass(frozen=True)
class Side:
    """A recipe before or after a change.

    Attributes:
        recipe: as this code reads it.
        code: digest of each layer's code.
    """

    recipe: Recipe
    code: dict[str, str]


@dataclass(frozen=True)
class Stage:
    """A stage of a run, and all that decides what it makes.

    Attributes:
        uses: the part of the recipe.
        layer: the code.
        inputs: the stages whose artifacts it reads.
    """

    uses: Any
    layer: str
    inputs: tuple[str, ...] = ()


def impact(names: Sequence[str], base: str, accelerators: dict[str, Accelerator]) -> str:
    """What has changed since a commit, for each recipe, as Markdown.

    Args:
        names: recipes, by shipped name or path.
        base: a commit, branch or tag to compare with.
        accelerators: prices and speeds.

    Raises:
        Med42Error: no such commit, or a recipe that is wrong now.
    """
    before, code = _before(names, base)
    now = {layer: code_digest(layer) for layer in LAYERS}
    changed, same = [], []
    for name in names:
        after = Side(load_recipe(name), now)
        if before[name] is None:
            changed.append(f"## {after.recipe.name}\n\nNew: {after.recipe.title}.\n\n{_facts(None, after, accelerators)}")
            continue
        try:
            past = Side(parse_recipe(before[name] or "", where=f"{name} at {base}"), code)
        except Med42Error as error:
            changed.append(f"## {after.recipe.name}\n\nThe recipe at `{base}` is none that this code reads, so everything is made again: "
                           f"{error}")
            continue
        if recipe_digest(past.recipe) == recipe_digest(after.recipe) and past.code == after.code:
            same.append(after.recipe.name)
        else:
            changed.append(_change(past, after, accelerators))
    parts = [f"# Impact since `{base}`", *changed]
    if same:
        parts.append(f"Nothing changes for {', '.join(same)}.")
    return "\n\n".join(parts) + "\n"


def stages(recipe: Recipe) -> dict[str, Stage]:
    """What decides each stage of a run, in the order in which they come; as the stages' own plans have it."""
    evaluation, seed, rounds = recipe.evaluation, recipe.seed, recipe.dpo.rounds

    def pinned(*keys: str) -> dict[str, Any]:
        return {key: recipe.pins[key].files for key in keys if key in recipe.pins}

    benchmarks = {name: benchmark.model_dump(mode="json", exclude={"paper_items"}) for name, benchmark in evaluation.benchmarks.items()}
    invented = any(isinstance(benchmark.origin, InventedOrigin) for benchmark in evaluation.benchmarks.values())  # by the seed
    found = {"prepare_benchmarks": Stage([benchmarks, evaluation.limit, seed if invented else None,
                                          pinned(*(f"evaluation.benchmarks.{name}" for name in benchmarks))], "evaluation")}
    for part in source_parts(recipe):
        name = source_of(part)
        source = recipe.sources[name].model_dump(mode="json", exclude={"rows", "weight", "paper_percent", "paper_rows", "shards"})
        found[f"prepare_source-{part}"] = Stage(
            [source, pinned(f"sources.{name}", f"sources.{name}.labels"), recipe.phi.model_dump(mode="json"), seed], "data")
    shares = {name: [source.rows, source.weight, source.domain] for name, source in recipe.sources.items()}
    found["mix_data"] = Stage([seed, recipe.mix.model_dump(mode="json"), shares], "data", tuple(found))
    made = isinstance(recipe.base, RandomBase)
    pin = recipe.pins.get("base")
    found["prepare_base"] = Stage([recipe.base.model_dump(mode="json"), seed if made else None, pin and [pin.revision, pin.files]],
                                  "training", ("mix_data",) if made else ())
    found["pack_data"] = Stage([seed, recipe.pack.model_dump(mode="json", exclude={"expected_tokens_per_row"})], "data",
                               ("mix_data", "prepare_base"))
    found["train_sft"] = Stage([seed, recipe.sft.model_dump(mode="json")], "training", ("prepare_base", "pack_data"))
    protocol = evaluation.of_scores()
    scored = ""

    def score(label: str, model: str) -> None:
        nonlocal scored
        found[f"evaluate_model-{label}"] = Stage(protocol, "evaluation", (model, "prepare_benchmarks", *([scored] if scored else [])))
        scored = f"evaluate_model-{label}"

    score("base", "prepare_base")
    score("sft", "train_sft")
    model, settings = "train_sft", recipe.dpo.model_dump(mode="json", exclude={"rounds", "held_out", "on_policy"})
    own, overlaps = recipe.dpo.on_policy, recipe.mix.model_dump(include={"overlap_tokens", "overlap_question", "overlap_common"})
    for number, names in enumerate(rounds, 1):
        used = [*names, *recipe.dpo.held_out]
        sets = {name: recipe.preferences[name].model_dump(mode="json", exclude={"rows"}) for name in used}
        found[f"build_preferences-{number}"] = Stage(
            [seed, sets, recipe.dpo.held_out, pinned(*(f"preferences.{name}" for name in used)), recipe.dpo.max_length,
             overlaps],
            "preferences", ("prepare_base", "prepare_benchmarks"))
        pairs = f"build_preferences-{number}"
        if own:
            sampled = own.model_dump(mode="json", exclude={"reward": True, "least_margin": True, "sampler": WHERE_AND_HOW_FAST})
            found[f"sample_answers-{number}"] = Stage([seed, recipe.dpo.dtype, sampled], "training", (model, pairs))
            found[f"score_answers-{number}"] = Stage(own.reward.model_dump(mode="json"), "training", (f"sample_answers-{number}",))
            found[f"pair_answers-{number}"] = Stage([own.least_margin, recipe.dpo.max_length, overlaps], "preferences",
                                                    (f"score_answers-{number}", pairs, "prepare_base", "prepare_benchmarks"))
            pairs = f"pair_answers-{number}"
        found[f"train_dpo-{number}"] = Stage([seed, settings], "training", (model, pairs))
        model = f"train_dpo-{number}"
        if evaluation.every_round or number == len(rounds):
            score(f"dpo-{number}", model)
    found["decide_release"] = Stage(recipe_digest(recipe), "release", (scored,))
    found["push_model"] = Stage(recipe_digest(recipe), "release", (model, "decide_release"))
    found["seal_audit"] = Stage(recipe_digest(recipe), "release", ("push_model",))
    return found


def made_again(before: Side, after: Side) -> dict[str, str]:
    """The stages that a change makes anew, and why; those that only follow another are made anew unless that comes out the same."""
    past, why = stages(before.recipe), dict[str, str]()
    for name, stage in stages(after.recipe).items():
        if name not in past:
            why[name] = "is new"
        elif value_digest(past[name].uses) != value_digest(stage.uses):
            why[name] = "its part of the recipe changes"
        elif before.code[stage.layer] != after.code[stage.layer]:
            why[name] = f"the code of {stage.layer} changes"
        elif past[name].inputs != stage.inputs:
            why[name] = "it reads other artifacts"
        elif follows := [name for name in stage.inputs if name in why]:
            why[name] = f"follows {', '.join(follows[:3])}" + (f" and {len(follows) - 3} more" if len(follows) > 3 else "")
    return why


def _before(names: Sequence[str], base: str) -> tuple[dict[str, str | None], dict[str, str]]:
    """The recipes as the code of another commit resolves them, and the digests of that code."""
    def git(*words: str) -> bytes:
        done = subprocess.run(("git", *words), capture_output=True, check=False)
        if done.returncode:
            raise Med42Error(f"git {' '.join(words)}", " ".join(done.stderr.decode().split()), "a commit, branch or tag of this repository",
                             "Fetch it, or give another BASE.")
        return done.stdout

    top = Path(git("rev-parse", "--show-toplevel").decode().strip())
    here = Path.cwd().relative_to(top)
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(fileobj=io.BytesIO(git("-C", str(top), "archive", "--format=tar", f"{base}^{{tree}}"))) as tree:
            tree.extractall(scratch, filter="data")
        folder = Path(scratch) / here
        folder.mkdir(parents=True, exist_ok=True)
        package = Path(scratch) / PACKAGE.relative_to(top) if PACKAGE.is_relative_to(top) else PACKAGE
        done = subprocess.run([sys.executable, "-c", BEFORE, *(_from(folder, name) for name in names)], cwd=folder, check=False,
                              capture_output=True, text=True, env={"PYTHONPATH": str(package.parent), "PATH": ""})
        if done.returncode:
            raise Med42Error(f"the code at {base}", (done.stderr.strip().splitlines() or ["no words"])[-1], "code that reads its recipes",
                             "Give a BASE whose code works.")
        told = json.loads(done.stdout)
        return {name: told["recipes"][_from(folder, name)] for name in names}, told["code"]


def _from(folder: Path, name: str) -> str:
    """A recipe's name in another checkout: a path below the current folder keeps its place."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_absolute():
        return name
    return str(folder / path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else name


def _change(before: Side, after: Side, accelerators: dict[str, Accelerator]) -> str:
    keys = list(_differences(before.recipe.model_dump(mode="json"), after.recipe.model_dump(mode="json")))
    parts = [f"## {after.recipe.name}", f"Recipe digest `{recipe_digest(before.recipe)[:12]}` -> `{recipe_digest(after.recipe)[:12]}`."]
    if keys:
        parts.append(_table(("key", "before", "after"), keys))
    else:
        parts.append("The recipe is the same; code changes.")
    parts.append(_facts(before, after, accelerators))
    again, everything = made_again(before, after), stages(after.recipe)
    parts.append(f"### Stages\n\n{len(again)} of {len(everything)} are made again; what only follows another stage is not, where that "
                 "comes out the same.\n\n" + _table(("stage", "why"), [(f"`{name}`", why) for name, why in again.items()]) if again else
                 "### Stages\n\nNone is made again.")
    return "\n\n".join(parts)


def _facts(before: Side | None, after: Side, accelerators: dict[str, Accelerator]) -> str:
    """Mix, tokens, licences and cost, before and after."""
    sides = (None if before is None else before.recipe, after.recipe)

    def row(name: str, fact: Callable[[Recipe], str]) -> tuple[str, str, str]:
        told = [None if side is None else fact(side) for side in sides]
        return name, told[0] or "-", told[1] or "-"

    names = sorted({name for side in sides if side for name in side.sources})
    rows = [row(f"rows of {name}", lambda recipe, name=name: _number(expected_rows(recipe).get(name))) for name in names]  # type: ignore[misc]
    mix = [one for one in rows if one[1] != one[2]]
    mix += [row("rows in all", lambda recipe: _number(sum_of(list(expected_rows(recipe).values())))),
            row("general share", _general)]
    tokens = [
        row("SFT: packed chunks an epoch", lambda recipe: _number(expected_chunks(recipe))),
        row("SFT: steps", lambda recipe: _number(expected_sft_steps(recipe))),
        row("SFT: tokens a step", lambda recipe: _number(recipe.sft.batch * recipe.pack.chunk)),
        row("SFT: tokens in all", lambda recipe: _number(_times(expected_sft_steps(recipe), recipe.sft.batch * recipe.pack.chunk))),
    ]
    for number in range(1, max(len(side.dpo.rounds) for side in sides if side) + 1):
        tokens.append(row(f"DPO {number}: steps", lambda recipe, number=number: _number(  # type: ignore[misc]
            expected_dpo_steps(recipe, recipe.dpo.rounds[number - 1])) if number <= len(recipe.dpo.rounds) else ""))
    cost = [*(row(name, lambda recipe, name=name: _cost(recipe, name, accelerators)) for name in _trainings(sides)),  # type: ignore[misc]
            row("all", lambda recipe: _cost(recipe, "", accelerators))]
    titles = ("", "before", "after")
    return "\n\n".join([
        "### Mix\n\n" + _table(titles, mix),
        "### Tokens\n\n" + _table(titles, tokens),
        "### Licences\n\n" + _licences(*sides),
        "### Cost\n\n" + _table(("training", "before", "after"), cost)])


def _differences(before: Any, after: Any, key: str = "") -> Iterator[tuple[str, str, str]]:
    """The keys that differ, with both values; a pin is told by its commit and how many of its files differ."""
    if key.startswith("pins.") and before and after:
        files = sum(1 for name in {*before["files"], *after["files"]} if before["files"].get(name) != after["files"].get(name))
        if before != after:
            yield f"`{key}`", _pin(before), f"{_pin(after)}; {files} of {len(after['files'])} files differ"
    elif isinstance(before, dict) and isinstance(after, dict) and not key.startswith("pins."):
        for name in sorted({*before, *after}):
            yield from _differences(before.get(name), after.get(name), f"{key}.{name}" if key else name)
    elif before != after:
        pin = key.startswith("pins.")
        yield f"`{key}`", _pin(before) if pin else _value(before), _pin(after) if pin else _value(after)


def _pin(value: Any) -> str:
    return "-" if not value else f"{(value['revision'] or 'files')[:12]}, {len(value['files'])} files"


def _value(value: Any) -> str:
    if value is None:
        return "-"
    text = json.dumps(value) if isinstance(value, dict | list) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _licences(before: Recipe | None, after: Recipe) -> str:
    """What is trained on under other licences than before, and what all of them come to."""
    def terms(recipe: Recipe | None) -> dict[str, str]:
        return {} if recipe is None else {part.key: part.name + ("" if part.licence.commercial else ", no commercial use")
                                          + (", share alike" if part.licence.share_alike else "") for part in licensed(recipe)}

    past, now = terms(before), terms(after)
    rows = [(f"`{key}`", past.get(key, "-"), now.get(key, "-")) for key in sorted({*past, *now}) if past.get(key) != now.get(key)]
    narrow = sorted(key for key, text in now.items() if "no commercial use" in text)
    told = f"Use: {after.use}. " + (f"No commercial use: {', '.join(narrow)}." if narrow else "All allow commercial use.")
    return (_table(("what", "before", "after"), rows) + "\n\n" if rows else "The same as before. ") + told


def _general(recipe: Recipe) -> str:
    rows = expected_rows(recipe)
    total = sum_of(list(rows.values()))
    general = sum_of([rows[name] for name, source in recipe.sources.items() if source.domain == "general"])
    return f"{100 * general / total:.2f}%" if total and general is not None else "counted by a run"


def _trainings(sides: Sequence[Recipe | None]) -> list[str]:
    rounds = max(len(side.dpo.rounds) for side in sides if side)
    return ["train_sft", *(f"train_dpo-{number}" for number in range(1, rounds + 1))]


def _cost(recipe: Recipe, name: str, accelerators: dict[str, Accelerator]) -> str:
    """GPU-hours and dollars of a training, or of all where the name is empty."""
    try:
        plans = [plan for plan in plan_training(recipe) if name in ("", plan.name)]
    except Med42Error:
        return "the base's sizes are not known"
    hours = dollars = 0.0
    for plan in plans:
        if not plan.devices.gpus_per_node:
            continue
        if plan.devices.accelerator not in accelerators:
            return f"no row for '{plan.devices.accelerator}'"
        spent = plan.gpu_hours(accelerators[plan.devices.accelerator])
        if spent is None:
            return "steps are counted by a run"
        hours, dollars = hours + spent, dollars + spent * accelerators[plan.devices.accelerator].dollars_an_hour
    return f"{hours:,.0f} GPU-hours, ${dollars:,.0f}" if hours else "no GPUs" if plans else ""


def _times(count: int | None, each: int) -> int | None:
    return None if count is None else count * each


def _number(value: int | None) -> str:
    return "counted by a run" if value is None else f"{value:,}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
