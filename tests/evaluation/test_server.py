"""A model behind a server of completions, through lm-eval's own API model: the same scores, and no answer taken on trust."""

import json
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
from completions_server import CompletionsServer

from med42.data.shards import read_shards
from med42.evaluation.evaluate_model import evaluate_model
from med42.evaluation.prepare_benchmarks import prepare_benchmarks
from med42.evaluation.scores import read_scores
from med42.lineage.artifact import Outcome, Plan, produce
from med42.lineage.journal import Job
from med42.lineage.record import read_record
from med42.recipe import load_recipe
from med42.recipe.schema import ServerScorer

TOLERANCE = 5e-4  # of a sum of log-probabilities in fp32, as in process
SHORT = ["evaluation.limit=3", "evaluation.threads=1"]


@pytest.fixture(scope="module")
def prepared(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model with random weights, and three questions of each of tiny's benchmarks."""
    from med42.training.prepare_base import prepare_base

    folder, recipe, job = tmp_path_factory.mktemp("prepared"), load_recipe("tiny", SHORT), Job("test", None)
    prepare_base(recipe, tiny.mix, folder / "model", job)
    prepare_benchmarks(recipe, folder / "benchmarks", job)
    return SimpleNamespace(folder=folder, model=folder / "model", benchmarks=folder / "benchmarks",
                           items=list(read_shards(folder / "benchmarks")))


@pytest.fixture(scope="module")
def in_process(prepared: SimpleNamespace) -> Path:
    evaluate_model(load_recipe("tiny", SHORT), "base", prepared.model, prepared.benchmarks, None, prepared.folder / "scores",
                   Job("test", None))
    return prepared.folder / "scores"


@pytest.fixture(scope="module")
def held(prepared: SimpleNamespace) -> Any:
    """A server that holds the model, under two names, and behaves well."""
    server = CompletionsServer(weights=prepared.model, models=("clinical-base", "clinical-sft"))
    yield server
    server.close()


@pytest.fixture
def server(held: CompletionsServer) -> Any:
    held.asked.clear()
    yield held
    held.behaviour, held.reads = [], None


def key(server: CompletionsServer, **changes: Any) -> str:
    return "evaluation.server=" + json.dumps({"url": server.url, "model": "clinical-{label}", "wait": 0.01, "timeout": 20, **changes})


def score(prepared: SimpleNamespace, out: Path, *overrides: str, label: str = "base", earlier: Path | None = None,
          job: Job | None = None, model: Path | None = None) -> Any:
    return evaluate_model(load_recipe("tiny", [*SHORT, *overrides]), label, model or prepared.model, prepared.benchmarks, earlier, out,
                          job or Job("test", None))


def likelihoods(folder: Path) -> list[float]:
    return [value for row in pyarrow.parquet.read_table(folder / "items.parquet").to_pylist() for form in row["forms"]
            for value in form["log_likelihoods"]]


def test_every_log_likelihood_is_the_one_of_the_weights(prepared, in_process, server, tmp_path):
    record = score(prepared, tmp_path / "out", key(server, at_once=7))
    ours, theirs = likelihoods(tmp_path / "out"), likelihoods(in_process)
    assert len(ours) > 200
    assert 0 < max(abs(one - other) for one, other in zip(ours, theirs, strict=True)) < TOLERANCE
    assert record.measured["scores"] == read_record(in_process).measured["scores"]
    told = record.measured["server"]
    assert (told["url"], told["model"], told["checked"]) == (server.url, "clinical-base", 2)
    assert 0 < told["apart"] < told["largest"] < TOLERANCE
    bodies = [asked for path, asked in server.asked if path == "/v1/completions"]
    assert all(asked["model"] == "clinical-base" and asked["echo"] and asked["logprobs"] == 1 for asked in bodies)
    assert all(isinstance(token, int) for asked in bodies for prompt in asked["prompt"] for token in prompt)
    assert max(len(asked["prompt"]) for asked in bodies) == 7
    assert record.made.observed["tokens_read"] == sum(len(prompt) for asked in bodies for prompt in asked["prompt"]) - sum(
        len(prompt) for asked in bodies[: checked_requests(prepared, 7)] for prompt in asked["prompt"])
    page = (tmp_path / "out" / "page.html").read_text()
    assert server.url in page and "On 2 questions the model" in page


def checked_requests(prepared: SimpleNamespace, at_once: int) -> int:
    """Requests for the two questions that are checked: the first, and the one in the middle."""
    chosen = [prepared.items[0], prepared.items[len(prepared.items) // 2]]
    answers = sum(len(item["options"]) * (3 if item["lettered"] else 1) for item in chosen)
    return -(-answers // at_once)


def test_the_lock_tells_it_from_scores_made_in_process(prepared, in_process, server, tmp_path, refusal):
    score(prepared, tmp_path / "base", key(server))
    assert read_scores(tmp_path / "base").lock["scored_by"].startswith("a server")
    told = refusal(lambda: score(prepared, tmp_path / "sft", key(server), label="sft", earlier=in_process))
    assert "another protocol (scored_by nothing); expected scored_by a server" in told
    score(prepared, tmp_path / "sft", key(server), label="sft", earlier=tmp_path / "base")
    assert read_record(tmp_path / "sft").measured["server"]["model"] == "clinical-sft"
    assert [entry["label"] for entry in read_record(tmp_path / "sft").measured["history"]] == ["base", "sft"]


def test_a_finished_artifact_of_the_one_is_not_taken_for_the_other(prepared, server, tmp_path):
    job = Job("test", tmp_path / "store")
    plain, served = score(prepared, tmp_path / "plain", job=job), score(prepared, tmp_path / "served", key(server), job=job)
    assert plain.digest != served.digest and "server" not in plain.measured
    assert plain.parameters["evaluation"]["server"] is None
    assert served.parameters["evaluation"]["server"] == {"model": "clinical-{label}", "checked": 2, "tolerance": 0.05}
    asked = len(server.asked)
    again = score(prepared, tmp_path / "again", key(server, attempts=3, at_once=4), job=job)  # how it is asked changes no score
    assert again.digest == served.digest and len(server.asked) == asked


def other_weights(prepared: SimpleNamespace, folder: Path, change: float) -> Path:
    """The same model with every weight of its last norm changed a little."""
    from safetensors.torch import load_file, save_file

    def build(draft: Path) -> Outcome:
        for path in prepared.model.iterdir():
            if path.is_file() and path.name not in ("record.json", "ancestry.json", "page.html"):
                shutil.copyfile(path, draft / path.name)
        weights = load_file(draft / "model.safetensors")
        weights["model.norm.weight"] *= 1 + change
        save_file(weights, draft / "model.safetensors", {"format": "pt"})
        return Outcome()

    produce(Plan("train_sft", "model", {}, {}, "training"), folder, Job("test", None), build)
    return folder


def test_a_server_that_holds_other_weights_is_refused(prepared, server, tmp_path, refusal):
    other = other_weights(prepared, tmp_path / "other", 0.2)
    told = refusal(lambda: score(prepared, tmp_path / "out", key(server, tolerance=0.001), model=other))
    assert f"model 'clinical-base' of {server.url}" in told and "nats a token from those of the model's own weights" in told
    assert "at most 0.001" in told and "serve this very model" in told
    assert not (tmp_path / "out").exists()


def test_unchecked_it_is_taken_at_its_word_and_the_page_says_so(prepared, server, tmp_path):
    other = other_weights(prepared, tmp_path / "other", 0.2)
    record = score(prepared, tmp_path / "out", key(server, checked=0), model=other)
    assert record.measured["server"] == {"url": server.url, "model": "clinical-base", "checked": 0}
    assert "was not checked" in (tmp_path / "out" / "page.html").read_text()


def test_a_server_without_the_model(prepared, server, tmp_path, refusal):
    told = refusal(lambda: score(prepared, tmp_path / "out", key(server), label="dpo-1"))
    assert "found models clinical-base, clinical-sft; expected 'clinical-dpo-1' among them" in told


def test_a_server_that_is_away(prepared, tmp_path, refusal):
    gone = CompletionsServer()
    gone.close()
    told = refusal(lambda: score(prepared, tmp_path / "out", key(gone, attempts=2)))
    assert "/v1/models: found no good answer in 2 attempts" in told and "Connection refused" in told


def test_trouble_that_passes_changes_no_score(prepared, in_process, server, tmp_path):
    server.behaviour = ["well", "429", "503", "closes", "well", "junk", "few", "bare", "well", "short", "null", "nan"]
    score(prepared, tmp_path / "out", key(server))
    apart = [abs(one - other) for one, other in zip(likelihoods(tmp_path / "out"), likelihoods(in_process), strict=True)]
    assert max(apart) < TOLERANCE
    assert not server.behaviour


@pytest.mark.parametrize(("mood", "words"), [
    ("429", "HTTP 429"), ("503", "HTTP 503"), ("junk", "JSONDecodeError"), ("few", "31 choices, for 32"),
    ("bare", "a choice without log-probabilities: the server must echo the prompt"), ("short", "log-probabilities for a prompt of"),
    ("null", "no finite number"), ("nan", "no finite number"),
])
def test_trouble_that_stays_is_told(mood, words, prepared, server, tmp_path, refusal):
    server.behaviour = [mood] * 2
    told = refusal(lambda: score(prepared, tmp_path / "out", key(server, attempts=2, checked=0)))
    assert "/completions: found no good answer in 2 attempts" in told and words in told
    assert "raise timeout or attempts in evaluation.server" in told
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", ["400", "401", "404"])
def test_a_refusal_is_not_tried_again(status, prepared, server, tmp_path, refusal):
    server.behaviour = [status]
    told = refusal(lambda: score(prepared, tmp_path / "out", key(server, checked=0)))
    assert f"HTTP {status}" in told and "Check evaluation.server" in told
    assert len(server.asked) == 1


def test_a_server_that_reads_less_than_a_question_has(prepared, server, tmp_path, refusal):
    server.reads = 40
    told = refusal(lambda: score(prepared, tmp_path / "out", key(server, checked=0)))
    assert "a server that reads 40 tokens" in told and "--max-model-len" in told


def test_other_protocols_by_a_server(prepared, server, tmp_path):
    settings = ("evaluation.stock=[pubmedqa, medqa]", "evaluation.generative=[medqa]", "evaluation.generative_tokens=4")
    score(prepared, tmp_path / "plain", *settings)
    score(prepared, tmp_path / "served", key(server), *settings)
    plain, served = (json.loads((tmp_path / name / "scores.json").read_text()) for name in ("plain", "served"))
    assert served["stock"] == plain["stock"] and served["generative"] == plain["generative"]


def test_texts_become_the_tokens_that_lm_evals_hf_model_makes(prepared, server, tmp_path):
    """Of a tokenizer that begins every text with its first control token, as Llama's does; what begins with it gets no second one."""
    from lm_eval.models.huggingface import HFLM
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from med42.data.chat import BEGIN
    from med42.evaluation.server import ServerLM

    folder = shutil.copytree(prepared.model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    first = tokenizer.convert_tokens_to_ids(BEGIN)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, first)])
    tokenizer.save_pretrained(folder)
    ours = ServerLM(ServerScorer(url=server.url, model="clinical-{label}"), "base", folder, 512)
    peer = HFLM(pretrained=AutoModelForCausalLM.from_pretrained(folder), tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu")
    texts = ["Which drug is it?\nAnswer:", f"{BEGIN}Which drug is it?"]
    for text in texts:
        assert ours.tok_encode(text) == peer.tok_encode(text)
        assert ours.tok_encode(text).count(first) == 1
    assert ours.tok_encode(tuple(texts)) == [peer.tok_encode(text) for text in texts]


PROGRAM = """
import sys
from pathlib import Path
from med42.evaluation.evaluate_model import evaluate_model
from med42.lineage.journal import Job
from med42.recipe import load_recipe

folder, out, store = map(Path, sys.argv[1:4])
evaluate_model(load_recipe("tiny", sys.argv[4:]), "base", folder / "model", folder / "benchmarks", None, out, Job("test", store))
"""


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_behind_its_last_batch(prepared, in_process, server, tmp_path):
    settings = [*SHORT, "evaluation.tokens=1", key(server, checked=0)]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(list(map(str, [sys.executable, "-c", PROGRAM, prepared.folder, tmp_path / "out", tmp_path / "store",
                                               *settings])), env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)

    killed = start()
    while killed.poll() is None and len(server.asked) < 6:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    [kept] = (tmp_path / "store" / "evaluations").glob("*.jsonl")
    before = kept.read_bytes().count(b"\n")
    assert 4 <= before < len(prepared.items)
    assert start().wait(120) == 0
    assert read_record(tmp_path / "out").made.observed["batches_from_before"] == before
    assert max(abs(one - other) for one, other in zip(likelihoods(tmp_path / "out"), likelihoods(in_process), strict=True)) < TOLERANCE


@pytest.mark.parametrize(("settings", "words"), [
    (["evaluation.server={url: 'http://someone:secret@host:8000/v1', model: m}"], "should match pattern"),
    (["evaluation.server={url: 'ftp://host/v1', model: m}"], "should match pattern"),
    (["evaluation.server={url: 'http://host:8000/v1', model: m}", "evaluation.processes=2"], "the server has the model and the GPUs"),
    (["evaluation.server={url: 'http://host:8000/v1', model: m}", "evaluation.devices.gpus_per_node=1"], "set processes=1 and devices"),
])
def test_a_server_in_a_recipe(settings, words, refusal):
    assert words in refusal(lambda: load_recipe("tiny", settings))
