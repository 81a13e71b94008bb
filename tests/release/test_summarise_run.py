"""The last node of a run: what its page says, and the numbers it logs."""

from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from scored import make_scores, share

from components.summarise_run.component import summarise_run as component
from med42.lineage.journal import Job, write_job
from med42.recipe import load_recipe, recipe_digest
from med42.release.decide_release import decide_release
from med42.release.summarise_run import summarise_run

JOB = Job("of-this-test")
TINY = load_recipe("tiny", ["gates=[{score: average, at_least: 0.6}]"])


def scores_of(folder: Path, last: float, **measured: Any) -> Path:
    """Scores of a base model and of the model to be judged, alike on every benchmark; the control stays at chance."""
    def marks(score: float) -> dict[str, list[bool]]:
        return {name: share(round(100 * (score if benchmark.in_average else 0.25)), 100)
                for name, benchmark in TINY.evaluation.benchmarks.items()}

    outside = [name for name, benchmark in TINY.evaluation.benchmarks.items() if not benchmark.in_average]
    make_scores(folder, JOB, {"base": marks(0.25), "dpo-3": marks(last)}, outside=outside, measured=measured)
    return folder


@pytest.mark.parametrize(("last", "verdict", "met"), [(0.9, "approved", "yes"), (0.3, "refused", "**no**")])
def test_the_page_says_what_came_out(tmp_path, last, verdict, met):
    scores = scores_of(tmp_path / "scores", last)
    decide_release(TINY, scores, tmp_path / "decision", JOB)
    numbers = summarise_run(TINY, scores, tmp_path / "decision", "tiny-0.med42 " + "ab" * 32, tmp_path / "summary.md", JOB)
    told = (tmp_path / "summary.md").read_text()
    assert told.startswith(f"# tiny: {verdict}\n")
    assert f"Model `dpo-3` of run `of-this-test`, recipe digest `{recipe_digest(TINY)[:16]}`" in told
    assert f"| average-at-least | {100 * last:.1f} [" in told and f" % | at least 60.0% | {met} |" in told
    assert f"| **average** | 25.0% | {last:.1%} | {last - 0.25:+.1%} |" in told
    assert f"| medqa | 25.0% | {last:.1%} | {last - 0.25:+.1%} |" in told
    assert "`med42 audit verify tiny-0.med42`" in told and f"(record `{'ab' * 8}`)" in told
    each = {name.replace("-", "_"): last if benchmark.in_average else 0.25 for name, benchmark in TINY.evaluation.benchmarks.items()}
    assert numbers == pytest.approx(each | {"average": last, "approved": float(verdict == "approved")})


def test_intervals_that_were_worked_out_stand_beside_the_scores(tmp_path):
    scores = scores_of(tmp_path / "scores", 0.9, intervals={"average": [0.881, 0.917], "medqa": [0.83, 0.94]})
    decide_release(TINY, scores, tmp_path / "decision", JOB)
    summarise_run(TINY, scores, tmp_path / "decision", "tiny-0.med42 x", tmp_path / "summary.md", JOB)
    told = (tmp_path / "summary.md").read_text()
    assert "| **average** | 25.0% | 90.0% [88.1, 91.7] | +65.0% |" in told
    assert "| medqa | 25.0% | 90.0% [83.0, 94.0] | +65.0% |" in told and "| mmlu | 25.0% | 90.0% | +65.0% |" in told


def test_a_decision_on_other_scores_is_refused(tmp_path, refusal):
    decide_release(TINY, scores_of(tmp_path / "scores", 0.9), tmp_path / "decision", JOB)
    others = scores_of(tmp_path / "others", 0.8)
    told = refusal(lambda: summarise_run(TINY, others, tmp_path / "decision", "x y", tmp_path / "summary.md", JOB))
    assert "found a decision on other scores" in told
    assert not (tmp_path / "summary.md").exists()


def test_the_component_logs_the_numbers_and_writes_the_page(tmp_path):
    decide_release(TINY, scores_of(tmp_path / "scores", 0.9), tmp_path / "decision", JOB)
    write_job(tmp_path / "job", TINY, JOB)
    summary, metrics = dsl.Markdown(uri=str(tmp_path / "summary.md")), dsl.Metrics()
    component.python_func(job_file=dsl.Artifact(uri=str(tmp_path / "job")), scores=dsl.Artifact(uri=str(tmp_path / "scores")),
                          decision=dsl.Artifact(uri=str(tmp_path / "decision")), sealed="tiny.med42 x", summary=summary, metrics=metrics)
    assert metrics.metadata["average"] == pytest.approx(0.9) and metrics.metadata["approved"] == 1.0
    assert (tmp_path / "summary.md").read_text().startswith("# tiny: approved")
