"""The stage as a whole: scores equal to lm-eval's, killed and gone on with, refused where they must be."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet
import pytest
import yaml

from med42.data.shards import read_shards
from med42.evaluation.answers import all_answers, answers, lengths, metrics, preferred
from med42.evaluation.evaluate_model import evaluate_model
from med42.evaluation.protocol import TASKS, protocol, task_config, task_file
from med42.evaluation.scores import read_scores
from med42.lineage.artifact import Outcome, Plan, produce
from med42.lineage.journal import Job
from med42.lineage.record import read_record
from med42.recipe import Recipe, load_recipe

# Ours is worth nothing if lm-eval's own differs: what it says of a log-likelihood in fp32 at two batch sizes is 5e-5 apart.
TOLERANCE = 5e-4
SHORT = ["evaluation.limit=6", "evaluation.threads=1"]


@pytest.fixture(scope="module")
def prepared(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model with random weights, and six questions of each of tiny's benchmarks."""
    from med42.evaluation.prepare_benchmarks import prepare_benchmarks
    from med42.training.prepare_base import prepare_base

    folder, recipe, job = tmp_path_factory.mktemp("prepared"), load_recipe("tiny", SHORT), Job("test", None)
    prepare_base(recipe, tiny.mix, folder / "model", job)
    prepare_benchmarks(recipe, folder / "benchmarks", job)
    return SimpleNamespace(folder=folder, recipe=recipe, model=folder / "model", benchmarks=folder / "benchmarks",
                           items={item["id"]: item for item in read_shards(folder / "benchmarks")})


def score(prepared: SimpleNamespace, out: Path, *overrides: str, label: str = "base", earlier: Path | None = None, job: Job | None = None,
          model: Path | None = None) -> Any:
    recipe = load_recipe("tiny", [*SHORT, *overrides])
    return evaluate_model(recipe, label, model or prepared.model, prepared.benchmarks, earlier, out, job or Job("test", None))


@pytest.fixture(scope="module")
def scored(prepared: SimpleNamespace) -> Path:
    score(prepared, prepared.folder / "scores")
    return prepared.folder / "scores"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table(folder / "items.parquet").to_pylist()


# --- what is scored -------------------------------------------------------------------------------


