"""What follows from a recipe by arithmetic, beside what the paper prints (`docs/paper.md`).

No file is read: these are estimates from the recipe alone, made before anything is downloaded. After a run its
records hold what was counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import overload

from med42.recipe.parts import source_parts
from med42.recipe.schema import Devices, Dpo, PreferenceSource, Recipe, Sft


@dataclass(frozen=True)
class Fact:
    """One number that follows from a recipe.

    Attributes:
        name: what it is, with its unit.
        ours: the recipe's number; None where the recipe alone does not tell.
        paper: the printed number; None where the paper prints none, or the recipe is not one of the paper's.
        note: how it comes about, or why the two differ.
        tolerance: the difference that rounding explains.
    """

    name: str
    ours: int | float | None
    paper: int | float | None
    note: str
    tolerance: float = 0.0

    @property
    def agrees(self) -> bool | None:
        """Whether ours is the paper's number; None where one of them is missing."""
        if self.ours is None or self.paper is None:
            return None
        # The last term forgives binary rounding of a value that lies on the edge itself.
        return abs(self.ours - self.paper) <= self.tolerance + 1e-9


def derived_facts(recipe: Recipe) -> list[Fact]:
    """What follows from a recipe for training and alignment, in this order; `med42.recipe.table_5` has what it says of the data."""
    return [*_sft_facts(recipe), *_dpo_facts(recipe)]


def shape_of(recipe: Recipe) -> str:
    """What of a recipe is built into a compiled pipeline: its sources, its rounds, how its base is made."""
    return (f"sources {', '.join(source_parts(recipe))}; {len(recipe.dpo.rounds)} rounds; base {recipe.base.kind}; "
            f"every round scored {recipe.evaluation.every_round}" + ("; on-policy pairs" if recipe.dpo.on_policy else ""))


def stages_of(recipe: Recipe) -> list[str]:
    """The stages that a run can be told to end with, in the order in which they come, as its journal calls them."""
    stages = ["preflight", "prepare_benchmarks", "prepare_source", "mix_data", "prepare_base", "evaluate_model-base", "pack_data",
              "train_sft", "evaluate_model-sft"]
    rounds = len(recipe.dpo.rounds)
    for number in range(1, rounds + 1):
        on_policy = [f"{stage}-{number}" for stage in ("sample_answers", "score_answers", "pair_answers")] if recipe.dpo.on_policy else []
        stages += [f"build_preferences-{number}", *on_policy, f"train_dpo-{number}"]
        if recipe.evaluation.every_round or number == rounds:
            stages.append(f"evaluate_model-dpo-{number}")
    return [*stages, "decide_release"]


def expected_rows(recipe: Recipe) -> dict[str, int | None]:
    """Rows that each source gives to the mix; None where that depends on what the source turns out to hold."""
    sources = recipe.sources
    rows = {name: source.rows for name, source in sources.items()}
    weights = {name: Fraction(source.weight) for name, source in sources.items() if source.weight is not None}
    fixed = sum_of([count for name, count in rows.items() if name not in weights])
    if weights and fixed is not None and recipe.mix.rows is not None:
        left = recipe.mix.rows - fixed
        rows |= {name: round(left * weight / sum(weights.values())) for name, weight in weights.items()}
    return rows


def expected_chunks(recipe: Recipe) -> int | None:
    """Packed chunks that one epoch is expected to hold."""
    rows, length = sum_of(list(expected_rows(recipe).values())), recipe.pack.expected_tokens_per_row
    return None if rows is None or length is None else math.ceil(rows * length / recipe.pack.chunk)


@overload
def steps_of(settings: Sft | Dpo, rows: int) -> int: ...


@overload
def steps_of(settings: Sft | Dpo, rows: int | None) -> int | None: ...


def steps_of(settings: Sft | Dpo, rows: int | None) -> int | None:
    """Optimizer steps on this many chunks or pairs: as set, or as many as pass over all of them `epochs` times."""
    if settings.steps is not None or rows is None:
        return settings.steps
    return math.ceil(settings.epochs * rows / settings.batch)


def expected_sft_steps(recipe: Recipe) -> int | None:
    """Optimizer steps of SFT."""
    return steps_of(recipe.sft, expected_chunks(recipe))


def expected_pairs(recipe: Recipe, names: list[str]) -> int | None:
    """Preference pairs of the named sets, before any is left out."""
    return sum_of([_pairs(recipe.preferences[name]) for name in names])


def expected_dpo_steps(recipe: Recipe, names: list[str]) -> int | None:
    """Optimizer steps of the round that trains on the named sets."""
    return steps_of(recipe.dpo, expected_pairs(recipe, names))


def _sft_facts(recipe: Recipe) -> list[Fact]:
    sft, pack = recipe.sft, recipe.pack
    length, printed_steps = pack.expected_tokens_per_row, _printed(recipe, "sft_steps")
    steps_note, hidden = "as set" if sft.steps is not None else f"{sft.epochs:g} epochs of the chunks above", 0.0
    if printed_steps and length and sft.steps is None:
        # The length is a whole number made from the printed steps: half a token is what its rounding hides.
        hidden = printed_steps * 0.5 / length
        steps_note += f"; within {hidden:.1f}, which rounding hides; no confirmation, for the tokens a row come from the printed steps"
    return [
        Fact("SFT GPUs", _gpus(sft.devices), _printed(recipe, "sft_gpus"), _gpus_note(sft.devices)),
        Fact("SFT chunks a step", sft.batch, None,
             f"{sft.devices.processes} processes x {sft.rows_per_device} chunks x {sft.accumulation} micro-steps"),
        Fact("SFT tokens a step", sft.batch * pack.chunk, _printed(recipe, "sft_tokens_per_step"),
             f"{sft.batch} chunks x {pack.chunk:,} tokens"),
        Fact("packed chunks an epoch", expected_chunks(recipe), None,
             f"rows of the mix x {length:g} tokens / {pack.chunk:,}" if length else "counted when the data are packed"),
        Fact("SFT steps", expected_sft_steps(recipe), printed_steps, steps_note, hidden),
    ]


def _dpo_facts(recipe: Recipe) -> list[Fact]:
    dpo = recipe.dpo
    facts = [Fact("DPO GPUs", _gpus(dpo.devices), _printed(recipe, "dpo_gpus"), _gpus_note(dpo.devices))]
    for number, names in enumerate(dpo.rounds, 1):
        facts += [
            Fact(f"DPO pairs in round {number}", expected_pairs(recipe, names), None, f"{' + '.join(names)}, before any is left out"),
            Fact(f"DPO steps in round {number}", expected_dpo_steps(recipe, names), None,
                 "as set" if dpo.steps is not None else f"{dpo.epochs:g} x the pairs above / {dpo.batch}, rounded up"),
        ]
    return facts


def _printed(recipe: Recipe, key: str) -> int | float | None:
    """What the paper prints; None in a recipe that is not one of its own."""
    return None if recipe.paper is None else getattr(recipe.paper, key)


def _gpus_note(devices: Devices) -> str:
    return f"{devices.nodes} nodes x {devices.gpus_per_node} GPUs"


def _gpus(devices: Devices) -> int:
    return devices.nodes * devices.gpus_per_node


def _pairs(source: PreferenceSource) -> int | None:
    if source.rows is None or source.part is None:
        return source.rows
    return round(source.rows / source.part.of)


def sum_of(counts: list[int | None]) -> int | None:
    """The sum; None if one of them is not known."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
