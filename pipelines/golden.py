"""The compiled pipelines that are kept in `pipelines/compiled`, so that a change of the code shows what it changes on a cluster.

    python -m pipelines.golden            compile them again
    python -m pipelines.golden --check    name every one that would change, and exit with 1

Each file holds a Pipeline and a PipelineVersion as Argo CD applies them (`manifests/gitops`), the intermediate representation inside.
A change of a golden file belongs into the same commit as the change that made it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from med42.cli.compile import compile_pipeline
from med42.cluster.profile import load_profile
from med42.recipe import load_recipe

COMPILED = Path(__file__).parent / "compiled"
# A recipe, and the cluster profile it is compiled for.
GOLDEN = {"tiny": "kind", **dict.fromkeys(("llama3-8b", "llama3.1-8b", "llama3-70b", "llama3.1-70b"), "gke")}


def compiled(recipe: str) -> bytes:
    """One of the golden pipelines, compiled now."""
    return compile_pipeline(load_recipe(recipe), load_profile(GOLDEN[recipe]), images=None).manifest


def main(arguments: list[str] | None = None) -> int:
    """Write the golden files, or with `--check` compare them; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.golden", description="Compile the golden pipelines.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file would change")
    check, drifted = parser.parse_args(arguments).check, False
    for recipe in GOLDEN:
        path, content = COMPILED / f"{recipe}.yaml", compiled(recipe)
        if path.is_file() and path.read_bytes() == content:
            continue
        drifted = True
        if check:
            print(f"{path}: differs from what the code compiles; run `python -m pipelines.golden`", file=sys.stderr)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            print(path)
    return 1 if check and drifted else 0


if __name__ == "__main__":
    sys.exit(main())