def test_every_log_likelihood_is_lm_evals(prepared, scored):
    """Asked of its HF model one string at a time: prompt by the chat template, then the answer."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(prepared.model, dtype=torch.float32)
    peer = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(prepared.model), batch_size=8, device="cpu")
    requests, told = [], []
    for row in rows_of(scored):
        item = prepared.items[row["id"]]
        prompt = peer.apply_chat_template([{"role": "user", "content": item["prompt"]}])
        for form in row["forms"]:
            requests += [SimpleNamespace(args=(prompt, answer)) for answer in answers(item["options"], item["lettered"], form["form"])]
            told += form["log_likelihoods"]
    expected = [value for value, _ in peer.loglikelihood(requests, disable_tqdm=True)]
    assert len(told) > 400
    assert max(abs(one - other) for one, other in zip(told, expected, strict=True)) < TOLERANCE


def test_scores_follow_from_the_items(prepared, scored):
    told, rows = json.loads((scored / "scores.json").read_text()), rows_of(scored)
    for row in rows:
        item, [first, *_] = prepared.items[row["id"]], row["forms"]
        assert row["preferred"] == max(range(len(item["options"])), key=lambda place: first["log_likelihoods"][place])
        assert row["correct"] == (row["preferred"] == item["right"])
        shares = [math.exp(value) for value in first["log_likelihoods"]]
        assert row["confidence"] == pytest.approx(max(shares) / sum(shares))
    medqa = [row["correct"] for row in rows if row["benchmark"] == "medqa"]
    assert told["scores"]["medqa"]["score"] == pytest.approx(sum(medqa) / len(medqa))
    steps: dict[str, list[bool]] = {}
    for row in rows:
        if row["benchmark"] == "usmle":
            steps.setdefault(row["subject"], []).append(row["correct"])
    assert told["scores"]["usmle"]["score"] == pytest.approx(sum(sum(step) / len(step) for step in steps.values()) / len(steps))
    seven = [score["score"] for name, score in told["scores"].items() if name != "never-taught"]
    assert told["average"] == pytest.approx(sum(seven) / 7)
    assert told["average_name"] == "average"


def test_three_forms_and_three_normalisations_of_one_definition(prepared, scored):
    ways = json.loads((scored / "scores.json").read_text())["scores"]["medqa"]["ways"]
    assert len(ways) == 9
    rows = [row for row in rows_of(scored) if row["benchmark"] == "medqa"]
    for row in rows:
        assert [form["form"] for form in row["forms"]] == ["letter_and_text", "text", "letter"]
    right = 0
    for row in rows:
        text, item = row["forms"][1], prepared.items[row["id"]]
        divided = [value / len(option.encode()) for value, option in zip(text["log_likelihoods"], item["options"], strict=True)]
        right += divided.index(max(divided)) == item["right"]
    assert ways["text/bytes"] == pytest.approx(right / len(rows))
    assert len({ways["letter/none"], ways["letter/tokens"], ways["letter/bytes"]}) == 1  # letters have one length


def test_the_form_and_normalisation_that_count_are_the_recipes(prepared, scored, tmp_path):
    ways = json.loads((scored / "scores.json").read_text())["scores"]["mmlu-pro"]["ways"]
    other = score(prepared, tmp_path / "text", "evaluation.answer=text", "evaluation.normalisation=tokens")
    assert other.measured["scores"]["mmlu-pro"] == pytest.approx(ways["text/tokens"])


def test_forms():
    assert answers(["x", "y"], True, "letter_and_text") == ["A. x", "B. y"]
    assert all_answers(["x", "y"], True, ["letter_and_text", "text", "letter"]) == ["A. x", "B. y", "x", "y", "A", "B"]
    assert all_answers(["yes", "no"], False, ["letter_and_text", "text", "letter"]) == ["yes", "no"]
    assert lengths(["é", "ab"], [3, 4], "bytes") == [2, 2] and lengths(["é", "ab"], [3, 4], "tokens") == [3, 4]
    assert preferred([-4.0, -6.0], [1, 1]) == 0 and preferred([-4.0, -6.0], [1, 3]) == 1 and preferred([-4.0, -4.0], [1, 1]) == 0


def test_without_one_of_the_seven_there_is_a_mean_and_it_says_of_how_many(prepared, tmp_path):
    recipe = load_recipe("tiny", SHORT)
    fewer = {name: benchmark for name, benchmark in recipe.model_dump(mode="json")["evaluation"]["benchmarks"].items() if name != "usmle"}
    from med42.evaluation.prepare_benchmarks import prepare_benchmarks

    changed = load_recipe("tiny", [*SHORT, f"evaluation.benchmarks={json.dumps(fewer)}"])
    prepare_benchmarks(changed, tmp_path / "benchmarks", Job("test", None))
    record = evaluate_model(changed, "base", prepared.model, tmp_path / "benchmarks", None, tmp_path / "out", Job("test", None))
    assert record.measured["average_name"] == "mean of 6"
    assert record.measured["summary"].startswith("mean of 6 ")


def test_the_page_has_what_people_look_for(scored):
    page = (scored / "page.html").read_text()
    for heading in ("From model to model", "By subject", "By type of question", "Calibration", "Wrong and most sure of it", "Protocol"):
        assert f"<h2>{heading}" in page
    assert "Which of these is" in page or "A patient takes" in page or "Regarding" in page  # the text of a wrong item
    assert "<script" not in page


def test_card_and_bundle_tell_the_pages_intervals(prepared, scored):
    """MMLU's is a bootstrap within subjects: Wilson's of all its questions together would be another."""
    from med42.lineage.scores import scores_of, wilson
    from med42.release.model_card import model_card

    record, written = read_record(scored), read_scores(scored)
    ancestry = {one.digest: one for one in (record, read_record(prepared.benchmarks))}
    told = {one.name: one for one in scores_of(record, ancestry)}
    for name, one in told.items():
        interval = written.score("base", name)
        assert (one.value, one.low, one.high, one.items) == (interval.value, interval.low, interval.high, 6)
    assert (told["mmlu"].low, told["mmlu"].high) != pytest.approx(wilson(told["mmlu"].value, 6))
    card, average = model_card(prepared.recipe, read_record(prepared.model), ancestry), written.score("base", "average")
    assert f"| mmlu | {told['mmlu'].value:.4f} | {told['mmlu'].low:.4f} to {told['mmlu'].high:.4f} | 6 |" in card
    assert f"| **average** | {average.value:.4f} | {average.low:.4f} to {average.high:.4f} |" in card
    [model] = yaml.safe_load(card.split("---")[1])["model-index"]
    [mmlu] = [result["metrics"][0]["args"] for result in model["results"] if result["dataset"]["name"] == "mmlu"]
    assert mmlu == {"items": 6, "low_95": round(told["mmlu"].low, 6), "high_95": round(told["mmlu"].high, 6)}
    assert f"{told['mmlu'].low * 100:.1f}, {told['mmlu'].high * 100:.1f}]" in (scored / "page.html").read_text()


# --- from model to model --------------------------------------------------------------------------


def test_scores_carry_every_question_of_the_models_before(prepared, scored, tmp_path):
    score(prepared, tmp_path / "sft", label="sft", earlier=scored)
    both = read_scores(tmp_path / "sft")
    assert both.labels == ["base", "sft"]
    assert both.items["sft"]["medqa"] == [{**row, "label": "sft"} for row in both.items["base"]["medqa"]]
    assert both.difference("sft", "base", "average").value == 0
    page = (tmp_path / "sft" / "page.html").read_text()
    assert "sft less base" in page


def test_earlier_scores_under_another_protocol_are_refused(prepared, scored, tmp_path, refusal):
    told = refusal(lambda: score(prepared, tmp_path / "out", "evaluation.answer=text", label="sft", earlier=scored))
    assert "scores under another protocol (answer letter_and_text); expected answer text" in told
    assert not (tmp_path / "out").exists()


def test_the_lock_names_rows_task_template_tokenizer_and_harness(prepared, tmp_path):
    recipe: Recipe = prepared.recipe
    items, record = list(prepared.items.values()), read_record(prepared.benchmarks)
    lock = protocol(recipe.evaluation, record, items, prepared.model)
    assert lock["benchmarks"]["usmle"]["task"] == "med42_usmle" and lock["benchmarks"]["usmle"]["rows"] == 6
    assert lock["few_shot"] == 0 and lock["harness"].startswith("lm-eval 0.4")
    other = shutil.copytree(prepared.model, tmp_path / "model")
    (other / "chat_template.jinja").write_text((other / "chat_template.jinja").read_text() + " ")
    assert protocol(recipe.evaluation, record, items, other)["chat_template"] != lock["chat_template"]
    changed = [{**items[0], "prompt": items[0]["prompt"] + "?"}, *items[1:]]
    name = items[0]["benchmark"]
    other_lock = protocol(recipe.evaluation, record, changed, prepared.model)
    assert other_lock["benchmarks"][name]["prompts"] != lock["benchmarks"][name]["prompts"]


# --- broken models --------------------------------------------------------------------------------


def test_a_log_likelihood_that_is_no_number_stops_the_stage(prepared, tmp_path, refusal):
    from safetensors.torch import load_file, save_file

    def build(draft: Path) -> Outcome:
        for path in prepared.model.iterdir():
            if path.is_file() and path.name not in ("record.json", "ancestry.json", "page.html"):
                shutil.copyfile(path, draft / path.name)
        weights = load_file(draft / "model.safetensors")
        weights["model.norm.weight"][0] = float("nan")
        save_file(weights, draft / "model.safetensors", {"format": "pt"})
        return Outcome()

    produce(Plan("train_sft", "model", {}, {}, "training"), tmp_path / "broken", Job("test", None), build)
    told = refusal(lambda: score(prepared, tmp_path / "out", model=tmp_path / "broken"))
    assert "log-likelihoods [nan" in told and "The model is broken" in told
    assert not (tmp_path / "out").exists()


# --- killed and gone on with ----------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from med42.evaluation.evaluate_model import evaluate_model
from med42.lineage.journal import Job
from med42.recipe import load_recipe

folder, out, store = map(Path, sys.argv[1:4])
recipe = load_recipe("tiny", sys.argv[4:])
evaluate_model(recipe, "base", folder / "model", folder / "benchmarks", None, out, Job("test", store))
"""


