"""A big source prepared in parts, each by a task of its own, comes to the same mix as the whole."""

import json
from pathlib import Path

import pytest

from med42.data.mix_data import mix_data
from med42.data.prepare_source import prepare_source
from med42.data.shards import shard_paths
from med42.evaluation.prepare_benchmarks import prepare_benchmarks
from med42.lineage.journal import Job
from med42.recipe import Recipe, load_recipe
from med42.recipe.parts import source_of, source_parts, which_part

ROWS = 9_000  # five blocks of a file


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of which every seventh says what the row 2,001 before it said, in another block; one is empty."""
    folder = tmp_path_factory.mktemp("data")
    said = [number if number % 7 or number < 2001 else number - 2001 for number in range(ROWS)]
    rows = [{"instruction": "", "input": f"What is case {number}?", "output": f"It is {number}." * (number != 11)} for number in said]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"ending0": "It is 77", "ending1": "b", "ending2": "c", "ending3": "d"}
    benchmark = {"sent1": "What is case 77?", "sent2": "", **options, "label": 0}
    (folder / "medqa.jsonl").write_text(json.dumps(benchmark) + "\n")
    return folder


def recipe_in(shards: int) -> Recipe:
    source = {"domain": "medical", "family": "meadow", "license": "MIT", "rows": 5_000, "shards": shards,
              "origin": {"kind": "file", "files": ["rows.jsonl"]}}
    benchmark = {"medqa": {"family": "medqa", "license": "MIT", "origin": {"kind": "file", "files": ["medqa.jsonl"]}}}
    return load_recipe("tiny", [f"sources={json.dumps({'big': source})}", f"evaluation.benchmarks={json.dumps(benchmark)}", "gates=[]"])


def mixed(data: Path, out: Path, shards: int):
    recipe, job = recipe_in(shards), Job("test", None, data)
    for part in source_parts(recipe):
        prepare_source(recipe, part, out / part, job)
    prepare_benchmarks(recipe, out / "benchmarks", job)
    paths = [out / part for part in reversed(source_parts(recipe))]  # an engine may give them in any order
    return mix_data(recipe, paths, out / "benchmarks", out / "mix", job)


def test_parts_have_names_that_tell_what_they_are():
    assert source_parts(recipe_in(1)) == ["big"]
    assert source_parts(recipe_in(3)) == ["big@1-of-3", "big@2-of-3", "big@3-of-3"]
    assert source_of("big@2-of-3") == source_of("big") == "big"
    assert (which_part("big@2-of-3").index, which_part("big@2-of-3").of, which_part("big").of) == (2, 3, 1)


@pytest.mark.parametrize("shards", [2, 5, 7])  # seven parts of five blocks: two are empty
def test_parts_come_to_the_same_mix_as_the_whole(data, tmp_path, shards):
    whole, parts = mixed(data, tmp_path / "whole", 1), mixed(data, tmp_path / "parts", shards)
    assert parts.measured["merkle_root"] == whole.measured["merkle_root"]
    names = ("mix/part-00000.parquet",)
    assert [(tmp_path / "whole" / name).read_bytes() for name in names] == [(tmp_path / "parts" / name).read_bytes() for name in names]
    assert len(shard_paths(tmp_path / "whole" / "mix")) == len(shard_paths(tmp_path / "parts" / "mix")) == 1
    assert whole.measured["rows"] == 5_000
    # The whole's duplicates are told where it is prepared, those between parts where they are mixed.
    inside = "duplicate inside the source"
    between = parts.measured["accounts"]["big"]["dropped"].get(inside, 0)
    assert between > 0
    assert parts.measured["accounts"]["big"]["read"] == whole.measured["accounts"]["big"]["read"] + between
