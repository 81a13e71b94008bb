"""What `med42 plan` prints."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from med42.errors import Med42Error
from med42.recipe import Recipe
from med42.training.planning import Accelerator, TrainingPlan, parameter_count, plan_training, what_would_fit


def print_plan(recipe: Recipe, accelerators: dict[str, Accelerator], as_json: bool, console: Console) -> bool:
    """Memory, time, cost and traffic of every training of a recipe; whether all fit the GPUs that the recipe names."""
    plans = plan_training(recipe)
    told = [_told(recipe, plan, accelerators) for plan in plans]
    if as_json:
        print(json.dumps(told, indent=1))
    else:
        shape = recipe.base.shape
        assert shape is not None
        console.print(f"[bold]{recipe.name}[/] {recipe.title}\n{parameter_count(shape):,} parameters", highlight=False)
        both = list(zip(plans, told, strict=True))
        for _, alike in itertools.groupby(both, key=lambda one: (one[0].devices, one[0].parts)):
            _print_alike(list(alike), console)
    return all(facts["fits"] is not False for facts in told)


def _told(recipe: Recipe, plan: TrainingPlan, accelerators: dict[str, Accelerator]) -> dict[str, Any]:
    name = plan.devices.accelerator
    if name and name not in accelerators:
        raise Med42Error(f"{plan.name}: devices.accelerator", f"'{name}'", f"one of {', '.join(sorted(accelerators))}",
                         "Add its row to a table of your own and give it with --accelerators.")
    facts: dict[str, Any] = {
        "stage": plan.name, "processes": plan.devices.processes, "accelerator": name, "memory_bytes": round(plan.memory),
        "parts": [dataclasses.asdict(part) for part in plan.parts], "steps": plan.steps, "tokens_a_step": plan.tokens_a_step,
        "flops_a_step": plan.flops_a_step, "traffic_bytes_a_step": round(plan.traffic), "fits": None,
    }
    if name:
        accelerator = accelerators[name]
        facts |= {"seconds_a_step": plan.seconds_a_step(accelerator), "gpu_hours": plan.gpu_hours(accelerator),
                  "fits": plan.memory <= accelerator.memory_gb * 1e9, "has_bytes": accelerator.memory_gb * 1e9,
                  "utilisation": accelerator.utilisation, "gb_a_second": accelerator.gb_a_second}
        if facts["gpu_hours"] is not None:
            facts["dollars"] = facts["gpu_hours"] * accelerator.dollars_an_hour
        if not facts["fits"]:
            facts["would_fit"] = what_would_fit(recipe, plan.name, accelerator)
    return facts


def _print_alike(both: list[tuple[TrainingPlan, dict[str, Any]]], console: Console) -> None:
    """Print trainings that need the same memory, as rounds do: the memory once, steps and time of each."""
    plan, facts = both[0]
    devices, name = plan.devices, plan.name if len(both) == 1 else f"{plan.name} to {both[-1][0].name}"
    where = f"{devices.nodes} x {devices.gpus_per_node} {devices.accelerator}".rstrip() if devices.gpus_per_node else "CPU"
    columns = Column(f"\n[bold]{name}[/] on {where}", min_width=28), Column("\nGB a process", justify="right"), "\nhow it comes about"
    table = Table(*columns, box=None, header_style="", pad_edge=False)
    for part in plan.parts:
        table.add_row(part.name, f"{part.size / 1e9:,.2f}", f"[dim]{part.arithmetic}[/]")
    has = f"of {facts['has_bytes'] / 1e9:,.0f}" if devices.accelerator else ""
    verdict = {True: "[green]fits[/]", False: "[bold red]does not fit[/]", None: ""}[facts["fits"]]
    table.add_row("[bold]peak[/]", f"[bold]{plan.memory / 1e9:,.2f}[/]", f"{has} {verdict}".strip())
    console.print(table)
    line = f"{plan.tokens_a_step:,} tokens a step"
    if plan.traffic:
        line += f", {plan.traffic / 1e9:,.0f} GB sent a process and step"
    if devices.accelerator:
        line += (f", {facts['seconds_a_step']:,.1f} s a step at {facts['utilisation']:.0%} of the peak and "
                 f"{facts['gb_a_second']:g} GB/s between nodes")
    console.print(line)
    for one, told in both:
        line = "steps not known before the data are counted" if one.steps is None else f"{one.steps:,} steps"
        if told.get("gpu_hours") is not None:
            line += f": {told['gpu_hours'] / devices.processes:,.1f} hours, {told['gpu_hours']:,.0f} GPU-hours, ${told['dollars']:,.0f}"
        console.print(line if len(both) == 1 else f"{one.name}: {line}")
    if "would_fit" in facts:
        console.print(f"[bold red]does not fit:[/] {facts['would_fit']}")