@pytest.mark.slow
def test_killed_in_the_middle_it_loses_one_batch_at_most_and_ends_with_the_same_digest(prepared, tmp_path):
    settings = [*SHORT, "evaluation.tokens=1"]  # one question at a time

    def start(out: str, store: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", PROGRAM, prepared.folder, tmp_path / out, tmp_path / store, *settings]
        return subprocess.Popen(list(map(str, command)), env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE)

    assert start("whole", "a").wait(120) == 0
    killed = start("out", "b")
    for _ in range(2400):
        kept = list((tmp_path / "b" / "evaluations").glob("*.jsonl")) if (tmp_path / "b" / "evaluations").is_dir() else []
        done = kept[0].read_bytes().count(b"\n") if kept else 0
        if done >= 5:
            break
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    assert not (tmp_path / "out").exists()
    [kept] = (tmp_path / "b" / "evaluations").glob("*.jsonl")
    before = kept.read_bytes().count(b"\n")
    assert 5 <= before < len(prepared.items)
    again = start("out", "b")
    assert again.wait(120) == 0
    record = read_record(tmp_path / "out")
    assert record.digest == read_record(tmp_path / "whole").digest
    assert record.made.observed["batches_from_before"] == before
    assert not list((tmp_path / "b" / "evaluations").iterdir())


@pytest.mark.slow
def test_two_processes_come_to_the_same_digest_as_one(prepared, tmp_path):
    """Two CPU processes under torchrun, as two GPUs would be."""
    settings = ["evaluation.tokens=400"]
    one = score(prepared, tmp_path / "one", *settings, job=Job("test", tmp_path / "a"))
    two = score(prepared, tmp_path / "two", *settings, "evaluation.processes=2", job=Job("test", tmp_path / "b"))
    assert two.digest == one.digest
    assert two.made.observed["tokens_read"] == 0  # the two had scored everything
    assert two.made.observed["batches_from_before"] > 4
    assert not list((tmp_path / "b" / "evaluations").iterdir())


@pytest.mark.slow
def test_a_failure_of_one_of_several_processes_is_told_as_it_was_there(prepared, tmp_path, refusal):
    other = shutil.copytree(prepared.model, tmp_path / "model")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "layer_types": ["sliding_attention"] * config["num_hidden_layers"]}))
    told = refusal(lambda: score(prepared, tmp_path / "out", "evaluation.processes=2", model=other))
    assert "attention by sdpa, sliding_attention" in told


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux's prctl")
def test_processes_end_with_the_stage_that_started_them(prepared, tmp_path):
    """Left behind, they would write into the next attempt's answers. Here they are halted first, so that they cannot end by themselves."""
    settings = [*SHORT, "evaluation.tokens=1", "evaluation.processes=2"]
    command = [sys.executable, "-c", PROGRAM, prepared.folder, tmp_path / "out", tmp_path / "store", *settings]
    stage = subprocess.Popen(list(map(str, command)), env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)

    def workers() -> list[int]:
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                words = (place / "cmdline").read_bytes()
            except OSError:
                continue
            if str(tmp_path).encode() in words and b"med42.evaluation.scoring" in words:
                found.append(int(place.name))
        return found

    until = time.monotonic() + 120
    while stage.poll() is None and not list((tmp_path / "store").glob("evaluations/*.jsonl")) and time.monotonic() < until:
        time.sleep(0.02)
    halted = workers()
    for process in halted:
        os.kill(process, signal.SIGSTOP)
    stage.send_signal(signal.SIGKILL)
    stage.wait(30)
    until = time.monotonic() + 20
    while workers() and time.monotonic() < until:
        time.sleep(0.05)
    left = workers()
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert (len(halted), left) == (3, [])  # torchrun and its two


