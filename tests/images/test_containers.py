"""Stages in containers: the same digests as without, what a container may not do, and failures that do not look green."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import docker.errors
import pytest
import whole_run

from components.images import DATA, EVALUATE, RELEASE, TRAIN
from med42.cli.containers import UID, Containers, handling_tasks, make_folders, signing_files
from med42.cluster.profile import load_profile
from med42.errors import Med42Error
from med42.recipe import load_recipe

USER = f"{os.getuid()}:{os.getgid()}" if os.getuid() else f"{UID}:0"


@pytest.fixture
def containers(engine, tmp_path):
    """Containers of a run whose work folder their user may write."""
    work = tmp_path / "work"
    run = work / "runs" / f"test-{os.getpid()}-{time.monotonic_ns()}"
    make_folders(run)
    made = Containers(engine, load_recipe("tiny"), load_profile("default"), work, run, None, f"directory:{work}/releases/x")
    yield made
    made.end()


def stage(containers, script, image=DATA, **outputs):
    """Run a shell script as the task of the stage `mix_data`; whether it succeeded, and the causes of failure."""
    declared = {"outputs": {"artifacts": {name: {"artifacts": [{"uri": str(path), "type": {"schemaTitle": "system.Dataset"}}]}
                                          for name, path in outputs.items()}}}
    command = ["sh", "-c", script, "stage", "--executor_input", json.dumps(declared), "--function_to_execute", "mix_data"]
    succeeded = containers.run_stage(image, command, {})
    return succeeded, containers.failures


def left(containers):
    """The containers of the run that the engine still has."""
    return containers.client.containers.list(all=True, filters={"label": f"med42.run={containers.run.name}"})


# --- the whole pipeline -------------------------------------------------------------------------------------------


def test_the_whole_pipeline_in_containers_gives_the_digests_of_subprocesses(engine, tiny_run, tmp_path):
    in_docker = whole_run.run(tmp_path / "work", "tiny", "--runner", "docker")
    assert in_docker.status == 0, in_docker.output
    assert "verified" in in_docker.output
    assert in_docker.digests == tiny_run.digests
    made = [in_docker.record(name)["made"] for name in in_docker.digests]
    assert all(each["image"].startswith("sha256:") for each in made)
    assert len({each["image"] for each in made}) == 4
    owners = {path.stat().st_uid for path in (tmp_path / "work" / "store").rglob("*")}
    assert owners == {int(USER.partition(":")[0])}
    assert not engine.containers.list(all=True, filters={"label": f"med42.run={in_docker.folder.name}"})
    assert not list(in_docker.folder.glob("scratch-*"))


def test_a_killed_stage_is_named_and_the_next_run_goes_on(engine, tmp_path):
    quick = whole_run.changes("sft.steps=80", "dpo.steps=0", "dpo.rounds=[[round-1]]", "gates=[]", "evaluation.limit=4",
                               "evaluation.every_round=false")
    running = whole_run.start(tmp_path / "work", "tiny", "--runner", "docker", *quick)
    victim = None
    while victim is None and running.poll() is None:
        time.sleep(0.1)
        for journal in (tmp_path / "work" / "store").glob("journal/*.jsonl"):
            if '"name": "train_sft", "event": "progress"' in journal.read_text():
                [victim] = engine.containers.list(filters={"label": f"med42.run={journal.stem}"})
    victim.kill()
    told = running.communicate(timeout=120)[0]
    assert running.returncode == 1
    assert "error train_sft: found ended by SIGKILL" in told
    again = whole_run.run(tmp_path / "work", "tiny", "--runner", "docker", *quick)
    assert again.status == 0, again.output
    assert {"mix_data", "prepare_base", "pack_data"} <= {name for name, event in again.finished.items() if event.get("reused")}


# --- what a container may not do ----------------------------------------------------------------------------------


LOOK = """
import json, os, pathlib, socket, sys
def refused(call):
    try:
        call()
    except OSError as error:
        return type(error).__name__
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "effective": status["CapEff"].strip(), "bounding": status["CapBnd"].strip(),
    "no_new_privileges": status["NoNewPrivs"].strip(), "root": refused(lambda: open("/opt/med42/x", "w")),
    "network": sorted(os.listdir("/sys/class/net")), "home": refused(lambda: pathlib.Path.home().joinpath("x").write_text("x")),
    "outside": refused(lambda: socket.create_connection(("192.0.2.1", 80), 2)),
}))
"""


@pytest.mark.parametrize("image", [DATA, TRAIN, EVALUATE, RELEASE])
def test_a_stage_is_nobody_and_reaches_nothing(containers, image, capfd):
    (containers.work / "look.py").write_text(LOOK)
    assert stage(containers, f"python3 {containers.work}/look.py", image) == (True, [])
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert found == {
        "uid": int(USER.partition(":")[0]), "gid": int(USER.partition(":")[2]), "effective": "0" * 16, "bounding": "0" * 16,
        "no_new_privileges": "1", "root": "OSError", "network": ["lo"], "home": None, "outside": "OSError",
    }


@pytest.mark.parametrize("image", [DATA, TRAIN, EVALUATE, RELEASE])
def test_an_image_works_for_an_arbitrary_user_and_says_what_it_is(engine, image):
    script = "import getpass, med42.errors, kfp.dsl.executor_main; print(getpass.getuser())"
    told = engine.containers.run(image, ["python3", "-c", script], remove=True, user="123456:0", read_only=True, network_mode="none",
                                 cap_drop=["ALL"], tmpfs={"/tmp": ""}, environment={"_KFP_RUNTIME": "true"})
    assert told == b"med42\n"
    details = engine.images.get(image)
    assert details.attrs["Config"]["User"] == "10001"
    assert details.labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert len(details.labels["org.opencontainers.image.revision"].removesuffix("-dirty")) == 40
    assert len(details.labels["med42.recipe-schema"]) == 40


def test_images_hold_no_more_than_their_stages_need(engine):
    def has(image, *packages):
        script = f"import importlib.util as u; print([p for p in {packages} if u.find_spec(p)])"
        return engine.containers.run(image, ["python3", "-c", script], remove=True, network_mode="none").decode().strip()

    heavy = ("torch", "transformers", "trl", "deepspeed", "lm_eval", "docker", "pytest")
    assert has(DATA, *heavy) == has(RELEASE, *heavy) == "[]"
    assert has(TRAIN, *heavy) == "['torch', 'transformers', 'trl', 'deepspeed']"
    assert has(EVALUATE, *heavy) == "['torch', 'transformers', 'lm_eval']"


# --- failures that do not look green ------------------------------------------------------------------------------


def test_an_exit_status_is_told(containers):
    assert stage(containers, "exit 3") == (False, [("mix_data", "exit status 3")])
    assert left(containers) == []


def test_success_without_the_outputs_is_a_failure(containers):
    missing = containers.run / "rows"
    succeeded, failures = stage(containers, "exit 0", rows=missing)
    assert not succeeded
    assert failures == [("mix_data", f"it ended with status 0 but left no {missing}")]
    assert stage(containers, f"mkdir {missing}", rows=missing)[0]


def test_a_stage_that_needs_too_much_memory_is_told(containers):
    containers.profile = load_profile("default").model_validate(
        {"name": "small", "title": "small", "pools": {"all": {}}, "tasks": {
            kind: {"pool": "all", "memory": "48Mi"} for kind in ("data", "train", "evaluate", "release")}})
    succeeded, failures = stage(containers, "python3 -c 'x = bytearray(200 << 20)'")
    assert not succeeded
    assert failures == [("mix_data", "out of memory: the limit is 48 MiB")]


@pytest.mark.parametrize("end", ["kill", "remove"])
def test_a_container_that_is_ended_from_outside_is_told(containers, end):
    def strike():
        for _ in range(400):
            with contextlib.suppress(docker.errors.APIError):  # as long as the engine is still making it
                if (running := left(containers)) and running[0].status == "running":
                    running[0].kill() if end == "kill" else running[0].remove(force=True)
                    return
            time.sleep(0.05)

    thread = threading.Thread(target=strike)
    thread.start()
    succeeded, [(name, cause)] = stage(containers, "sleep 60")
    thread.join()
    assert not succeeded and name == "mix_data"
    assert ("SIGKILL" in cause) if end == "kill" else ("SIGKILL" in cause or "removed from outside" in cause)


def test_fast_failures_are_never_taken_for_success(containers):
    results = [stage(containers, f"exit {number % 2}")[0] for number in range(12)]
    assert results == [number % 2 == 0 for number in range(12)]


# --- folders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["with space", "colon:comma,equals=", "ünïcode", "-dash"])
def test_folders_of_any_name_are_mounted(engine, tmp_path, name):
    run = tmp_path / name / "runs" / "r"
    make_folders(run)
    containers = Containers(engine, load_recipe("tiny"), load_profile("default"), tmp_path / name, run, None, "")
    containers.check([DATA])
    assert stage(containers, f"echo x > '{tmp_path / name}/out'", rows=tmp_path / name / "out") == (True, [])
    containers.end()


def test_a_work_folder_behind_a_link_and_under_a_strict_umask_is_written(engine, tmp_path):
    before = os.umask(0o077)
    try:
        make_folders(tmp_path / "real" / "runs" / "r")
    finally:
        os.umask(before)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    containers = Containers(engine, load_recipe("tiny"), load_profile("default"), tmp_path / "link", tmp_path / "link/runs/r", None, "")
    assert stage(containers, f"echo x > {tmp_path}/link/out", rows=tmp_path / "real" / "out") == (True, [])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder that the containers' user may not write")
def test_a_work_folder_that_the_user_cannot_write_is_told_before_the_first_stage(engine, tmp_path):
    (tmp_path / "work").mkdir()
    told = whole_run.run(tmp_path / "work", "tiny", "--runner", "docker")
    assert told.status == 1
    assert f"error {tmp_path}/work" in told.output and f"a folder that user {UID}:0 can write" in told.output
    assert "preflight" not in told.output


def test_the_data_root_is_mounted_read_only(containers, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    (data / "rows").write_text("rows")
    containers.data_root = data
    assert stage(containers, f"cat {data}/rows && ! touch {data}/more") == (True, [])


# --- engine and images --------------------------------------------------------------------------------------------


def test_no_engine_is_told(tmp_path):
    command = [whole_run.MED42, "run", "tiny", "--runner", "docker", "--work", tmp_path / "work"]
    told = subprocess.run(command, capture_output=True, text=True, check=False,
                          env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"})
    assert told.returncode == 1
    assert "--runner docker: found no engine" in told.stderr


def commit_after(engine, script, tag):
    """An image of the data stages that a script, run as root, has changed."""
    container = engine.containers.run(DATA, ["sh", "-c", script], user="0", detach=True)
    container.wait()
    container.commit("med42-data", tag)
    container.remove()


def test_a_missing_image_is_told(containers, refusal):
    assert "med42-nobody:0: found no such image on this engine" in refusal(lambda: containers.check(["med42-nobody:0"]))


def test_an_image_of_other_code_is_refused(containers, refusal):
    changed = "med42-data:changed-by-a-test"
    commit_after(containers.client, "echo '# changed' >> /opt/med42/med42/errors.py", "changed-by-a-test")
    try:
        told = refusal(lambda: containers.check([DATA, changed]))
    finally:
        containers.client.images.remove(changed)
    assert told.startswith(f"{changed}: found code of ") and "make images" in told


def test_a_foreign_image_is_refused(containers, refusal):
    commit_after(containers.client, "rm -r /opt/med42", "without-code")
    try:
        told = refusal(lambda: containers.check(["med42-data:without-code"]))
    finally:
        containers.client.images.remove("med42-data:without-code")
    assert "cannot tell its code" in told


def test_kfp_gets_its_own_handler_back(containers):
    from kfp.local import docker_task_handler

    original = docker_task_handler.DockerTaskHandler
    with contextlib.suppress(Med42Error), handling_tasks(containers):
        assert docker_task_handler.DockerTaskHandler is not original
        raise Med42Error("x", "x", "x", "x")
    assert docker_task_handler.DockerTaskHandler is original


def test_a_full_disk_is_told_by_the_build(tmp_path):
    """No engine is needed: the stand-in's client says what an engine with a full disk says."""
    client = tmp_path / "docker"
    client.write_text(f"#!{sys.executable}\nimport sys\n"
                      "if 'build' in sys.argv: sys.exit('failed to register layer: no space left on device')\n"
                      "print('Docker version 20.10.24')\n")
    client.chmod(0o755)
    root = Path(__file__).parents[2]
    told = subprocess.run([root / "images" / "build"], capture_output=True, text=True, check=False,
                          env={**os.environ, "DOCKER": str(client)})
    assert told.returncode == 1
    assert "no space left on device" in told.stderr and "images/base/Dockerfile: the build failed" in told.stderr


