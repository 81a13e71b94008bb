"""Starting the real `med42 run`, to its end or to a kill, and looking at what it left."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

MED42 = Path(sys.executable).with_name("med42")


@dataclass(frozen=True)
class Run:
    """A finished `med42 run`."""

    status: int
    output: str
    folder: Path

    @property
    def events(self):
        return journal(self.folder.parent.parent, self.folder.name)

    @property
    def finished(self):
        return {event["name"]: event for event in self.events if event["event"] == "finished"}

    @property
    def digests(self):
        """Digest by stage; not of the bundle, which tells when and by which runs its parts were made."""
        return {name: event["digest"] for name, event in self.finished.items() if "digest" in event and name != "seal_audit"}

    def record(self, name):
        return json.loads((Path(self.finished[name]["path"]) / "record.json").read_text())

    @property
    def bundle(self):
        return next(self.folder.glob("*.med42"))


def journal(work, run):
    path = work / "store" / "journal" / f"{run}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def changes(*overrides):
    """Options that change keys of the recipe."""
    return [part for override in overrides for part in ("--set", override)]


def start(work, recipe, *options):
    command = [MED42, "run", recipe, "--work", work, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def run_of(output):
    return re.search(r"^run (\S+), log", output, re.MULTILINE).group(1)


def run(work, recipe, *options):
    process = start(work, recipe, *options)
    output = process.communicate(timeout=900)[0]
    found = re.search(r"^run (\S+), log", output, re.MULTILINE)
    return Run(process.returncode, output, work / "runs" / (found.group(1) if found else "none"))


def run_and_kill(work, recipe, stages, *options):
    """Start a run and kill it, and all it started, as soon as `stages` of its own making are finished.

    Returns the names of the stages that it made; fewer than asked for means that it came to its end.
    """
    before = set((work / "store" / "journal").glob("*.jsonl"))
    process = start(work, recipe, *options)
    made = []
    while process.poll() is None and len(made) < stages:
        time.sleep(0.02)
        for path in set((work / "store" / "journal").glob("*.jsonl")) - before:
            events = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
            made = [event["name"] for event in events if event["event"] == "finished" and "digest" in event and not event["reused"]]
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    return made