# --- the task files -------------------------------------------------------------------------------


def test_there_is_a_task_file_for_every_family_and_the_definition_is_one():
    from med42.data.families import families

    names = families("med42.evaluation.benchmarks")
    assert {path.stem for path in TASKS.glob("med42_*.yaml")} == {f"med42_{name}" for name in names}
    for name in names:
        config = task_config(task_file(name))
        assert {"output_type", "doc_to_text", "doc_to_choice", "num_fewshot"} <= config.keys()
        assert {key: value for key, value in config.items() if key in ("doc_to_text", "doc_to_choice", "num_fewshot", "metadata")} == {
            key: value for key, value in task_config().items() if key in ("doc_to_text", "doc_to_choice", "num_fewshot", "metadata")}


def test_lm_evals_own_command_reads_the_task_files_and_says_the_same(prepared, scored, tmp_path):
    """By `--include_path`, from a file in the publisher's columns, with lm-eval's own model and its own metrics."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from med42.data.invented import rows as invented_rows

    assert set(TaskManager(include_path=str(TASKS), include_defaults=False).all_tasks) >= {"med42_medqa", "med42_pubmedqa"}
    rows = list(invented_rows("medqa", 0))
    (tmp_path / "medqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {**load_yaml(TASKS / "med42_medqa.yaml"), "dataset_path": "json",
              "dataset_kwargs": {"data_files": {"test": str(tmp_path / "medqa.jsonl")}, "cache_dir": str(tmp_path / "cache")}}
    model = AutoModelForCausalLM.from_pretrained(prepared.model, dtype=torch.float32)
    peer = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(prepared.model), batch_size=16, device="cpu")
    told = simple_evaluate(peer, tasks=[ConfigurableTask(config=config)], apply_chat_template=True, bootstrap_iters=0, log_samples=True,
                           task_manager=TaskManager(include_defaults=False))
    by_prompt = {sample["doc"]["prompt"]: sample for sample in told["samples"]["med42_medqa"]}
    for row in rows_of(scored):
        if row["benchmark"] == "medqa":
            sample, item = by_prompt[prepared.items[row["id"]]["prompt"]], prepared.items[row["id"]]
            assert sample["doc"]["right"] == item["right"]
            values = [float(response[0][0]) for response in sample["resps"]]
            assert values == pytest.approx([value for form in row["forms"] for value in form["log_likelihoods"]], abs=TOLERANCE)
            assert sample["letter_and_text_none"] == float(row["correct"])
    assert 0 <= told["results"]["med42_medqa"]["text_bytes,none"] <= 1


def test_lm_evals_own_tasks_by_key(prepared, tmp_path, refusal):
    """Read from a file in the publisher's columns by lm-eval's own model, they score the same."""
    import torch
    from lm_eval import simple_evaluate, tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from med42.data.invented import rows as invented_rows

    names = ["medmcqa", "medqa", "pubmedqa", "toxigen"]
    plain = score(prepared, tmp_path / "plain")
    record = score(prepared, tmp_path / "out", f"evaluation.stock={names}")
    told = json.loads((tmp_path / "out" / "scores.json").read_text())["stock"]
    assert record.measured["scores"] == plain.measured["scores"]
    assert {name: found["task"] for name, found in told.items()} == {
        "medmcqa": "medmcqa", "medqa": "medqa_4options", "pubmedqa": "pubmedqa", "toxigen": "toxigen"}
    assert "lm-eval's own tasks" in (tmp_path / "out" / "page.html").read_text().replace("&#39;", "'")
    asked = {item["question"] for item in prepared.items.values() if item["benchmark"] == "medqa"}
    rows = [row for row in invented_rows("medqa", 0) if row["sent1"].strip() in asked]
    (tmp_path / "medqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {**load_yaml(Path(tasks.__file__).parent / "medqa" / "medqa.yaml"), "dataset_path": "json", "training_split": None,
              "validation_split": None,
              "dataset_kwargs": {"data_files": {"test": str(tmp_path / "medqa.jsonl")}, "cache_dir": str(tmp_path / "cache")}}
    model = AutoModelForCausalLM.from_pretrained(prepared.model, dtype=torch.float32)
    peer = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(prepared.model), batch_size=8, device="cpu")
    expected = simple_evaluate(peer, tasks=[ConfigurableTask(config=config)], bootstrap_iters=0,
                               task_manager=TaskManager(include_defaults=False))["results"]["medqa_4options"]
    assert len(rows) == 6
    assert (told["medqa"]["acc"], told["medqa"]["acc_norm"]) == (expected["acc,none"], expected["acc_norm,none"])
    assert "stock: 'usmle' is not one of mmlu, medmcqa, medqa" in refusal(lambda: load_recipe("tiny", ["evaluation.stock=[usmle]"]))


def mmlu_of(folder: Path, subjects: list[str]) -> tuple[Recipe, Job]:
    """A recipe whose one benchmark is MMLU with some subjects' names."""
    from med42.data.invented import rows as invented_rows

    rows = [{**row, "subject": subjects[place % len(subjects)]} for place, row in enumerate(invented_rows("mmlu", 0))]
    (folder / "mmlu.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mmlu = {"mmlu": {"family": "mmlu", "origin": {"kind": "file", "files": ["mmlu.jsonl"]}, "license": "MIT"}}
    return (load_recipe("tiny", [f"evaluation.benchmarks={json.dumps(mmlu)}", "gates=[]", "evaluation.stock=[mmlu]",
                                 "evaluation.threads=1", "evaluation.forms=[letter_and_text]"]), Job("test", None, folder))


def test_mmlu_as_lm_eval_asks_it_is_the_mean_of_its_own_subjects_tasks(prepared, tmp_path, refusal):
    import torch
    from lm_eval import simple_evaluate, tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from med42.evaluation.prepare_benchmarks import prepare_benchmarks

    subjects = ["anatomy", "clinical_knowledge", "college_biology", "college_medicine", "medical_genetics", "professional_medicine"]
    recipe, job = mmlu_of(tmp_path, subjects)
    prepare_benchmarks(recipe, tmp_path / "benchmarks", job)
    evaluate_model(recipe, "base", prepared.model, tmp_path / "benchmarks", None, tmp_path / "out", job)
    told = json.loads((tmp_path / "out" / "scores.json").read_text())["stock"]["mmlu"]
    model = AutoModelForCausalLM.from_pretrained(prepared.model, dtype=torch.float32)
    peer = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(prepared.model), batch_size=8, device="cpu")
    rows, found = [json.loads(line) for line in (tmp_path / "mmlu.jsonl").read_text().splitlines()], []
    for subject in subjects:
        file = tmp_path / f"{subject}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows if row["subject"] == subject))
        config = {**load_yaml(Path(tasks.__file__).parent / f"mmlu/default/mmlu_{subject}.yaml"), "dataset_path": "json",
                  "dataset_name": None, "fewshot_split": None,
                  "dataset_kwargs": {"data_files": {"test": str(file)}, "cache_dir": str(tmp_path / "cache")}}
        result = simple_evaluate(peer, tasks=[ConfigurableTask(config=config)], bootstrap_iters=0,
                                 task_manager=TaskManager(include_defaults=False))["results"][f"mmlu_{subject}"]
        found.append(result["acc,none"])
    assert len(set(found)) > 1
    assert told == {"task": "mmlu, 6 subjects", "version": 1.0, "acc": pytest.approx(sum(found) / 6)}
    recipe, job = mmlu_of(tmp_path, ["anatomy", "phrenology"])
    prepare_benchmarks(recipe, tmp_path / "others", job)
    refused = refusal(lambda: evaluate_model(recipe, "base", prepared.model, tmp_path / "others", None, tmp_path / "none", job))
    assert "evaluation.stock: mmlu: found questions on 'phrenology'" in refused


