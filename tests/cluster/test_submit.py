"""Requests of runs: one run each, whatever happens on the way; with kfp's own client against a server on loopback."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from pipelines_server import pipelines_server

from med42.cluster.request import check_names, load_request
from med42.cluster.submit import connect, record_run
from med42.errors import Med42Error
from med42.recipe import parse_recipe, recipe_digest

TOKEN = "of-the-submitter"
RUN = {"recipe": "tiny", "reason": "first release"}


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("kfp.client.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    monkeypatch.setattr("kfp.client.client.time", SimpleNamespace(sleep=lambda seconds: None))
    with pipelines_server(TOKEN) as state:
        state.add_pipeline("med42-tiny", "med42-tiny-0001", "med42-tiny-0002")
        yield state


@pytest.fixture
def token_file(tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    return tmp_path / "token"


@pytest.fixture
def ask(server, token_file):
    """A new client, as of a new process."""
    quick = {"away": 5.0, "pause": 0.01, "grace": 0.3, "settle": 0.05}
    return lambda **patience: connect(server.endpoint, "", token_file, **quick | patience)


@pytest.fixture
def request_of(tmp_path):
    def written(name="clinic", **keys):
        path = tmp_path / "runs" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(RUN | keys))
        return path

    return written


def parameters(run):
    return run["runtime_config"]["parameters"]


# --- one run --------------------------------------------------------------------------------------


def test_a_request_becomes_a_run_of_the_newest_version(server, ask, request_of):
    wanted = load_request(request_of(overrides=["sft.steps=3"], push_to="directory:/med42/releases"))
    run = ask().submit(wanted)
    [made] = server.runs
    newest = next(version for version in server.versions if version["name"] == "med42-tiny-0002")
    assert run.created and (run.id, run.version) == (made["run_id"], "med42-tiny-0002")
    assert made["pipeline_version_reference"]["pipeline_version_id"] == newest["pipeline_version_id"]
    assert made["display_name"] == wanted.name == f"clinic-{wanted.digest[:12]}"
    assert recipe_digest(parse_recipe(parameters(made)["recipe"])) == recipe_digest(wanted.recipe)
    assert parameters(made)["push_to"] == "directory:/med42/releases" and parameters(made)["run"] == wanted.name
    assert "first release" in server.experiments[0]["description"] and wanted.digest in server.experiments[0]["description"]


def test_submitted_twice_is_one_run(server, ask, request_of):
    first, second = (ask().submit(load_request(request_of())) for _ in range(2))
    assert (first.created, second.created) == (True, False)
    assert first.id == second.id and len(server.runs) == 1


def test_submitted_from_many_places_at_once_is_one_run(server, ask, request_of):
    path, found, together = request_of(), [], threading.Barrier(8)
    server.slow = {"create_run": 0.1, "create_experiment": 0.01}

    def place():
        client, wanted = ask(grace=20.0), load_request(path)
        together.wait()
        found.append(client.submit(wanted))

    places = [threading.Thread(target=place) for _ in range(8)]
    for one in places:
        one.start()
    for one in places:
        one.join()
    assert len(server.runs) == len({run.id for run in found}) == 1
    assert sum(run.created for run in found) == 1 and len(found) == 8


def test_who_claimed_a_request_and_was_ended_is_taken_over(server, ask, request_of):
    wanted = load_request(request_of())
    assert ask()._claim(wanted)  # and no run comes of it
    run = ask().submit(wanted)
    assert run.created and len(server.runs) == 1


def test_two_who_take_over_at_once_leave_one_run(server, ask, request_of):
    wanted, found, together = load_request(request_of()), [], threading.Barrier(2)
    ask()._claim(wanted)
    server.slow = {"create_run": 1.0}

    def place():
        client = ask(grace=0.1, settle=2.0)
        together.wait()
        found.append(client.submit(wanted))

    places = [threading.Thread(target=place) for _ in range(2)]
    for one in places:
        one.start()
    for one in places:
        one.join()
    assert server.steps.count("create_run") == 2  # both did
    assert len(server.runs) == len({run.id for run in found}) == 1


@pytest.mark.parametrize("clock", [-86400.0, 86400.0])
def test_a_server_with_another_clock_changes_nothing(server, ask, request_of, clock):
    server.clock = clock
    assert ask().submit(load_request(request_of())).created
    server.clock = -clock
    assert not ask().submit(load_request(request_of())).created
    assert len(server.runs) == 1


def test_the_reason_makes_another_request(server, ask, request_of):
    for reason in ("first release", "again, with the new pool"):
        assert ask().submit(load_request(request_of(reason=reason))).created
    assert len(server.runs) == 2


def test_a_failed_run_is_not_submitted_again_and_is_told(server, ask, request_of):
    ask().submit(load_request(request_of()))
    server.runs[0]["state"] = "FAILED"
    run = ask().submit(load_request(request_of()))
    assert (run.created, run.state) == (False, "FAILED")


def test_a_run_is_found_although_its_experiment_is_gone(server, ask, request_of):
    ask().submit(load_request(request_of()))
    server.experiments.clear()
    assert not ask().submit(load_request(request_of())).created
    assert len(server.runs) == 1


def test_dry_run_starts_nothing(server, ask, request_of):
    assert ask().submit(load_request(request_of()), dry=True) is None
    assert not server.runs and not server.experiments
    ask().submit(load_request(request_of()))
    assert ask().submit(load_request(request_of()), dry=True).id == server.runs[0]["run_id"]


# --- versions -------------------------------------------------------------------------------------


def test_a_version_that_is_asked_for_is_run(server, ask, request_of):
    assert ask().submit(load_request(request_of(version="med42-tiny-0001"))).version == "med42-tiny-0001"


def test_an_unknown_version_names_those_there_are(server, ask, request_of):
    with pytest.raises(Med42Error, match=r"'med42-tiny-9999', which pipeline med42-tiny does not have; expected one of its 2; the newest "
                                         r"are med42-tiny-0002, med42-tiny-0001"):
        ask().submit(load_request(request_of(version="med42-tiny-9999")))
    assert not server.runs and not server.experiments


def test_an_unknown_pipeline_names_those_there_are(server, ask, request_of):
    server.pipelines[0] |= {"name": "other", "display_name": "other"}
    with pytest.raises(Med42Error, match=r"pipeline 'med42-tiny': found none of that name; there are other.*med42 compile tiny"):
        ask().submit(load_request(request_of()))


def test_versions_beyond_a_page_are_found(server, ask, request_of):
    server.page = 2
    for number in range(7):
        server.add_version(server.pipelines[0]["pipeline_id"], f"med42-tiny-1{number}")
    assert ask().submit(load_request(request_of(version="med42-tiny-0001"))).version == "med42-tiny-0001"


def test_a_compiled_pipeline_is_registered_once_under_its_content(server, ask, request_of, tmp_path):
    package = tmp_path / "pipeline.yaml"
    package.write_text("pipelineInfo: {name: med42-tiny}\nroot: {}\n---\nplatforms: {}\n")
    server.pipelines.clear()
    for reason in ("one", "two"):
        run = ask().submit(load_request(request_of(reason=reason)), package)
        assert run.version.startswith("med42-tiny-") and len(run.version) == len("med42-tiny-") + 12
    assert server.steps.count("upload") == 1 and server.steps.count("upload_version") == 1


def test_a_file_that_is_no_pipeline_is_refused(server, ask, request_of, tmp_path):
    (tmp_path / "p.yaml").write_text("a: 1\n")
    with pytest.raises(Med42Error, match="no compiled pipeline"):
        ask().submit(load_request(request_of()), tmp_path / "p.yaml")


# --- a server in trouble --------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["list_experiments", "list_pipelines", "list_versions", "create_experiment", "list_runs", "create_run"])
@pytest.mark.parametrize("status", [500, 503, 429, 0])
def test_errors_of_the_server_are_tried_again(server, ask, request_of, step, status):
    client = ask()
    server.fail(step, status, times=2)
    assert client.submit(load_request(request_of())).created
    assert len(server.runs) == 1


@pytest.mark.parametrize("step", ["create_run", "create_experiment"])
def test_an_answer_that_is_lost_makes_no_second_run(server, ask, request_of, step):
    client = ask()
    server.fail(step, -1)
    client.submit(load_request(request_of()))
    assert len(server.runs) == 1


def test_a_server_that_stays_away_is_told(server, ask, request_of):
    client = ask(away=0.1)
    server.fail("create_run", 503, times=100)
    with pytest.raises(Med42Error, match=r"no good answer for 0 s \(no create_run today\); expected one to: create runs.*started twice"):
        client.submit(load_request(request_of()))


def test_no_server_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr("kfp.client.client.time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr("kfp.client.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    with pytest.raises(Med42Error, match=r"Kubeflow Pipelines at http://127\.0\.0\.1:9: found no answer"):
        connect("http://127.0.0.1:9", away=0.1, pause=0.01)


@pytest.mark.parametrize(("step", "what"), [
    ("create_run", "create runs"), ("create_experiment", "create experiments"), ("list_runs", "list runs"),
    ("list_pipelines", "list pipelines"), ("list_versions", "list pipelines/versions"),
])
def test_what_is_not_permitted_is_named_by_verb_and_resource(server, ask, request_of, step, what):
    client = ask()
    server.fail(step, 403)
    verb, _, resource = what.partition(" ")
    with pytest.raises(Med42Error) as told:
        client.submit(load_request(request_of()))
    assert f"{what}.pipelines.kubeflow.org: found no permission" in str(told.value)
    assert f"a role that allows verb '{verb}' on '{resource}.pipelines.kubeflow.org'" in str(told.value)


def test_a_token_that_is_refused_is_told(server, ask, request_of, token_file):
    client = ask()
    token_file.write_text("expired")
    with pytest.raises(Med42Error, match=r"a token that the server does not take.*clocks agree"):
        client.submit(load_request(request_of()))


@pytest.mark.parametrize("name", ["token_file", "authority"])
def test_a_file_that_is_not_there_is_named(server, tmp_path, name):
    with pytest.raises(Med42Error, match="none: found no such file"):
        connect(server.endpoint, **{name: tmp_path / "none"})


def test_a_token_is_read_again_for_every_request(server, ask, request_of, token_file):
    client = ask()
    client.submit(load_request(request_of()))
    server.token = "renewed"
    token_file.write_text("renewed")
    assert not client.submit(load_request(request_of())).created


def test_the_service_accounts_own_token_is_used(server, request_of, token_file, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(token_file))
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.endpoint)
    assert connect("").submit(load_request(request_of())).created


# --- following --------------------------------------------------------------------------------------


def task(name, state, **more):
    return {"task_id": name, "display_name": name, "state": state, **more}


def test_a_run_is_followed_in_lines_that_a_person_reads(server, ask, request_of):
    client = ask()
    run = client.submit(load_request(request_of()))
    times = {"start_time": "2031-01-01T00:00:00Z", "end_time": "2031-01-01T00:02:05Z"}
    server.script = [
        {"state": "RUNNING", "run_details": {"task_details": [task("preflight", "RUNNING")]}},
        {"run_details": {"task_details": [task("preflight", "SUCCEEDED", **times), task("train-sft", "RUNNING")]}},
        {"state": "FAILED", "run_details": {"task_details": [task("preflight", "SUCCEEDED", **times),
                                                              task("train-sft", "FAILED", error={"message": "out of\nmemory"})]}}]
    server.fail("get_run", 503, times=3)  # away in between
    lines = []
    assert client.follow(run.id, lines.append, interval=0.01) == "FAILED"
    assert lines == ["preflight  running", f"run {run.id}  running", "preflight  succeeded after 125 s", "train-sft  running",
                     "train-sft  failed: out of memory", f"run {run.id}  failed"]


def test_a_server_that_goes_away_while_a_run_is_followed_is_told(server, ask, request_of):
    client = ask(away=0.1)
    run = client.submit(load_request(request_of()))
    server.fail("get_run", 0, times=1000)
    with pytest.raises(Med42Error, match="expected one to: get runs"):
        client.follow(run.id, print, interval=0.01)


# --- the file ---------------------------------------------------------------------------------------


def test_the_run_is_recorded_beside_its_request(server, ask, request_of):
    wanted = load_request(request_of())
    run = ask().submit(wanted)
    told = json.loads(Path(record_run(wanted.path.with_suffix(".run.json"), wanted, run)).read_text())
    assert (told["run_id"], told["request"]) == (run.id, wanted.digest)


def test_a_record_stays_as_it_is_while_the_run_is_the_same(server, ask, request_of):
    wanted, path = load_request(request_of()), request_of().with_suffix(".run.json")
    record_run(path, wanted, ask().submit(wanted))
    before = path.read_bytes()
    record_run(path, wanted, ask().submit(wanted))
    assert path.read_bytes() == before and b"med42-tiny-0002" in before


def test_where_nothing_can_be_written_that_is_told(server, ask, request_of, tmp_path):
    wanted = load_request(request_of())
    run = ask().submit(wanted)
    assert record_run(tmp_path / "nowhere" / "x.json", wanted, run).startswith("not recorded: ")


@pytest.mark.parametrize(("keys", "words"), [
    ({"recipee": "tiny"}, "unknown key 'recipee'; the nearest known key is 'recipe'"),
    ({"reason": ""}, "reason: String should have at least 1 character"),
    ({"recipe": "tinny"}, "Did you mean 'tiny'"),
    ({"profile": "moon"}, "profile 'moon'"),
    ({"overrides": ["sft.stepps=1"]}, "unknown key 'stepps'"),
    ({"overrides": ["sft.steps=1", "sft.devices.nodes=2"]}, "'sft.devices.nodes=2'; expected no devices"),
])
def test_a_bad_request_names_its_key(request_of, keys, words):
    with pytest.raises(Med42Error) as told:
        load_request(request_of(**keys))
    assert words in str(told.value)


def test_a_request_that_is_no_mapping_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text("- tiny\n")
    with pytest.raises(Med42Error, match="expected a mapping of recipe, profile, overrides, reason"):
        load_request(tmp_path / "x.yaml")


def test_a_recipe_beside_the_request_is_read_with_its_lock(request_of, tmp_path):
    path = request_of(recipe="mine.yaml")
    (path.parent / "mine.yaml").write_text("extends: tiny\nname: mine\n")
    before = load_request(path)
    assert before.pipeline == "med42-mine"
    (path.parent / "mine.yaml").write_text("extends: tiny\nname: mine\nseed: 5\n")
    assert load_request(path).digest != before.digest


def test_two_recipes_of_one_name_are_refused(request_of, tmp_path):
    first, second = request_of("a", recipe="a-recipe.yaml"), request_of("b", recipe="b-recipe.yaml")
    for name in ("a-recipe", "b-recipe"):
        (first.parent / f"{name}.yaml").write_text("extends: tiny\nname: clinic\n")
    with pytest.raises(Med42Error, match=r"b\.yaml: found a recipe named 'clinic' from .*b-recipe\.yaml, where .*a\.yaml has one of that"):
        check_names([load_request(first), load_request(second)])


def test_the_command_submits_records_and_goes_on_after_a_bad_one(server, request_of, token_file, tmp_path):
    good, bad, worse = request_of("good"), request_of("bad", version="none"), request_of("worse", recipee="tiny")
    environment = {**os.environ, "HOME": str(tmp_path), "KF_PIPELINES_ENDPOINT": server.endpoint, "NO_PROXY": "127.0.0.1"}

    def command(*words):
        program = "from med42.cli.main import app; app()"
        return subprocess.run([sys.executable, "-c", program, "submit", "--token-file", str(token_file), *words], capture_output=True,
                              text=True, env=environment, timeout=60)

    first = command(str(bad), str(worse), str(good))
    assert first.returncode == 1 and "'none', which pipeline med42-tiny does not have" in first.stdout
    assert "unknown key 'recipee'" in first.stdout
    assert "submitted  run " in first.stdout and "Traceback" not in first.stderr
    assert json.loads(good.with_suffix(".run.json").read_text())["run_id"] == server.runs[0]["run_id"]
    again = command(str(good), "--dry-run")
    assert again.returncode == 0 and f"was submitted before (pending)  run {server.runs[0]['run_id']}" in again.stdout
    assert len(server.runs) == 1
