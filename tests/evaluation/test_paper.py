"""The paper's tables: that they are whole, that what follows from them does, and that they are the recipes' numbers."""

import pytest

from med42.evaluation.paper import base_of, columns, gain, results, tables, what_does_not_reproduce
from med42.evaluation.protocol import task_config, task_file
from med42.evaluation.scores import SEVEN
from med42.recipe import load_recipe


def test_table_4_has_22_models_and_every_full_average_is_the_plain_mean():
    assert len(results()) == len(tables()["table_4"]) == 22
    full = [row for row in results().values() if len(row.scores) == 7]
    assert len(full) == 21
    assert max(abs(row.mean - row.printed) for row in full) < 0.06


def test_columns_are_the_recipes_benchmarks():
    benchmarks = load_recipe("llama3-8b").evaluation.benchmarks
    assert columns() == list(benchmarks)
    assert sorted(task_config(task_file(benchmark.family))["task"] for benchmark in benchmarks.values()) == sorted(SEVEN)


def test_what_is_told_not_to_reproduce_is_what_the_numbers_say():
    told = "\n".join(what_does_not_reproduce())
    assert "GPT-4.0: the average 78.9 is the mean of 5 columns (78.94); mmlu-pro, toxigen are empty" in told
    assert "on usmle (83.8 to 84.1) Med42-Llama3-70B is below GPT-4.0" in told
    assert "on mmlu (86.8 to 87.0) Med42-Llama3.1-70B is below GPT-4.0" in told
    assert "on pubmedqa (68.4 to 69.8) Med42-Llama3-8B is below Llama3-8B-Instruct" in told
    assert "547,542; 952,942 is printed, so 405,400 (31.27% of the mix) have no row" in told
    assert told.count("\n") == 6


def test_a_wrong_average_or_share_would_be_told(monkeypatch):
    wrong = {**tables(), "table_5": {**tables()["table_5"], "rows": [{"data": "x", "domain": "general", "samples": 1000, "percent": 5.0}]}}
    monkeypatch.setattr("med42.evaluation.paper.tables", lambda: wrong)
    told = list(what_does_not_reproduce())
    assert "Table 5: x is 0.08% of all, 5.0 is printed" in told
    assert any("the general rows add up to 1,000; 343,529 is printed" in line for line in told)


def test_the_405b_row_is_corrected_and_says_so():
    row = results()["Llama3.1-405B-Instruct"]
    assert (row.scores["usmle"], row.printed) == (95.5, 82.6)
    assert "corrected name" in row.note
    assert results()["Llama3-70B-Instruct"].printed == 77.7


@pytest.mark.parametrize(("score", "points"), [("mmlu-pro", 6.1), ("mmlu", 2.9), ("medmcqa", 1.6), ("medqa", 1.2), ("usmle", 6.6),
                                               ("pubmedqa", -1.4), ("toxigen", 3.0), ("average", 2.86)])
def test_what_the_8b_gains_over_its_base(score, points):
    assert gain("Med42-Llama3-8B", score) == pytest.approx(points, abs=0.006)


def test_a_gain_needs_a_model_of_the_papers_own(refusal):
    assert "'GPT-4.0'; expected one of Table 1: Med42-Llama3-8B" in refusal(lambda: base_of("GPT-4.0"))


@pytest.mark.parametrize("name", ["llama3-8b", "llama3.1-8b", "llama3-70b", "llama3.1-70b"])
def test_tables_2_3_and_5_are_the_recipes(name):
    recipe, size = load_recipe(name), "8B" if "8b" in name else "70B"
    assert recipe.paper is not None
    two, three = ({row["setting"]: row[size] for row in tables()[table]} for table in ("table_2", "table_3"))
    assert (two["steps"], two["tokens a step"]) == (recipe.paper.sft_steps, recipe.paper.sft_tokens_per_step)
    assert (float(two["highest learning rate"]), two["weight decay"]) == (recipe.sft.learning_rate, recipe.sft.weight_decay)
    assert tuple(map(float, two["betas"].split(", "))) == recipe.sft.betas
    assert (three["beta"], three["batch"], three["longest sequence"]) == (recipe.dpo.beta, recipe.dpo.batch, recipe.dpo.max_length)
    assert two["GPUs"] == f"{recipe.sft.devices.nodes} x {recipe.sft.devices.gpus_per_node} H100"
    assert three["GPUs"] == f"{recipe.dpo.devices.nodes} x {recipe.dpo.devices.gpus_per_node} H100"
    printed = {source.paper_rows: source.paper_percent for source in recipe.sources.values() if source.paper_rows}
    assert {row["samples"]: row["percent"] for row in tables()["table_5"]["rows"]} == printed
    assert tables()["table_5"]["total"] == recipe.paper.total_rows
    assert recipe.paper.model in {row["model"] for row in tables()["table_1"]}