@pytest.mark.parametrize(("written", "read"), [
    ("First, A. The answer is B. But no.\nThe answer is C.", "C"), ("the answer is (D)", "D"), ("The answer is A", "A"),
    ("The answer is Aspirin.", "none"), ("I would say B.", "none"), ("", "none"),
])
def test_the_last_answer_of_a_text_is_read(written, read):
    from lm_eval.filters.extraction import RegexFilter

    [step, _] = task_config(TASKS / "chain_of_thought.yaml")["filter_list"][0]["filter"]
    assert step.pop("function") == "regex"
    assert RegexFilter(**step).apply([[written]], []) == [[read]]


def test_answers_in_writing_by_key(prepared, tmp_path, refusal, monkeypatch):
    """A model with random weights writes no answer; texts that hold one are marked."""
    from lm_eval.models.huggingface import HFLM

    settings = ("evaluation.generative=[medqa, medmcqa]", "evaluation.generative_tokens=6")
    score(prepared, tmp_path / "real", *settings)
    told = json.loads((tmp_path / "real" / "scores.json").read_text())["generative"]
    assert told == {name: {"version": 1.0, "right": 0.0, "no_answer": 1.0} for name in ("medqa", "medmcqa")}
    asked: list[str] = []

    def writes_a(self, requests, disable_tqdm=False):
        asked.extend(request.args[0] for request in requests)
        return ["It is this. The answer is A." for _ in requests]

    monkeypatch.setattr(HFLM, "generate_until", writes_a)
    score(prepared, tmp_path / "a", *settings)
    told = json.loads((tmp_path / "a" / "scores.json").read_text())["generative"]
    first = [item["right"] == 0 for item in prepared.items.values() if item["benchmark"] == "medqa"]
    assert told["medqa"] == {"version": 1.0, "right": pytest.approx(sum(first) / len(first)), "no_answer": 0.0}
    assert len(asked) == 12
    assert all("Think step by step" in prompt and prompt.endswith("assistant<|end_header_id|>\n\n") for prompt in asked)
    assert "answered in writing" in (tmp_path / "a" / "page.html").read_text()
    assert "generative: 'usmle' is not one of" in refusal(lambda: load_recipe("tiny", ["evaluation.generative=[usmle]"]))


