"""The README of every component, made from its signature, its KFP spec and its docstring.

    python -m components.readme            write components/README.md and components/<stage>/README.md
    python -m components.readme --check    name every README that says something else, and exit with 1

What a README should say better is said better in `component.py`.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import docstring_parser

FOLDER = Path(__file__).parent
STORY = FOLDER.parent / "pipelines" / "med42_v2.py"
MADE_FROM = "<!-- Written by `python -m components.readme` from {source}; change that and run it again. -->"


def main(arguments: list[str] | None = None) -> int:
    """Write all READMEs, or with `--check` compare them; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m components.readme", description="Write the READMEs of the components.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a README has drifted")
    check = parser.parse_args(arguments).check
    drifted = {path: text for path, text in readmes().items() if not path.is_file() or path.read_text(encoding="utf-8") != text}
    for path, text in drifted.items():
        if check:
            print(f"{path.relative_to(FOLDER.parent)}: differs from its component; run `python -m components.readme`", file=sys.stderr)
        else:
            path.write_text(text, encoding="ascii")
            print(path.relative_to(FOLDER.parent))
    return 1 if check and drifted else 0


def readmes() -> dict[Path, str]:
    """The text of every README, by its path."""
    stages = stages_in_order()
    return {FOLDER / "README.md": index(stages)} | {FOLDER / stage / "README.md": readme(stage) for stage in stages}


def stages_in_order() -> list[str]:
    """Every folder with a component, in the order in which the pipeline's story comes to them (for the last time)."""
    found = {path.parent.name for path in FOLDER.glob("*/component.py")}
    told: dict[str, int] = {}
    for node in ast.walk(_story()):
        if isinstance(node, ast.Name):
            told[node.id] = max(node.lineno, told.get(node.id, 0))
    return sorted(found, key=lambda stage: (told.get(stage, sys.maxsize), stage))


def readme(stage: str) -> str:
    """What a component does, takes and gives, and where it is used."""
    component = _component(stage)
    spec = component.component_spec
    inputs = [(name, entry) for name, entry in spec.inputs.items() if entry.type.startswith("system.")]
    parameters = [(name, entry) for name, entry in spec.inputs.items() if not entry.type.startswith("system.")]
    told = _told(component)
    parts = [
        f"# {stage}",
        MADE_FROM.format(source="`component.py`"),
        _purpose(stage),
        spec.description,
        f"The work is done by `{worker(stage)}`, in the image `{image(stage)}`.",
        *_section("Inputs", inputs, told),
        *_section("Parameters", parameters, told),
        *_section("Outputs", list(spec.outputs.items()), told),
        "## In the pipeline",
        "\n".join(["`pipelines/med42_v2.py`:", "", "```python", *uses(stage), "```"]),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def index(stages: list[str]) -> str:
    """The page that leads to every component."""
    rows = [(f"[{stage}]({stage}/README.md)", _purpose(stage), f"`{image(stage)}`") for stage in stages]
    return "\n\n".join([
        "# Components",
        MADE_FROM.format(source="the components"),
        f"The {len(stages)} steps of the pipeline, in its order. Each is a thin Kubeflow component around one function of `med42`, "
        "which does the work and knows nothing of Kubeflow: paths in, one folder out. The images hold the code; nothing is installed "
        "when a step starts.",
        _table(("component", "what it does", "image"), rows),
        "Every component but `preflight` takes a `job_file`: the recipe and the places of a run, as `preflight` checked and wrote them. "
        "Every step that makes something shows a `page` about it in the user interface.",
    ]) + "\n"


def worker(stage: str) -> str:
    """The function of `med42` that a component calls: the one that its body imports as `stage`."""
    for node in ast.walk(ast.parse((FOLDER / stage / "component.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            for name in node.names:
                if name.asname == "stage":
                    return f"{node.module}.{name.name}"
    raise ValueError(f"{FOLDER / stage / 'component.py'}: found no `from med42... import ... as stage` in the component's body")


def image(stage: str) -> str:
    """The name of a component's image, without its version."""
    return str(_component(stage).component_spec.implementation.container.image).partition(":")[0]


def uses(stage: str) -> list[str]:
    """The statements of the pipeline's story that use a component, one line each."""
    text = STORY.read_text(encoding="utf-8")
    statements = [node for node in ast.walk(_story()) if isinstance(node, ast.Assign | ast.Expr | ast.Return)]
    using = [node for node in statements if any(isinstance(part, ast.Name) and part.id == stage for part in ast.walk(node))]
    return [" ".join((ast.get_source_segment(text, node) or "").split()) for node in sorted(using, key=lambda node: node.lineno)]


def _component(stage: str) -> Any:
    return getattr(importlib.import_module(f"components.{stage}.component"), stage)


def _purpose(stage: str) -> str:
    return importlib.import_module(f"components.{stage}.component").__doc__ or ""


def _story() -> ast.Module:
    return ast.parse(STORY.read_text(encoding="utf-8"))


def _told(component: Any) -> dict[str, str]:
    """What the docstring says of each argument, and of the returned value under the name that KFP gives it."""
    docstring = docstring_parser.parse(component.python_func.__doc__)
    told = {parameter.arg_name: parameter.description or "" for parameter in docstring.params}
    return told | ({"Output": docstring.returns.description or ""} if docstring.returns else {})


def _section(title: str, entries: list[tuple[str, Any]], told: dict[str, str]) -> Iterator[str]:
    if entries:
        yield f"## {title}"
        yield _table(("name", "type", "description"), [(f"`{name}`", _type(entry), told[name]) for name, entry in entries])


def _type(entry: Any) -> str:
    """`system.Dataset@0.0.1` as `Dataset`, and whether it is a list or may be left out."""
    name = entry.type.removeprefix("system.").partition("@")[0]
    return ("list of " if entry.is_artifact_list else "") + name + (", optional" if getattr(entry, "optional", False) else "")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(" ".join(cell.split()).replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
