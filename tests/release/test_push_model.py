"""Publishing to folders and to a hub of our own, and reading data and models from that hub."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_server import Hub, hub_server, use_hub
from signing import make_key

from med42.data.chat import BEGIN, END, SPECIAL_TOKENS, TEMPLATE
from med42.data.hub import pin_hub
from med42.data.readers import locate
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce
from med42.lineage.digest import file_digest
from med42.lineage.journal import Job
from med42.lineage.record import Record, describe_files, read_record
from med42.lineage.signature import KEY
from med42.recipe import dump_recipe, load_recipe
from med42.recipe.lock import lockable
from med42.recipe.schema import HubOrigin
from med42.release import hub_push as module
from med42.release.push_model import push_model
from med42.training.prepare_base import prepare_base

JOB = Job("test")
TOKEN = "of-this-test"
RECIPE = load_recipe("tiny", ["push={kind: hub, repo: acme/tiny}"])
ROWS = b'{"question": "What is asthma?", "answer": "A disease of the airways."}\n'
LOOSE = load_recipe("tiny", ["unlocked=allow"])
BASE = load_recipe("tiny", ["base={kind: hub, repo: acme/base, license: llama3}", "unlocked=allow"])

# What each status is told as; the same words wherever it comes from.
TOLD = {401: "no valid token (HTTP 401", 403: "a token without this right (HTTP 403", 404: "no such repository, revision or file (HTTP 404",
        503: "an error of the hub itself (HTTP 503"}


def save_tiny_model(folder: Path) -> None:
    """A random Llama of hidden size 16 with a tokenizer that has Llama-3's control tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END).save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )).save_pretrained(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Artifacts with real records: mix, base, model, scores, and decisions for, against and about something else."""
    root = tmp_path_factory.mktemp("made")

    def make(name: str, kind: str, layer: str, inputs: dict[str, Path], measured: dict[str, Any], files: Any = None,
             parameters: dict[str, Any] | None = None, called: str = "") -> Path:
        def build(draft: Path) -> Outcome:
            (draft / "page.html").write_text("<!doctype html>")
            if files:
                files(draft)
            return Outcome(measured)

        produce(Plan(name, kind, parameters or {}, inputs, layer), root / (called or name), JOB, build)
        return root / (called or name)

    def model_files(draft: Path) -> None:
        save_tiny_model(draft)
        shutil.copyfile(TEMPLATE, draft / "chat_template.jinja")
        (draft / "training_log.json").write_text("[]\n")

    account = {"flashcards": {"read": 12, "kept": 10, "repeated": 0, "dropped": {"duplicate": 2}}}
    mix = make("mix_data", "conversations", "data", {}, {"rows": 10, "medical_share": 1.0, "accounts": account})
    base = make("prepare_base", "model", "training", {"mix": mix}, {"license": "Apache-2.0"})
    model = make("train_sft", "model", "training", {"base": base}, {"steps": 3}, model_files, {"sft": {"learning_rate": 0.003}})
    low, high = {"average": 0.25, "scores": {"mmlu": 0.25}}, {"average": 0.75, "scores": {"mmlu": 0.75}}
    earlier = make("evaluate_model", "scores", "evaluation", {"model": base}, low, called="earlier")
    scores = make("evaluate_model", "scores", "evaluation", {"model": model, "earlier": earlier}, high)
    refused = {"approved": False, "summary": "refused: mmlu"}
    return SimpleNamespace(
        model=model,
        decision=make("decide_release", "decision", "release", {"scores": scores}, {"approved": True}),
        refusal=make("decide_release", "decision", "release", {"scores": scores}, refused, called="no"),
        other=make("decide_release", "decision", "release", {"scores": earlier}, {"approved": True}, called="other"),
    )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)
    with hub_server(TOKEN) as server:
        use_hub(server, monkeypatch, tmp_path / "cache")
        yield server


def push(made: SimpleNamespace, out: Path, target: str = "", job: Job = JOB) -> Record:
    return push_model(RECIPE, made.model, made.decision, out, job, target)


def published(made: SimpleNamespace) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in made.model.iterdir() if path.name != "ancestry.json"}


# --- to a hub -------------------------------------------------------------------------------------


