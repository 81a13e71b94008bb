"""Scores read again, put together and compared; and the command that does it."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from command import answer
from command import refusal as command_refusal
from scored import lock_of, make_scores, share

from med42.evaluation.compare import gains, markdown
from med42.evaluation.protocol import differences, refuse_other_protocol
from med42.evaluation.scores import ITEMS, LOCK, average_name, joined, read_scores

SEVEN = ("mmlu-pro", "mmlu", "medmcqa", "medqa", "usmle", "pubmedqa", "toxigen")


def models(**shares: int) -> dict[str, dict[str, list[bool]]]:
    return {label.replace("_", "-"): dict.fromkeys(SEVEN, share(right, 100)) for label, right in shares.items()}


@pytest.fixture
def folder(tmp_path: Path, job) -> Path:
    make_scores(tmp_path / "scores", job, models(base=50, sft=60, dpo_1=64))
    return tmp_path / "scores"


def found(folder: Path, model: str = "") -> dict[tuple[str, str], Any]:
    return {(one.label, one.benchmark): one for one in gains(read_scores(folder), "base", model)}


def test_gains_are_of_the_same_questions(folder):
    told = found(folder)
    one = told["sft", "mmlu"]
    assert (one.score.value, round(one.gain.value, 6)) == (0.6, 0.1)
    assert one.gain.low > 0.03 and one.p_value == pytest.approx(2 / 2**10)
    assert told["dpo-1", "average"].gain.value == pytest.approx(0.14)
    assert told["dpo-1", "average"].gain.low > one.gain.low  # seven times as many questions


def test_the_papers_gain_stands_beside_ours(folder):
    told = found(folder, "Med42-Llama3-8B")
    assert told["sft", "mmlu-pro"].printed == pytest.approx(6.1)
    assert told["sft", "mmlu-pro"].agrees is True
    assert told["sft", "pubmedqa"].agrees is False
    assert told["sft", "average"].printed == pytest.approx(2.857, abs=1e-3)


def test_without_a_column_there_is_no_average_and_no_printed_one(tmp_path, job):
    make_scores(tmp_path / "six", job, {label: {name: marks for name, marks in of_it.items() if name != "usmle"}
                                        for label, of_it in models(base=50, sft=60).items()})
    scores = read_scores(tmp_path / "six")
    assert average_name(scores.lock) == "mean of 6"
    told = found(tmp_path / "six", "Med42-Llama3-8B")
    assert told["sft", "mean of 6"].printed is None and ("sft", "average") not in told


def test_scores_of_several_artifacts_are_joined(folder, tmp_path, job):
    make_scores(tmp_path / "other", job, models(base=50, sft=70))
    both = joined([read_scores(folder), read_scores(tmp_path / "other")], ["scores", "other"])
    assert both.labels == ["base", "sft", "dpo-1", "sft (other)"]


@pytest.mark.parametrize("changes", [{"answer": "text"}, {"harness": "lm-eval 0.4.12"}])
def test_scores_under_another_lock_are_refused_with_what_differs(folder, tmp_path, job, refusal, changes):
    make_scores(tmp_path / "other", job, models(base=50), **changes)
    told = refusal(lambda: joined([read_scores(folder), read_scores(tmp_path / "other")], ["a", "b"]))
    [(key, value)] = changes.items()
    assert f"scores under another protocol ({key} {value}); expected {key} {lock_of({})[key]}" in told


def test_a_lock_tells_every_difference():
    one, other = lock_of({"mmlu": 100, "medqa": 50}), lock_of({"mmlu": 99})
    told = {key: values for key, *values in differences(one, other)}
    assert told["benchmarks.mmlu.rows"] == [100, 99]
    assert told["benchmarks.medqa.rows"] == [50, None]
    assert differences(one, one) == []
    refuse_other_protocol(one, one, "here")


@pytest.mark.parametrize("change", ["fewer", "twice", "torn", "none"])
def test_scores_that_do_not_hold_what_their_lock_says_are_refused(folder, refusal, change):
    table = pyarrow.parquet.read_table(folder / ITEMS)
    if change == "fewer":
        pyarrow.parquet.write_table(table.slice(1), folder / ITEMS)
        told = refusal(lambda: read_scores(folder))
        assert "99 questions of mmlu-pro for base, 99 of them different; expected the 100 of its lock" in told
    elif change == "twice":
        rows = table.to_pylist()
        pyarrow.parquet.write_table(table.from_pylist([{**rows[0], "id": rows[1]["id"]}, *rows[1:]]), folder / ITEMS)
        assert "100 questions of mmlu-pro for base, 99 of them different" in refusal(lambda: read_scores(folder))
    elif change == "torn":
        (folder / ITEMS).write_bytes((folder / ITEMS).read_bytes()[:-9])
        assert "no scores that can be read" in refusal(lambda: read_scores(folder))
    else:
        (folder / LOCK).unlink()
        assert "no scores that can be read" in refusal(lambda: read_scores(folder))


# --- the command ----------------------------------------------------------------------------------


def test_compare_prints_and_writes(folder, tmp_path):
    files = ("--markdown", tmp_path / "a.md", "--html", tmp_path / "a.html")
    told = answer("compare", folder, "--model", "Med42-Llama3-8B", *files, cwd=tmp_path)
    assert "+10.0 [" in told and "Med42-Llama3-8B less Llama3-8B-Instruct" in told
    table = (tmp_path / "a.md").read_text()
    assert table == markdown(gains(read_scores(folder), "base", "Med42-Llama3-8B"), "base", "Med42-Llama3-8B")
    page = (tmp_path / "a.html").read_text()
    assert "<svg" in page and "Med42-Llama3-8B (paper)" in page and "<script" not in page


def test_compare_refuses_what_it_cannot_compare(folder, tmp_path, job):
    make_scores(tmp_path / "other", job, models(base=50), answer="letter")
    assert "answer letter" in command_refusal("compare", folder, tmp_path / "other", cwd=tmp_path)
    assert "scores of 'dpo-9'" in command_refusal("compare", folder, "--base", "dpo-9", cwd=tmp_path)
    assert "one of Table 1" in command_refusal("compare", folder, "--model", "GPT-4.0", cwd=tmp_path)
    assert "no scores that can be read" in command_refusal("compare", tmp_path, cwd=tmp_path)


def test_paper_prints_the_results_and_what_does_not_reproduce(tmp_path):
    told = answer("paper", cwd=tmp_path)
    assert "Llama3.1-405B-Instruct" in told and "corrected name" in told and "GPT-4.0: the average 78.9" in told
    assert len([line for line in told.splitlines() if line[:1].isalpha()]) == 1 + 22 + 1
    whole = json.loads(answer("paper", "--json", cwd=tmp_path))
    assert len(whole["table_4"]) == 22 and len(whole["table_5"]["rows"]) == 22
    assert "405,400" in answer("paper", "--table", "5", cwd=tmp_path)
    assert "one of 1, 2, 3, 4, 5" in command_refusal("paper", "--table", "6", cwd=tmp_path)
