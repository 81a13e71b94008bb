"""What a person sees while a run works: one line a stage, growing in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from med42.cli.report import accounts, last_scores
from med42.lineage.journal import Job, read_journal
from med42.recipe import Recipe


class Screen:
    """Follows a run's journal."""

    def __init__(self, console: Console, job: Job) -> None:
        self.console, self.job = console, job
        self._told = 0
        self._done = threading.Event()

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Show progress until the block ends, then the whole table."""
        # The run sends this process's output into its log; the screen writes to a terminal of its own.
        with os.fdopen(os.dup(1), "w") as terminal:
            console = Console(file=terminal, width=self.console.width)
            watcher = threading.Thread(target=self._watch, args=(console,))
            watcher.start()
            try:
                yield
            finally:
                self._done.set()
                watcher.join()

    def _watch(self, console: Console) -> None:
        if console.is_terminal:
            # The process prints into its log; without this, Live would take its prints and show them.
            with Live(console=console, refresh_per_second=8, redirect_stdout=False, redirect_stderr=False) as live:
                while not self._done.wait(0.15):
                    live.update(stage_table(self._events()))
                live.update(stage_table(self._events()))
        else:
            while not self._done.wait(0.3):
                self._tell_new(console)
            self._tell_new(console)

    def _events(self) -> list[dict[str, Any]]:
        return read_journal(self.job.journal) if self.job.journal else []

    def _tell_new(self, console: Console) -> None:
        events = self._events()
        for event in events[self._told :]:
            if event["event"] in ("finished", "failed"):
                console.print(Text(_line(event)), soft_wrap=True)
        self._told = len(events)


def stage_table(events: list[dict[str, Any]]) -> Table:
    """One row a stage: where it is, how long it took, what came out."""
    table = Table("stage", "seconds", "what came out", box=None, header_style="dim", pad_edge=False)
    stages: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        stages.setdefault(event["name"], []).append(event)
    for name, told in stages.items():
        last = told[-1]
        if last["event"] == "finished":
            table.add_row(name, f"{last['seconds']:.1f}", Text(_outcome(last)))
        elif last["event"] == "failed":
            table.add_row(Text(name, "bold red"), "", Text("failed", "bold red"))
        elif last["event"] == "progress":
            bar = (f"{last['done']:,}/{last['total']:,} {last['unit']}, {last['seconds_left']:.0f} s left" if "total" in last
                   else f"{last['done']:,} {last['unit']}, {last['a_second']:,} a second")
            more = "".join(f", {key} {value:.3g}" for key, value in last.items() if key in ("loss", "rewards/margins"))
            table.add_row(Text(name, "cyan"), "", Text(bar + more, "cyan"))
        else:
            table.add_row(Text(name, "cyan"), "", Text("working", "cyan"))
    return table


def print_scores(recipe: Recipe, outputs: dict[str, Path], console: Console) -> None:
    """Scores from base to the last round, and the margin on held-out pairs beside each round."""
    history = last_scores(outputs)["history"]
    header = ("model", *recipe.evaluation.benchmarks, history[-1]["average_name"], "margin")
    table = Table(*header, box=None, header_style="dim", pad_edge=False)
    for entry in history:
        table.add_row(entry["label"], *(f"{100 * entry['scores'][name]:.1f}" for name in recipe.evaluation.benchmarks),
                      f"[bold]{100 * entry['average']:.1f}[/]", _margin(entry["label"], outputs))
    console.print()
    console.print(table)


def print_accounts(outputs: dict[str, Path], console: Console) -> None:
    """Rows by stage and source: how many were read, kept and left out."""
    table = Table("stage", "source", *(Column(name, justify="right") for name in ("read", "kept", "left out")), "why",
                  box=None, header_style="dim", pad_edge=False)
    for stage, source, account in accounts(outputs):
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in account["dropped"].items())
        table.add_row(stage, source, *(f"{count:,}" for count in (account["read"], account["kept"], sum(account["dropped"].values()))),
                      Text(reasons))
    if table.row_count:
        console.print()
        console.print(table)


def print_decision(outputs: dict[str, Path], console: Console) -> None:
    """The verdict, and every gate that is not met."""
    decision = json.loads((outputs["decide_release"] / "decision.json").read_text())
    unmet = [f"{verdict['score']} {verdict['shown']}, {verdict['rule']}" + (" (overridden)" if verdict["overridden"] else "")
             for verdict in decision["verdicts"] if not verdict["met"]]
    word = "[bold green]approved[/]" if decision["approved"] else "[bold red]refused[/], nothing was pushed:"
    if override := decision["override"]:
        word += f", overridden by {escape(override['by'])}:" if decision["approved"] else ""
    met = f"{len(decision['verdicts'])} gates met"
    console.print(f"\ngates   {word} {escape('; '.join(unmet)) or met}", highlight=False)


def _margin(label: str, outputs: dict[str, Path]) -> str:
    path = outputs.get(f"train_{label}")
    if path is None:
        return ""
    held_out = json.loads((path / "record.json").read_text())["measured"].get("held_out", {})
    return f"{held_out['margin_over_sft']:.2f}" if held_out else ""


def _outcome(event: dict[str, Any]) -> str:
    summary = str(event.get("summary", ""))
    return f"{summary}  (made by run {event['made_by']})" if event.get("reused") else summary


def _line(event: dict[str, Any]) -> str:
    if event["event"] == "failed":
        return f"{event['name']}: FAILED"
    return f"{event['name']:<28} {event['seconds']:7.1f} s  {_outcome(event)}"