def test_pushed_model_loads_back_bit_equal(made: SimpleNamespace, hub: Hub, tmp_path: Path) -> None:
    import torch
    from huggingface_hub import HfApi, ModelCard, snapshot_download
    from transformers import AutoModelForCausalLM

    record = push(made, tmp_path / "release")
    commit, files = hub.find("acme/tiny")
    card = (tmp_path / "release" / "README.md").read_bytes()
    assert {name: data for name, data in files.items() if name != ".gitattributes"} == published(made) | {"README.md": card}
    assert hub.repositories["model", "acme/tiny"].private and hub.steps.count("commit") == 2  # aside, and on main
    repository = hub.repositories["model", "acme/tiny"]
    assert repository.tags == {f"release-{read_record(made.model).digest[:12]}": commit}
    assert set(repository.refs) == {"main", *repository.tags}
    assert record.measured["files"]["model.safetensors"] == file_digest(made.model / "model.safetensors")
    assert record.measured["record"] == read_record(made.model).digest
    told = json.loads((tmp_path / "release" / "release.json").read_text())
    assert (told["where"], told["commit"], record.made.observed) == ("acme/tiny", commit, {"commit": commit})
    assert commit not in str(record.measured) and TOKEN not in str(record) + str(told)

    folder = snapshot_download("acme/tiny")
    before, after = (AutoModelForCausalLM.from_pretrained(place).state_dict() for place in (made.model, folder))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    published_card = ModelCard.load(Path(folder, "README.md"))
    published_card.validate()
    code = re.search(r"```python\n(.*?)```", published_card.content, re.S)
    assert code
    exec(code[1].replace('"..."', repr(folder)).replace("max_new_tokens=128", "max_new_tokens=2"), {})
    assert HfApi().whoami()["name"] == "tester"


def test_card_tells_the_records_and_nothing_of_this_run(made: SimpleNamespace, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    push(made, tmp_path / "release", f"directory:{tmp_path}/published")
    text = (tmp_path / "published" / "README.md").read_text()
    card = ModelCard(text)
    assert (card.data.license, card.data.base_model, card.data.library_name) == ("apache-2.0", None, "transformers")
    assert "| flashcards | medical | 10 | 2 | Apache-2.0 |" in text and "| train_sft | 3 | learning_rate 0.003 |" in text
    assert [(one.dataset_name, one.metric_type, one.metric_value) for one in card.data.eval_results] == [("mmlu", "accuracy", 0.75)]
    assert "| **average** | 0.7500 |" in text and "0.2500" not in text, "the scores of this model, not of an earlier one"
    assert read_record(made.model).digest in text and str(tmp_path) not in text and JOB.run not in card.content.split()


def test_new_process_is_told_by_its_environment(made: SimpleNamespace, hub: Hub, tmp_path: Path) -> None:
    code = ("import sys; from pathlib import Path; from med42.lineage.journal import Job; from med42.recipe import parse_recipe\n"
            "from med42.release.push_model import push_model\n"
            "push_model(parse_recipe(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), Job('test'))")
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0",
                   "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-c", code, dump_recipe(RECIPE), *map(str, (made.model, made.decision, tmp_path / "release"))],
                          env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert hub.find("acme/tiny")[1]["model.safetensors"] == (made.model / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("step", "status"), [
    ("create", 401), ("create", 403), ("create", 404), ("preupload", 401), ("preupload", 404), ("lfs", 403), ("upload", 403),
    ("commit", 401), ("commit", 403), ("commit", 404),
])
def test_refusal_is_told_at_once(made: SimpleNamespace, hub: Hub, tmp_path: Path, step: str, status: int) -> None:
    hub.fail(step, status)
    with pytest.raises(Med42Error) as error:
        push(made, tmp_path / "release")
    assert TOLD[status] in str(error.value) and error.value.where == "push to acme/tiny"
    assert hub.steps.count(step) == 1 and not (tmp_path / "release").exists()


