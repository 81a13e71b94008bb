"""Every component: its README, how thin it is, its image; and one of them run by the local engine."""

import ast
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kfp import dsl, local

from components import images, readme
from components.preflight.component import preflight
from components.prepare_source.component import prepare_source
from med42.cluster.profile import STAGES
from med42.lineage.record import read_record
from med42.recipe import dump_recipe, load_recipe
from med42.recipe.derived import shape_of

# The engine warns of an image whose name does not hold "python".
pytestmark = pytest.mark.filterwarnings("ignore:You may be attemping:RuntimeWarning")

FOLDER = Path(readme.__file__).parent
FOUND = sorted(path.parent.name for path in FOLDER.glob("*/component.py"))
MOST_STATEMENTS = 4


@pytest.fixture(params=FOUND)
def stage(request: pytest.FixtureRequest) -> str:
    return request.param


def tree(stage: str) -> ast.Module:
    return ast.parse((FOLDER / stage / "component.py").read_text())


def body(stage: str) -> list[ast.stmt]:
    """The statements of a component's function, without its docstring."""
    functions = [node for node in tree(stage).body if isinstance(node, ast.FunctionDef)]
    assert [function.name for function in functions] == [stage]
    return functions[0].body[1:]


def container(stage: str) -> Any:
    return getattr(importlib.import_module(f"components.{stage}.component"), stage).component_spec.implementation.container


# --- READMEs --------------------------------------------------------------------------------------


def test_readmes_are_what_the_components_say(capsys):
    assert readme.main(["--check"]) == 0, capsys.readouterr().err


def test_a_readme_that_drifted_is_named(monkeypatch, capsys):
    texts = readme.readmes()
    drifted = FOLDER / "train_sft" / "README.md"
    monkeypatch.setattr(readme, "readmes", lambda: texts | {drifted: texts[drifted] + "more\n"})
    assert readme.main(["--check"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("components/train_sft/README.md: differs from its component")


def test_readmes_are_ascii_and_complete():
    texts = readme.readmes()
    assert set(texts) == {FOLDER / "README.md", *(FOLDER / stage / "README.md" for stage in FOUND)}
    assert all(text.isascii() for text in texts.values())


def test_every_input_and_output_is_described(stage):
    text = readme.readme(stage)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")]
    spec = getattr(importlib.import_module(f"components.{stage}.component"), stage).component_spec
    assert {row[0].strip("`") for row in rows} == {*spec.inputs, *spec.outputs}
    assert all(kind and description for _, kind, description in rows)


def test_a_readme_names_a_function_that_exists(stage):
    module, _, function = readme.worker(stage).rpartition(".")
    assert function == stage
    assert callable(getattr(importlib.import_module(module), function))


def test_the_story_uses_every_component(stage):
    assert readme.uses(stage)


# --- the code of a component ----------------------------------------------------------------------


def test_every_stage_has_a_component_and_every_component_a_stage():
    assert sorted(STAGES) == FOUND


def test_a_component_only_calls(stage):
    statements = [node for node in body(stage) if not isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(statements) <= MOST_STATEMENTS
    assert {type(node) for node in statements} <= {ast.Assign, ast.Expr, ast.Return}


def test_a_component_imports_med42_and_the_standard_library_alone(stage):
    names = [name.name for node in body(stage) if isinstance(node, ast.Import) for name in node.names]
    names += [node.module or "" for node in body(stage) if isinstance(node, ast.ImportFrom)]
    for name in names:
        package = name.partition(".")[0]
        assert package == "med42" or package in sys.stdlib_module_names, name


def test_outside_its_function_a_component_imports_kfp_and_its_image_alone(stage):
    imports = [node for node in tree(stage).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {getattr(node, "module", None) for node in imports} == {"kfp", "kfp.dsl", "components.images"}


def test_nothing_is_installed_when_a_component_starts(stage):
    command = " ".join(container(stage).command)
    assert "med42" in command  # it does hold the component's source
    assert "pip" not in command.replace("pipeline", "")


def test_the_image_is_that_of_the_stages_kind(stage):
    assert container(stage).image == getattr(images, STAGES[stage].upper())


# --- by the local engine --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """`preflight` and `prepare_source` of tiny, run one after the other as `med42 run` runs them."""
    folder, recipe = tmp_path_factory.mktemp("engine"), load_recipe("tiny", ["sources.exam.license=MIT"])

    @dsl.pipeline(name="one-source")
    def one_source(recipe: str, shape: str, overrides: str, store: str) -> dsl.Dataset:
        checked = preflight(recipe=recipe, overrides=overrides, shape=shape, run="of-this-test", run_of_engine="", store=store,
                            data_root="", push_to="")
        return prepare_source(job_file=checked.outputs["job_file"], name="exam").outputs["conversations"]

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "root"), raise_on_error=True)
    task = one_source(recipe=dump_recipe(recipe), shape=shape_of(recipe), overrides="sources.exam.license=CC0-1.0",
                      store=str(folder / "store"))
    return SimpleNamespace(folder=folder, output=task.output, record=read_record(Path(task.output.path)))


def test_a_component_writes_its_artifact_where_the_engine_says(prepared):
    assert Path(prepared.output.path).is_relative_to(prepared.folder / "root")
    assert (prepared.record.stage, prepared.record.made.run) == ("prepare_source", "of-this-test")
    assert {"page.html", "manifest.json"} <= set(prepared.record.files)


def test_an_override_given_to_the_run_reaches_the_stage(prepared):
    assert "CC0-1.0" in str(prepared.record.parameters)


def test_a_component_shows_digest_and_page(prepared):
    metadata = prepared.output.metadata
    assert (metadata["kind"], metadata["digest"], metadata["made_by_run"]) == ("conversations", prepared.record.digest, "of-this-test")
    [page] = Path(prepared.folder / "root").glob("*/prepare-source/page")
    assert page.read_text() == (Path(prepared.output.path) / "page.html").read_text()


def test_the_store_keeps_what_a_component_made(prepared):
    [kept] = (prepared.folder / "store" / "prepare_source").glob("*/record.json")
    assert kept.read_bytes() == (Path(prepared.output.path) / "record.json").read_bytes()