def test_a_stage_that_fetches_from_a_hub_has_a_network_and_the_hubs_settings(containers, capfd, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for stages")
    containers.recipe = load_recipe("llama3-8b")
    command = ["sh", "-c", "ls /sys/class/net; env", "stage", "--executor_input", "{}", "--function_to_execute"]
    assert containers.run_stage(DATA, [*command, "prepare_benchmarks"], {})
    told = capfd.readouterr().out
    assert "eth0" in told and "HF_ENDPOINT=http://hub.example" in told and "AWS" not in told
    assert containers.run_stage(DATA, [*command, "mix_data"], {})
    told = capfd.readouterr().out
    assert "eth0" not in told and "HF_ENDPOINT" not in told


def test_gpus_memory_and_shared_memory_come_from_recipe_and_profile(containers):
    containers.recipe, containers.profile = load_recipe("llama3-8b"), load_profile("single-pod")
    train = containers._hardened("train_sft")
    assert [(request["Count"], request["Capabilities"]) for request in train["device_requests"]] == [(8, [["gpu"]])]
    assert train["shm_size"] == train["mem_limit"] // 2 > 1 << 30
    assert "device_requests" not in containers._hardened("mix_data")


def test_a_signing_key_goes_to_the_stages_that_sign_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MED42_SIGNING_KEY", str(tmp_path / "key.pem"))
    for other in ("MED42_SIGNING_CERTIFICATE", "MED42_SIGNING_TOKEN", "MED42_SIGSTORE_TRUST"):
        monkeypatch.delenv(other, raising=False)
    for stage in ("push_model", "seal_audit"):
        assert signing_files(stage) == {"MED42_SIGNING_KEY": tmp_path / "key.pem"}
    monkeypatch.setenv("MED42_SIGNING_TOKEN", str(tmp_path / "token"))
    assert signing_files("seal_audit")["MED42_SIGNING_TOKEN"] == tmp_path / "token"
    for stage in ("preflight", "prepare_source", "decide_release"):
        assert signing_files(stage) == {}
