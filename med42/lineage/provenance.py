"""Which code, packages and machine made something."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from med42.lineage.digest import file_digest, value_digest

PACKAGE = Path(__file__).parents[1]

# A layer and the layers that it may import (DESIGN's table): what a stage's result can depend on.
LAYERS: dict[str, tuple[str, ...]] = {
    "data": ("errors.py", "recipe", "report", "lineage", "data"),
    "training": ("errors.py", "recipe", "report", "lineage", "data", "training"),
    "preferences": ("errors.py", "recipe", "report", "lineage", "data", "preferences"),
    "evaluation": ("errors.py", "recipe", "report", "lineage", "data", "evaluation"),
    "release": ("errors.py", "recipe", "report", "lineage", "data", "evaluation", "release"),
}


@functools.cache
def code_digest(layer: str) -> str:
    """Digest of the source files of a layer and of the layers below it; shipped recipes excluded."""
    return _digest_of(LAYERS[layer])


def stages_digest() -> str:
    """Digest of the source files of all that stages run: an image that tells another one holds other code."""
    launcher = (f"cluster/{name}.py" for name in ("api", "causes", "follow", "look", "profile", "train_job"))
    return _digest_of(("preflight.py", *launcher, *sorted({part for parts in LAYERS.values() for part in parts})))


def _digest_of(parts: tuple[str, ...]) -> str:
    files: dict[str, str] = {}
    for part in parts:
        root = PACKAGE / part
        for path in [root] if root.is_file() else sorted(root.rglob("*")):
            if path.suffix in (".py", ".jinja", ".yaml") and "shipped" not in path.parts:
                files[path.relative_to(PACKAGE).as_posix()] = file_digest(path)
    return value_digest(files)


def package_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of installed distributions, by name."""
    return {name: importlib.metadata.version(name) for name in names}


@functools.cache
def commit() -> tuple[str, bool]:
    """The code's commit and whether the work tree differs from it; ("", False) outside a checkout.

    An image was told by its build; a commit with a difference ends in `-dirty` there.
    """
    if told := os.environ.get("MED42_COMMIT"):
        return told.removesuffix("-dirty"), told.endswith("-dirty")

    def git(*arguments: str) -> str:
        return subprocess.run(("git", "-C", str(PACKAGE), *arguments), capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "", False


def machine() -> str:
    """Processor architecture and operating system, as `x86_64 Linux`."""
    return f"{platform.machine()} {platform.system()}"


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def accelerators(drivers: Path = Path("/proc/driver/nvidia")) -> list[str]:
    """Model of each NVIDIA GPU that the machine has, and the driver; empty where there is none."""
    found = []
    for path in sorted(drivers.glob("gpus/*/information")):
        told = dict(line.partition(":")[::2] for line in path.read_text().splitlines())
        found.append(told.get("Model", "GPU of an unknown model").strip())
    if found and (drivers / "version").is_file():
        found.append("driver " + (drivers / "version").read_text().partition("\n")[0].partition(":")[2].strip())
    return found


if __name__ == "__main__":
    print(stages_digest())
