"""Answers of the model itself: sampled, scored and paired; resumed where they stopped; a server that misbehaves."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from completions_server import CompletionsServer
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from med42.data.answers import ANSWERS, SCORED, read_answers, write_answers
from med42.data.shards import read_shards
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce
from med42.lineage.items import DoneItems
from med42.lineage.journal import Job, write_job
from med42.preferences.pair import Pair
from med42.preferences.pair_answers import best_and_worst, pair_answers
from med42.recipe import load_recipe
from med42.recipe.schema import OnPolicy
from med42.training.completions import complete
from med42.training.sample_answers import sample_answers
from med42.training.score_answers import overlap, score_answers
from med42.training.train_dpo import train_dpo


def recipe_of(reward=None, sampler=None, **changes):
    settings = {"answers": 3, "max_tokens": 8, "sampler": sampler or {"kind": "transformers", "batch": 16},
                "reward": reward or {"kind": "overlap"}, **changes}
    return load_recipe("tiny", [f"dpo.on_policy={json.dumps(settings)}", "dpo.threads=1", "dpo.samples=0", "dpo.steps=2"])


def server_settings(server, **changes):
    return {"kind": "server", "url": server.url, "model": "round-{round}", "wait": 0.01, "timeout": 0.5, "concurrency": 2, **changes}


@pytest.fixture
def serve():
    servers = []

    def start(*behaviour, **given):
        servers.append(CompletionsServer(behaviour, **given))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


# --- in process -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampled(tiny, tmp_path_factory, job):
    out = tmp_path_factory.mktemp("sampled") / "answers"
    return out, sample_answers(recipe_of(), 1, tiny["base"], tiny["preferences"], out, job)


def test_every_prompt_is_answered_once_for_each_answer(sampled, tiny):
    out, record = sampled
    rows = read_answers(out / ANSWERS)
    published = list(read_shards(tiny["preferences"]))
    assert {json.dumps(row["prompt"]) for row in rows} == {json.dumps(pair["prompt"]) for pair in published}
    assert len(rows) == len({json.dumps(pair["prompt"]) for pair in published}) == record.measured["prompts"]
    assert all(len(row["answers"]) == 3 for row in rows)
    assert record.measured["answers"] == 3 * len(rows)
    assert "asked" in (out / "page.html").read_text()


def test_what_is_drawn_is_decided_by_the_seed(sampled, tiny, tmp_path, job):
    again = sample_answers(recipe_of(), 1, tiny["base"], tiny["preferences"], tmp_path / "again", job)
    assert again.digest == sampled[1].digest
    other = recipe_of().model_copy(update={"seed": 1})
    assert sample_answers(other, 1, tiny["base"], tiny["preferences"], tmp_path / "other", job).digest != sampled[1].digest


def test_a_killed_sampling_goes_on_after_its_last_batch_to_the_same_answers(sampled, tiny, tmp_path):
    script = ("import sys; from pathlib import Path; from med42.lineage.journal import read_job;"
              "from med42.training.sample_answers import sample_answers; recipe, job = read_job(sys.argv[1]);"
              "sample_answers(recipe, 1, *map(Path, sys.argv[2:]), job)")

    def start():
        write_job(tmp_path / "job.json", recipe_of(), Job("killed", tmp_path / "store"))
        return subprocess.Popen([sys.executable, "-c", script, tmp_path / "job.json", tiny["base"], tiny["preferences"], tmp_path / "out"],
                                stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})

    running = start()
    def written():
        return [path for path in (tmp_path / "store/unfinished").glob("*.jsonl") if path.stat().st_size]

    while not (kept := written()) and running.poll() is None:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.wait()
    if kept:
        with kept[0].open("ab") as handle:
            handle.write(b'{"id": "torn')
    assert start().wait() == 0
    assert (tmp_path / "out" / ANSWERS).read_bytes() == (sampled[0] / ANSWERS).read_bytes()
    observed = json.loads((tmp_path / "out/record.json").read_text())["made"]["observed"]
    assert observed["resumed_after"] % 16 == 0 and (observed["resumed_after"] > 0) == bool(kept)
    assert not list((tmp_path / "store/unfinished").iterdir())


# --- a server -------------------------------------------------------------------------------------


def ask(server, **changes):
    settings = OnPolicy.model_validate({"answers": 3, "max_tokens": 8, "reward": {"kind": "overlap"},
                                        "sampler": server_settings(server, **changes)})
    return complete(settings.sampler, settings, 2, [5, 6, 7], seed=11)


def test_a_server_is_asked_for_what_the_recipe_says(serve):
    server = serve()
    assert ask(server) == [f"answer {number} to 3 tokens" for number in range(3)]
    assert server.asked == [("/v1/completions", {"model": "round-2", "prompt": [5, 6, 7], "n": 3, "max_tokens": 8, "temperature": 1.0,
                                                 "top_p": 1.0, "seed": 11})]


@pytest.mark.parametrize("mood", ["slow", "429", "500", "closes", "few", "junk"])
def test_a_server_that_recovers_is_asked_again(mood, serve):
    server = serve(mood, mood)
    assert len(ask(server)) == 3
    assert len(server.asked) == 3


@pytest.mark.parametrize(("mood", "words"), [
    ("slow", "timed out"), ("429", "HTTP 429: .*told to answer 429"), ("500", "HTTP 500"), ("closes", "IncompleteRead"),
    ("few", "2 choices, for 3"), ("junk", "JSONDecodeError"),
])
def test_a_server_that_does_not_recover_is_an_error_that_says_what_it_did(mood, words, serve):
    server = serve(*[mood] * 3)
    with pytest.raises(Med42Error, match=rf"completions: found no good answer in 3 attempts, the last: .*{words}"):
        ask(server, attempts=3)
    assert len(server.asked) == 3


def test_what_cannot_get_better_is_not_tried_again(serve):
    server = serve("404")
    with pytest.raises(Med42Error, match=r"HTTP 404.*Check dpo\.on_policy\.sampler"):
        ask(server)
    assert len(server.asked) == 1


def test_nobody_there(serve):
    server = serve()
    server.close()
    with pytest.raises(Med42Error, match=r"in 2 attempts, the last: URLError"):
        ask(server, attempts=2)


def test_a_round_from_a_server_keeps_what_was_answered_before_it_failed(serve, tiny, tmp_path):
    job = Job("server", tmp_path / "store")
    broken = serve(*["well"] * 20, *["500"] * 999)
    with pytest.raises(Med42Error, match="HTTP 500"):
        sample_answers(recipe_of(sampler=server_settings(broken, attempts=2)), 1, tiny["base"], tiny["preferences"], tmp_path / "out", job)
    assert not (tmp_path / "out").exists()
    mended = serve()  # at another address, which is no part of what the answers are
    record = sample_answers(recipe_of(sampler=server_settings(mended)), 1, tiny["base"], tiny["preferences"], tmp_path / "out", job)
    kept = record.made.observed["resumed_after"]
    assert 18 <= kept <= 20
    assert len(mended.asked) == record.measured["prompts"] - kept
    assert mended.asked[0][1]["model"] == "round-1"


# --- rewards --------------------------------------------------------------------------------------


def answers_artifact(rows, folder, job):
    def build(draft):
        write_answers(draft / ANSWERS, rows)
        return Outcome()

    produce(Plan("sample_answers", "answers", {}, {}, "training", (), name="sample_answers-1"), folder, job, build)
    return folder


ROWS = [{"id": str(number) * 64, "prompt": [{"role": "user", "content": f"May I take {number}?"}], "chosen": "No, ask your doctor.",
         "rejected": "Yes.", "answers": ["No, ask.", "Yes.", "", "No, ask your doctor."]} for number in range(3)]


def reward_folder(tiny, folder, labels=1, change=lambda model: None):
    tokenizer = AutoTokenizer.from_pretrained(tiny["base"])
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32,
        num_labels=labels, pad_token_id=tokenizer.pad_token_id, initializer_range=0.5))
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"kind": "model", "folder": folder.name, "dtype": "float32"}


def test_overlap_prefers_what_is_like_the_chosen_answer():
    first, second, empty, best = overlap(ROWS[0])
    assert best > first > empty > second
    assert (best, empty) == (1.0, 0.0)


def test_a_reward_model_scores_each_answer_as_it_would_alone(tiny, tmp_path, job):
    reward = reward_folder(tiny, tmp_path / "reward")
    here = Job("test", None, tmp_path)
    alone = [{**row, "answers": [answer], "id": f"{number}{place}" * 32} for number, row in enumerate(ROWS)
             for place, answer in enumerate(row["answers"])]
    for name, rows in (("together", ROWS), ("alone", alone)):
        answers_artifact(rows, tmp_path / name, job)
        score_answers(recipe_of(reward), 1, tmp_path / name, tmp_path / f"{name}-scored", here)
    together = [score for row in read_answers(tmp_path / "together-scored" / SCORED) for score in row["scores"]]
    assert together == pytest.approx([row["scores"][0] for row in read_answers(tmp_path / "alone-scored" / SCORED)], abs=1e-5)
    assert len(set(together)) > 4


@pytest.mark.parametrize(("labels", "change", "words"), [
    (1, lambda model: model.score.weight.fill_(float("nan")), r"prompt 000000000000: found scores \[nan.*expected 4 finite numbers"),
    (3, lambda model: None, "found 3 outputs, a chat template; expected a classifier with one output"),
])
def test_a_reward_model_that_gives_no_reward_is_named(labels, change, words, tiny, tmp_path, job):
    reward = reward_folder(tiny, tmp_path / "reward", labels, change)
    answers_artifact(ROWS, tmp_path / "answers", job)
    with pytest.raises(Med42Error, match=words):
        score_answers(recipe_of(reward), 1, tmp_path / "answers", tmp_path / "out", Job("test", None, tmp_path))
    assert not (tmp_path / "out").exists()


def test_no_reward_model_there(tmp_path, job):
    answers_artifact(ROWS, tmp_path / "answers", job)
    with pytest.raises(Med42Error, match=r"dpo\.on_policy\.reward\.folder: found no \*\.safetensors"):
        score_answers(recipe_of({"kind": "model", "folder": "none"}), 1, tmp_path / "answers", tmp_path / "out", job)


def test_a_scoring_that_stopped_goes_on(tmp_path, monkeypatch, job):
    import med42.training.score_answers as stage

    answers_artifact(ROWS, tmp_path / "answers", job)
    here, calls = Job("test", tmp_path / "store"), itertools.count()

    def dies_at_the_second(row):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return overlap(row)

    monkeypatch.setattr(stage, "overlap", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        score_answers(recipe_of(), 1, tmp_path / "answers", tmp_path / "out", here)
    record = score_answers(recipe_of(), 1, tmp_path / "answers", tmp_path / "out", here)
    assert record.made.observed["resumed_after"] == 1
    assert [row["scores"] for row in read_answers(tmp_path / "out" / SCORED)] == [overlap(row) for row in ROWS]


def test_done_items_of_another_plan_are_not_taken(tmp_path, job):
    answers_artifact(ROWS, tmp_path / "answers", job)
    here = Job("test", tmp_path / "store")

    def plan(reward):
        return Plan("score_answers", "answers", {"reward": reward}, {"answers": tmp_path / "answers"}, "training", name="score_answers-1")

    DoneItems(plan("one"), here).add([{"id": "a"}, {"id": "b"}])
    assert list(DoneItems(plan("one"), here).found) == ["a", "b"]
    assert DoneItems(plan("other"), here).found == {}


# --- pairs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answers", "scores", "least", "found"), [
    (["a", "b", "c"], [0.1, 0.9, 0.5], 0.0, ("b", "a", 0.8)), (["a", "b", "c"], [0.5, 0.5, 0.5], 0.0, "best and worst are a tie"),
    (["a", "b"], [0.5, 0.6], 0.2, "best and worst are a tie"), (["a", " a", "a "], [0.1, 0.2, 0.3], 0.0, "all answers are equal"),
    (["a", "a", "b"], [0.9, 0.1, 0.5], 0.0, "equal answers"), (["a", ""], [0.9, 0.1], 0.0, "empty answer"),
])
def test_best_against_worst(answers, scores, least, found):
    made = best_and_worst({"prompt": [{"role": "user", "content": "May I?"}], "answers": answers, "scores": scores}, least)
    if isinstance(found, str):
        assert made.reason == found
    else:
        assert isinstance(made, Pair) and (made.chosen, made.rejected, made.margin) == pytest.approx(found)


def test_a_round_on_its_own_answers(sampled, tiny, tmp_path, job):
    recipe = recipe_of()
    scored = score_answers(recipe, 1, sampled[0], tmp_path / "scored", job)
    made = pair_answers(recipe, 1, tmp_path / "scored", tiny["preferences"], tiny["base"], tiny["benchmarks"], tmp_path / "pairs", job)
    account = made.measured["accounts"]["on-policy"]
    assert account["read"] == scored.measured["prompts"] == account["kept"] + sum(account["dropped"].values())
    rows = {json.dumps(row["prompt"]): row for row in read_answers(tmp_path / "scored" / SCORED)}
    for pair in read_shards(tmp_path / "pairs"):
        row = rows[json.dumps(pair["prompt"])]
        scores = dict(zip([answer.strip() for answer in row["answers"]], row["scores"], strict=True))
        assert scores[pair["chosen"]] == max(row["scores"]) > scores[pair["rejected"]] == min(row["scores"])
    assert list(read_shards(tmp_path / "pairs" / "held_out")) == list(read_shards(tiny["preferences"] / "held_out"))
    trained = train_dpo(recipe, 1, tiny["base"], tmp_path / "pairs", tmp_path / "model", job)
    assert trained.name == "train_dpo-1" and trained.measured["pairs"] == account["kept"]


def test_a_round_whose_pairs_were_all_dropped_is_an_error(sampled, tiny, tmp_path, job, refusal):
    recipe = recipe_of(least_margin=99)
    score_answers(recipe, 1, sampled[0], tmp_path / "scored", job)
    told = refusal(lambda: pair_answers(recipe, 1, tmp_path / "scored", tiny["preferences"], tiny["base"], tiny["benchmarks"],
                                        tmp_path / "pairs", job))
    assert "no pair left" in told and "best and worst are a tie" in told
    assert not (tmp_path / "pairs").exists()