def test_what_was_written_before_a_kill_is_not_written_again(prepared, tmp_path, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    settings = ("evaluation.generative=[medqa, medmcqa]", "evaluation.generative_tokens=6")
    score(prepared, tmp_path / "whole", *settings)
    write, job, asked = HFLM.generate_until, Job("test", tmp_path / "store"), list[int]()

    def ends_at(number: int) -> Any:
        def writes(self, requests, disable_tqdm=False):
            if len(asked) == number:
                raise KeyboardInterrupt
            asked.append(len(requests))
            return write(self, requests, disable_tqdm)
        return writes

    monkeypatch.setattr(HFLM, "generate_until", ends_at(1))
    with pytest.raises(KeyboardInterrupt):
        score(prepared, tmp_path / "out", *settings, job=job)
    monkeypatch.setattr(HFLM, "generate_until", ends_at(99))
    score(prepared, tmp_path / "out", *settings, job=job)
    assert asked == [8, 4]  # of twelve questions, eight at once
    assert (tmp_path / "out" / "scores.json").read_bytes() == (tmp_path / "whole" / "scores.json").read_bytes()


def test_metrics_of_lm_evals_command():
    doc = {"options": ["a", "bbbb"], "lettered": True, "right": 1, "answers": ["A. a", "B. bbbb", "a", "bbbb", "A", "B"]}
    told = metrics(doc, [(-1.0, True), (-2.0, False), (-3.0, False), (-4.0, False), (-2.0, False), (-1.0, True)])
    assert told == {"letter_and_text_none": 0, "letter_and_text_bytes": 0, "text_none": 0, "text_bytes": 1, "letter_none": 1,
                    "letter_bytes": 1}