@pytest.mark.parametrize("token", ["another", ""])
def test_token_is_needed(made: SimpleNamespace, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(Med42Error, match=r"no valid token .*set HF_TOKEN"):
        push(made, tmp_path / "release")
    assert not hub.repositories


@pytest.mark.parametrize(("step", "status"), [("commit", 503), ("commit", 429), ("commit", 0), ("create", 502), ("info", 0)])
def test_passing_trouble_is_waited_out(made: SimpleNamespace, hub: Hub, tmp_path: Path, capsys: Any, step: str, status: int) -> None:
    hub.fail(step, status, times=2)
    push(made, tmp_path / "release")
    assert hub.steps.count(step) == (4 if step == "commit" else 3) and capsys.readouterr().out.count("[push_model] waiting seconds=") == 2
    assert hub.find("acme/tiny")[1]["model.safetensors"] == (made.model / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("status", "told"), [(503, TOLD[503]), (0, "no connection to a hub (Server disconnected")])
def test_lasting_trouble_is_given_up(made: SimpleNamespace, hub: Hub, tmp_path: Path, status: int, told: str) -> None:
    hub.fail("commit", status)
    with pytest.raises(Med42Error) as error:
        push(made, tmp_path / "release")
    assert told in str(error.value) and error.value.where == "push to acme/tiny, attempt 4"
    assert hub.steps.count("commit") == 4 and not (tmp_path / "release").exists()


def test_no_hub_at_the_address(made: SimpleNamespace, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Med42Error, match=r"no connection to a hub .*refused.* Check the network and HF_ENDPOINT"):
        push(made, tmp_path / "release")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_content_that_reads_back_otherwise(made: SimpleNamespace, hub: Hub, tmp_path: Path, name: str) -> None:
    hub.garbled.add(name)
    with pytest.raises(Med42Error, match=rf"other content than was sent \({name}\)"):
        push(made, tmp_path / "release")
    assert not (tmp_path / "release").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_reads_back_otherwise_never_comes_to_main(made: SimpleNamespace, hub: Hub, tmp_path: Path, name: str) -> None:
    before = hub.add("acme/tiny", {"NOTES.md": b"ours"}, private=True)
    hub.garbled.add(name)
    with pytest.raises(Med42Error, match="main was not touched"):
        push(made, tmp_path / "release")
    assert hub.find("acme/tiny")[0] == before and not hub.repositories["model", "acme/tiny"].tags
    hub.garbled.clear()
    push(made, tmp_path / "release")
    assert set(hub.repositories["model", "acme/tiny"].refs) == {"main", *hub.repositories["model", "acme/tiny"].tags}


@pytest.mark.parametrize(("step", "status"), [
    ("commit", 401), ("upload", 401), ("tree", 401), ("branch", 403), ("commit", 503), ("upload", 500)])
def test_a_push_that_fails_leaves_main_as_it_was(made: SimpleNamespace, hub: Hub, tmp_path: Path, step: str, status: int) -> None:
    before = hub.add("acme/tiny", {"NOTES.md": b"ours"}, private=True)
    hub.fail(step, status)
    with pytest.raises(Med42Error):
        push(made, tmp_path / "release")
    assert hub.find("acme/tiny")[0] == before and not (tmp_path / "release").exists()
    hub.faults.clear()
    push(made, tmp_path / "release")
    assert hub.find("acme/tiny")[1].keys() >= published(made).keys()


def test_a_connection_that_drops_in_an_upload_is_mended(made: SimpleNamespace, hub: Hub, tmp_path: Path) -> None:
    hub.fail("upload", 0, times=2)
    push(made, tmp_path / "release")
    assert hub.steps.count("upload") == 3
    assert hub.find("acme/tiny")[1]["model.safetensors"] == (made.model / "model.safetensors").read_bytes()


@pytest.mark.parametrize("trouble", ["503 at the commit", "a put that drops", "429", "an expired token", "a repository of somebody else"])
def test_whatever_was_in_the_way_the_hub_gives_the_same_weights(made: SimpleNamespace, hub: Hub, tmp_path: Path, trouble: str) -> None:
    from transformers import AutoModelForCausalLM

    match trouble:
        case "503 at the commit":
            hub.fail("commit", 503, times=2)
        case "a put that drops":
            hub.fail("upload", 0, times=2)
        case "429":
            for step in ("create", "preupload", "lfs", "upload", "commit"):
                hub.fail(step, 429, times=1)
        case "an expired token":
            hub.fail("upload", 401)
            with pytest.raises(Med42Error, match="no valid token"):
                push(made, tmp_path / "release")
            assert not hub.repositories["model", "acme/tiny"].tags and "model.safetensors" not in hub.find("acme/tiny")[1]
            hub.faults.clear()  # a new one
        case _:
            hub.fail("create", 503, times=1)
            hub.meanwhile["create"] = lambda: hub.add("acme/tiny", {"NOTES.md": b"theirs"}, private=True)
    record = push(made, tmp_path / "release")
    [tag] = hub.repositories["model", "acme/tiny"].tags
    for revision in (tag, "main"):
        model = AutoModelForCausalLM.from_pretrained("acme/tiny", revision=revision, dtype="auto")
        assert weights_digest(model) == weights_digest(AutoModelForCausalLM.from_pretrained(made.model, dtype="auto"))
    sent = hashlib.sha256(hub.find("acme/tiny", revision=tag)[1]["model.safetensors"]).hexdigest()
    assert sent == record.measured["files"]["model.safetensors"] == file_digest(made.model / "model.safetensors")


def weights_digest(model: Any) -> str:
    """SHA-256 of a model's tensors, by name."""
    told = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        told.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return told.hexdigest()


def test_a_commit_whose_answer_is_lost_is_not_made_twice(made: SimpleNamespace, hub: Hub, tmp_path: Path) -> None:
    hub.add("acme/tiny", {"NOTES.md": b"ours"}, private=True)
    hub.meanwhile["commit"] = lambda: hub.meanwhile.update(commit=lambda: setattr(hub, "lost", 1))
    record = push(made, tmp_path / "release")
    assert len(hub.repositories["model", "acme/tiny"].commits) == 3  # what was there, aside, on main
    assert record.made.observed["commit"] == hub.find("acme/tiny")[0]


def test_a_commit_of_somebody_else_in_between_is_not_overwritten(made: SimpleNamespace, hub: Hub, tmp_path: Path) -> None:
    hub.add("acme/tiny", {"NOTES.md": b"ours"}, private=True)
    hub.meanwhile["commit"] = lambda: hub.add("acme/tiny", {"NOTES.md": b"theirs"}, private=True)
    with pytest.raises(Med42Error, match="a commit of somebody else on main"):
        push(made, tmp_path / "release")
    assert hub.find("acme/tiny")[1] == {"NOTES.md": b"theirs"}
    push(made, tmp_path / "release")  # looked at, pushed again
    assert hub.find("acme/tiny")[1]["NOTES.md"] == b"theirs"


@pytest.mark.parametrize("private", [True, False])
def test_a_repository_that_somebody_else_makes_in_between(made: SimpleNamespace, hub: Hub, tmp_path: Path, private: bool) -> None:
    hub.fail("create", 503, times=1)
    hub.meanwhile["create"] = lambda: hub.add("acme/tiny", {"NOTES.md": b"theirs"}, private=private)
    if private:
        push(made, tmp_path / "release")
        assert hub.find("acme/tiny")[1]["NOTES.md"] == b"theirs"
    else:
        with pytest.raises(Med42Error, match="a public repository"):
            push(made, tmp_path / "release")
        assert hub.find("acme/tiny")[1] == {"NOTES.md": b"theirs"}


def test_a_tag_is_never_moved(made: SimpleNamespace, hub: Hub, tmp_path: Path) -> None:
    recipe = load_recipe("tiny", ["push={kind: hub, repo: acme/tiny, tag: v1}"])
    hub.add("acme/tiny", {"NOTES.md": b"ours"}, private=True)
    other = hub.find("acme/tiny")[0]
    repository = hub.repositories["model", "acme/tiny"]
    repository.tags["v1"] = repository.refs["v1"] = other
    with pytest.raises(Med42Error, match="tag v1, which is never moved"):
        push_model(recipe, made.model, made.decision, tmp_path / "release", JOB)
    assert repository.tags == {"v1": other} and "commit" not in hub.steps
    del repository.tags["v1"], repository.refs["v1"]
    first = push_model(recipe, made.model, made.decision, tmp_path / "release", JOB)
    commits = hub.steps.count("commit")
    again = push_model(recipe, made.model, made.decision, tmp_path / "again", JOB)  # the same release: found, compared, left alone
    assert again.digest == first.digest and hub.steps.count("commit") == commits


def test_a_gated_model(made: SimpleNamespace, hub: Hub, tmp_path: Path) -> None:
    recipe = load_recipe("tiny", ["push={kind: hub, repo: acme/tiny, private: false, gated: manual}"])
    push_model(recipe, made.model, made.decision, tmp_path / "release", JOB)
    repository = hub.repositories["model", "acme/tiny"]
    assert (repository.private, repository.gated) == (False, "manual")
    assert hub.steps.index("settings") < hub.steps.index("commit")


@pytest.mark.parametrize("place", ["hub", "directory"])
def test_a_signed_model(made: SimpleNamespace, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    from huggingface_hub import snapshot_download

    key = make_key(tmp_path)
    monkeypatch.setenv(KEY, str(key))
    where = "hub:acme/tiny" if place == "hub" else f"directory:{tmp_path}/published"
    record = push(made, tmp_path / "release", where)
    push(made, tmp_path / "again", where)  # another signature of the same files changes nothing
    folder = tmp_path / "published" if place == "directory" else Path(shutil.copytree(snapshot_download("acme/tiny"), tmp_path / "copy"))
    tool = [Path(sys.executable).with_name("model_signing"), "verify", "key", folder, "--signature", folder / "model.sig"]
    assert subprocess.run([*tool, "--public_key", key.with_suffix(".pub")], capture_output=True).returncode == 0
    assert record.measured["signed_by"].startswith("key ")
    (folder / "config.json").write_text("{}")
    assert subprocess.run([*tool, "--public_key", key.with_suffix(".pub")], capture_output=True).returncode != 0


def test_private_model_is_not_put_into_a_public_repository(made: SimpleNamespace, hub: Hub, tmp_path: Path) -> None:
    hub.add("acme/tiny", {})
    with pytest.raises(Med42Error, match="a public repository"):
        push(made, tmp_path / "release")
    assert "commit" not in hub.steps


def test_weights_of_an_earlier_release_go_and_other_files_stay(made: SimpleNamespace, hub: Hub, tmp_path: Path) -> None:
    older = {"model-00001-of-00002.safetensors": b"\0", "model.safetensors.index.json": b"{}", "NOTES.md": b"ours"}
    hub.add("acme/tiny", older, private=True)
    push(made, tmp_path / "release")
    assert hub.find("acme/tiny")[1].keys() == {*published(made), "README.md", "NOTES.md"}


def test_finished_push_is_not_repeated(made: SimpleNamespace, hub: Hub, tmp_path: Path) -> None:
    first = push(made, tmp_path / "one", job=Job("one", tmp_path / "store"))
    asked = len(hub.requests)
    again = push(made, tmp_path / "two", job=Job("two", tmp_path / "store"))
    assert (again.digest, again.made.run, len(hub.requests)) == (first.digest, "one", asked)
    push(made, tmp_path / "three", "hub:acme/elsewhere", Job("three", tmp_path / "store"))
    assert ("model", "acme/elsewhere") in hub.repositories


@pytest.mark.parametrize("target", ["hub:acme", "hub:a/b/c", "directory:", "acme/tiny", "ftp:acme/tiny"])
def test_target_that_says_nothing(made: SimpleNamespace, tmp_path: Path, target: str) -> None:
    with pytest.raises(Med42Error, match="expected directory:PATH or hub:OWNER/NAME"):
        push(made, tmp_path / "release", target)


def test_name_that_no_hub_holds(made: SimpleNamespace, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(Med42Error, match="a name that no hub can hold"):
        push(made, tmp_path / "release", "hub:acme/ti--ny")


# --- what may be pushed ---------------------------------------------------------------------------


def test_refused_model_is_not_pushed(made: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(Med42Error, match=r"a decision against the release \(refused: mmlu\)"):
        push_model(RECIPE, made.model, made.refusal, tmp_path / "release", JOB, f"directory:{tmp_path}/published")
    assert not any(tmp_path.iterdir())


def test_approval_of_another_model_does_not_count(made: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(Med42Error, match="a decision about another model"):
        push_model(RECIPE, made.model, made.other, tmp_path / "release", JOB, f"directory:{tmp_path}/published")


def test_a_model_is_not_pushed_unsigned_where_the_recipe_asks_for_a_signature(made: SimpleNamespace, tmp_path: Path,
                                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    recipe = load_recipe("tiny", ["audit.signed=true"])
    with pytest.raises(Med42Error, match="no signing key"):
        push_model(recipe, made.model, made.decision, tmp_path / "release", JOB, f"directory:{tmp_path}/published")
    assert not any(tmp_path.iterdir())


def test_weights_that_run_code_are_not_pushed(made: SimpleNamespace, tmp_path: Path) -> None:
    def pickled(draft: Path) -> Outcome:
        (draft / "pytorch_model.bin").write_bytes(b"x")
        return Outcome({"steps": 1})

    scores = {"average": 0.5, "scores": {"mmlu": 0.5}}
    model = tmp_path / "model"
    produce(Plan("train_sft", "model", {"of": "pickles"}, {}, "training"), model, JOB, pickled)
    produce(Plan("evaluate_model", "scores", {}, {"model": model}, "evaluation"), tmp_path / "scores", JOB, lambda draft: Outcome(scores))
    decision = tmp_path / "decision"
    produce(Plan("decide_release", "decision", {}, {"scores": tmp_path / "scores"}, "release"), decision, JOB,
            lambda draft: Outcome({"approved": True}))
    with pytest.raises(Med42Error, match="a file that runs code when it is loaded"):
        push_model(RECIPE, model, decision, tmp_path / "release", JOB, f"directory:{tmp_path}/published")
    assert not (tmp_path / "published").exists()


def test_changed_model_is_not_pushed(made: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copytree(made.model, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(Med42Error, match=r"files that differ from its record \(config.json\)"):
        push_model(RECIPE, tmp_path / "model", made.decision, tmp_path / "release", JOB, f"directory:{tmp_path}/published")
    assert not (tmp_path / "published").exists() and not (tmp_path / "release").exists()


# --- to a folder ----------------------------------------------------------------------------------


def test_directory_holds_the_release_and_its_record_no_path(made: SimpleNamespace, tmp_path: Path) -> None:
    record = push(made, tmp_path / "release", f"directory:{tmp_path}/deep/published")
    folder = tmp_path / "deep" / "published"
    card = (tmp_path / "release" / "README.md").read_bytes()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == published(made) | {"README.md": card}
    assert [path.name for path in folder.parent.iterdir()] == ["published"]
    assert record.measured["where"] == "published" and record.made.observed == {"folder": str(folder)}
    assert str(tmp_path) not in json.dumps([record.measured, record.parameters]) + (tmp_path / "release" / "release.json").read_text()
    there, here = ((place / "model.safetensors").stat().st_ino for place in (folder, made.model))
    assert there != here, "a link would let an edit reach the store"


def test_same_release_is_left_alone_and_other_content_refused(made: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    push(made, tmp_path / "one", f"directory:{folder}")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert push(made, tmp_path / "two", f"directory:{folder}").digest == read_record(tmp_path / "one").digest
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    (folder / "NOTES.md").write_text("ours")
    with pytest.raises(Med42Error, match=r"other content \(NOTES.md\).*nothing is overwritten"):
        push(made, tmp_path / "three", f"directory:{folder}")
    assert (folder / "NOTES.md").read_text() == "ours" and not (tmp_path / "three").exists()


def test_reused_artifact_is_published_again_where_the_folder_is_gone(made: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    push(made, tmp_path / "one", f"directory:{folder}", Job("one", tmp_path / "store"))
    files = describe_files(folder)
    shutil.rmtree(folder)
    record = push(made, tmp_path / "two", f"directory:{folder}", Job("two", tmp_path / "store"))
    assert record.made.run == "one" and describe_files(folder) == files
    elsewhere = push(made, tmp_path / "three", f"directory:{tmp_path}/elsewhere", Job("three", tmp_path / "store"))
    assert elsewhere.measured["where"] == "elsewhere", "the record of one folder is not used for another"


def test_folder_that_cannot_be_made(made: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for target in ("file", "file/published"):
        with pytest.raises(Med42Error, match="a place where this user may make a folder"):
            push(made, tmp_path / "release", f"directory:{tmp_path / target}")
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o555)
        with pytest.raises(Med42Error, match="Permission denied"):
            push(made, tmp_path / "release", f"directory:{tmp_path}/locked/published")
    assert (tmp_path / "file").read_text() == "in the way" and not (tmp_path / "release").exists()


def test_recipe_with_a_directory_needs_to_be_told_which(made: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(Med42Error, match="directory:PATH"):
        push_model(load_recipe("tiny"), made.model, made.decision, tmp_path / "release", JOB)


# --- from a hub: sources and the base model -------------------------------------------------------


def rows(**origin: Any) -> list[tuple[str, Any]]:
    return list(locate(LOOSE, "sources.quad.origin", HubOrigin(kind="hub", repo="acme/rows", files=["*.jsonl"], **origin), None).rows())


def test_rows_of_a_data_set_repository(hub: Hub) -> None:
    hub.add("acme/rows", {"train.jsonl": ROWS, "README.md": b"---\n---\n"}, "dataset", private=True)
    hub.add("acme/rows", {"train.jsonl": ROWS * 2}, "dataset", branch="v2")
    assert rows() == [("train.jsonl:1", json.loads(ROWS))]
    assert len(rows(revision="v2")) == 2


@pytest.mark.parametrize("status", [401, 403, 404, 503])
@pytest.mark.parametrize("step", ["info", "tree", "resolve"])
def test_rows_that_the_hub_does_not_give(hub: Hub, step: str, status: int) -> None:
    hub.add("acme/rows", {"train.jsonl": ROWS}, "dataset")
    hub.fail(step, status)
    with pytest.raises(Med42Error) as error:
        rows()
    assert TOLD[status] in str(error.value) and error.value.where.startswith("sources.quad.origin: dataset acme/rows@main")


@pytest.mark.parametrize(("revision", "files"), [("v9", {"train.jsonl": ROWS}), ("main", {})])
def test_rows_that_are_not_there(hub: Hub, revision: str, files: dict[str, bytes]) -> None:
    with pytest.raises(Med42Error, match="no such repository, revision or file"):
        rows()
    hub.add("acme/rows", files, "dataset")
    with pytest.raises(Med42Error, match=r"no such repository, revision or file|no file that matches"):
        rows(revision=revision)


def base_files(made: SimpleNamespace) -> dict[str, bytes]:
    return {name: data for name, data in published(made).items() if name.endswith((".safetensors", "config.json", "tokenizer.json"))}


def test_base_model_of_a_repository(made: SimpleNamespace, hub: Hub, tmp_path: Path) -> None:
    commit = hub.add("acme/base", {**base_files(made), "pytorch_model.bin": b"\0"})
    record = prepare_base(BASE, None, tmp_path / "base", JOB)
    assert (record.measured["commit"], record.measured["license"]) == (commit, "llama3")
    assert {name: (tmp_path / "base" / name).read_bytes() for name in base_files(made)} == base_files(made)
    assert not (tmp_path / "base" / "pytorch_model.bin").exists() and (tmp_path / "base" / "chat_template.jinja").exists()


@pytest.mark.parametrize("status", [401, 403, 404, 503])
@pytest.mark.parametrize("step", ["info", "tree", "resolve"])
def test_base_model_that_the_hub_does_not_give(made: SimpleNamespace, hub: Hub, tmp_path: Path, step: str, status: int) -> None:
    hub.add("acme/base", base_files(made))
    hub.fail(step, status)
    with pytest.raises(Med42Error) as error:
        prepare_base(BASE, None, tmp_path / "base", JOB)
    assert TOLD[status] in str(error.value) and error.value.where.startswith("base: model acme/base@main")
    assert not (tmp_path / "base").exists()


def test_base_model_by_its_pin(made: SimpleNamespace, hub: Hub, tmp_path: Path) -> None:
    commit = hub.add("acme/base", {**base_files(made), "original/model.safetensors": b"\0", "README.md": b""})
    pin = pin_hub(lockable(BASE)["base"], "base", "model")
    assert pin.revision == commit and pin.files == {name: hashlib.sha256(data).hexdigest() for name, data in base_files(made).items()}
    pinned = load_recipe("tiny", ["base={kind: hub, repo: acme/base, license: llama3}"]).model_copy(update={"pins": {"base": pin}})
    hub.add("acme/base", {**base_files(made), "config.json": b"{}"})
    record = prepare_base(pinned, None, tmp_path / "base", JOB)
    assert record.measured["commit"] == commit and (tmp_path / "base" / "config.json").read_bytes() == base_files(made)["config.json"]
    with pytest.raises(Med42Error, match="without a pin"):
        prepare_base(pinned.model_copy(update={"pins": {}}), None, tmp_path / "loose", JOB)
    wrong = pin.model_copy(update={"files": {**pin.files, "tokenizer.json": "0" * 64}})
    with pytest.raises(Med42Error, match=rf"base: tokenizer.json: found SHA-256 {pin.files['tokenizer.json']}.*the pinned {'0' * 64}"):
        prepare_base(pinned.model_copy(update={"pins": {"base": wrong}}), None, tmp_path / "wrong", JOB)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["base"]


def test_base_model_with_pickled_weights_alone(hub: Hub, tmp_path: Path) -> None:
    hub.add("acme/base", {"config.json": b"{}", "pytorch_model.bin": b"\0"})
    with pytest.raises(Med42Error, match="pickled weights are refused"):
        prepare_base(BASE, None, tmp_path / "base", JOB)
