"""A training on several nodes: what is submitted, adopted, freed, tried again; against a stand-in API server, with the real client."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from kubernetes_server import ended, pod, scene, waiting
from node_training import finish, places

from med42.cluster.api import AwayError, connect
from med42.cluster.train_job import IDENTITY, NODES_VARIABLE, job_name, on_nodes
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome
from med42.lineage.journal import write_job
from med42.training.failures import LackOfMemoryError, PreemptedError, write_failure
from med42.training.train_dpo import train as train_dpo

BOTH = [pod(0), pod(1)]
WELL = [scene(), scene(pods=BOTH, log="[train_sft] progress done=1 total=7"), scene(log="[train_sft] progress done=7 total=7"),
        scene(done=True, then=finish)]
RUNTIME = Path(__file__).parents[2] / "manifests/trainer/med42-torch.yaml"


def leaves(rank: int, error: BaseException):
    """A scene's `then`: a process leaves word of what ended it."""
    return lambda job: write_failure(places(job).scratch, rank, error)


# --- what is submitted ----------------------------------------------------------------------------


def test_the_job_is_what_trainer_takes(body, wrong_in):
    job = body(queue="clinic-gpus", node_selector={"med42.io/pool": "h100"}, tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}],
               service_account="med42-train", pull_secrets=["registry"], cpu="180", memory="1500Gi", shared_memory="256Gi",
               env={"NCCL_SOCKET_IFNAME": "eth0"}, labels={"med42.io/recipe": "tiny"})
    assert wrong_in(job) == []


def test_the_runtime_is_what_trainer_takes(wrong_in):
    assert wrong_in(yaml.safe_load(RUNTIME.read_text())) == []


def test_a_plain_job_is_what_trainer_takes(body, wrong_in):
    assert wrong_in(body()) == []


def test_the_command_is_the_launch_contract(body, training):
    job = body("sft.devices.restarts=3")
    trainer, name = job["spec"]["trainer"], job["metadata"]["name"]
    assert trainer["command"] == ["python3"] and trainer["numNodes"] == 2
    words = trainer["args"]
    assert words[:3] == ["-m", "torch.distributed.run", "--rdzv-backend=static"]
    assert f"--rdzv-endpoint={name}-node-0-0.{name}:29500" in words
    assert {"--nnodes=2", "--nproc-per-node=4"} <= set(words)
    assert "--max-restarts=0" in words  # devices.restarts is counted by the launcher
    assert words[words.index("-m", 1) + 1] == "med42.training.train_sft"
    inputs = [word for word in words if word.startswith(("base=", "packed="))]
    store = training().store
    assert [Path(word.partition("=")[2]).parent.parent for word in inputs] == [store, store]
    assert trainer["resourcesPerNode"]["limits"] == {"nvidia.com/gpu": "4"}


def test_environment_goes_into_the_trainer_and_the_place_into_a_patch(body):
    job = body(env={"NCCL_SOCKET_IFNAME": "eth0"}, node_selector={"pool": "gpu"}, shared_memory="8Gi")
    assert {entry["name"] for entry in job["spec"]["trainer"]["env"]} == {"MED42_IMAGE", "NCCL_SOCKET_IFNAME"}
    [patch] = job["spec"]["runtimePatches"]
    [replicated] = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert [volume["name"] for volume in spec["volumes"]] == ["shared-0", "shm"]
    [container] = spec["containers"]
    assert container["name"] == "node" and "env" not in container


def test_the_launchers_pod_owns_the_job(body):
    assert body()["metadata"]["ownerReferences"] == [{"apiVersion": "v1", "kind": "Pod", "name": "launcher-1", "uid": "uid-launcher-1"}]


def test_a_round_of_dpo_has_a_job_of_its_own(cluster, training):
    one = training("dpo.devices.nodes=2", "dpo.devices.gpus_per_node=4", "dpo.pairs_per_device=1")
    cluster.scripts = [[scene(done=True, then=finish)]]
    one.draft.mkdir()
    launch = on_nodes(one.nodes.model_dump_json(), connect(5.0, pause=0.001), interval=0.001)
    launch(train_dpo, "train_dpo-2", one.recipe.dpo, one.recipe, one.inputs, one.draft, one.job)
    [job] = cluster.created
    assert job["metadata"]["name"].startswith("med42-dpo-2-") and job["metadata"]["labels"]["med42.io/stage"] == "train-dpo-2"
    assert "med42.training.train_dpo" in job["spec"]["trainer"]["args"]


def test_the_longest_name_leaves_room_for_a_host():
    assert len(job_name("train_dpo-10", "f" * 64) + "-node-0-127") <= 63


def test_one_node_trains_inside_the_task(cluster, training):
    """With Trainer there or not: nothing asks the cluster."""
    one = training("sft.devices.nodes=1", "sft.devices.gpus_per_node=0")

    def train_here(recipe, inputs, draft, scratch, job):
        return Outcome({"steps": len(inputs)})

    for nodes in ("", one.nodes.model_dump_json()):
        launch = on_nodes(nodes)
        assert launch(train_here, "train_sft", one.recipe.sft, one.recipe, one.inputs, one.draft, one.job).measured == {"steps": 2}
    assert not cluster.requests


# --- a job's life -----------------------------------------------------------------------------------


def test_a_job_is_followed_to_its_model(cluster, training, capsys):
    cluster.scripts = [WELL]
    one = training()
    outcome = one.launch()
    assert outcome.measured == {"steps": 7}
    assert outcome.observed["train_job"] | {"name": ""} == {"name": "", "attempts": 1, "restarts_allowed": 0, "lost": []}
    assert (one.draft / "weights" / "model.safetensors").read_bytes() == b"weights"
    assert one.states() == ["starting", "running", "complete"]
    printed = capsys.readouterr().out
    assert [printed.count(f"node 0 | [train_sft] progress done={done} total=7") for done in (1, 7)] == [1, 1]
    assert not cluster.jobs  # it is freed


def test_what_kueue_queues_waits_and_is_shown_as_queued(cluster, training):
    cluster.scripts = [[scene(suspend=True, says="couldn't assign flavors: insufficient unused quota for nvidia.com/gpu, 8 more needed"),
                        scene(suspend=True), scene(suspend=False), scene(pods=BOTH), scene(done=True, then=finish)]]
    one = training(queue="clinic-gpus", patience=1)
    one.launch()
    assert cluster.created[0]["spec"]["suspend"] is True
    assert cluster.created[0]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "clinic-gpus"
    assert one.states() == ["queued in clinic-gpus", "starting", "running", "complete"]
    assert "8 more needed" in one.told("train_job")[0]["why"]


def test_where_we_may_not_ask_kueue_the_place_is_not_known(cluster, training):
    cluster.forbidden.add(("list", "workloads"))
    cluster.scripts = [[scene(suspend=True, says="secret"), scene(suspend=False, pods=BOTH), scene(done=True, then=finish)]]
    one = training(queue="clinic-gpus")
    one.launch()
    assert one.told("train_job")[0]["why"] == "its place in the line is not known"


def test_who_suspends_a_job_is_told_how_to_let_it_run(cluster, training):
    cluster.scripts = [[scene(suspend=True), scene(suspend=False, pods=BOTH), scene(done=True, then=finish)]]
    one = training()
    one.launch()
    assert one.states()[0] == "suspended" and "lets it run" in one.told("train_job")[0]["why"]


def test_a_job_that_kueue_preempts_goes_on_when_it_is_its_turn_again(cluster, training):
    stopped = PreemptedError("train_sft", "SIGTERM at step 3 of 7", "time to finish", "Run it again.")
    old, new = [pod(0, going=True), pod(1, going=True)], [pod(0, uid="b0"), pod(1, uid="b1")]
    cluster.scripts = [[scene(suspend=False, pods=BOTH), scene(), scene(suspend=True, pods=old), scene(then=leaves(0, stopped)),
                        scene(suspend=False), scene(pods=new), scene(done=True, then=finish)]]
    one = training(queue="clinic-gpus")
    outcome = one.launch()
    assert outcome.observed["train_job"]["attempts"] == 1
    assert one.states() == ["running", "queued in clinic-gpus", "starting", "running", "complete"]
    assert not list((one.store / "train_jobs").glob("*/scratch-1/failure-*"))  # an end that was none is not told later


def test_a_restarted_launcher_adopts_the_running_job(cluster, training, monkeypatch):
    cluster.scripts = [[scene(pods=BOTH)]]
    one = training()
    cluster.forbidden.add(("list", "pods"))
    with pytest.raises(Med42Error, match="no permission"):
        one.launch()  # an end that leaves the job alone
    cluster.forbidden.clear()
    [name] = cluster.jobs
    cluster.scenes[name] = [scene(), scene(), scene(done=True, then=finish)]
    monkeypatch.setenv("KFP_POD_NAME", "launcher-2")
    monkeypatch.setenv("KFP_POD_UID", "uid-launcher-2")
    job = cluster.jobs[name]
    assert one.launch().measured == {"steps": 7}
    assert len(cluster.created) == 1
    assert job["metadata"]["ownerReferences"] == [{"apiVersion": "v1", "kind": "Pod", "name": "launcher-2", "uid": "uid-launcher-2"}]
    assert [entry["event"] for entry in one.told() if entry["event"] in ("submitted", "adopted")] == ["submitted", "adopted"]


def test_a_lost_answer_to_the_creation_makes_no_second_job(cluster, training):
    cluster.scripts = [WELL]
    cluster.unheard.add(("create", "trainjobs"))
    assert training().launch().measured == {"steps": 7}
    assert len(cluster.created) == 1 and cluster.requests.count("create trainjobs") == 2


def test_a_model_that_was_made_is_not_made_again(cluster, training):
    """The launcher ended while the model's record was being written."""
    cluster.scripts = [WELL]
    one = training()
    one.launch()
    (one.draft / "weights" / "model.safetensors").unlink()
    (one.draft / "weights").rmdir()
    assert one.launch().measured == {"steps": 7}
    assert len(cluster.created) == 1 and (one.draft / "weights" / "model.safetensors").is_file()


def test_another_recipe_is_another_job(cluster, training):
    cluster.scripts = [WELL, WELL]
    training().launch()
    training("sft.learning_rate=0.1").launch()
    first, second = (body["metadata"] for body in cluster.created)
    assert first["name"] != second["name"] and first["annotations"][IDENTITY] != second["annotations"][IDENTITY]


def test_models_that_are_in_their_artifacts_are_swept_away(cluster, training):
    cluster.scripts = [WELL, WELL]
    one = training()
    one.launch()
    [left] = (one.store / "train_jobs").iterdir()
    training("sft.learning_rate=0.1").launch()
    assert not left.exists()


# --- ends ---------------------------------------------------------------------------------------------

TAKEN = {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "making room"}]}
NODE_IS_LOST = {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
                                "message": "Taint manager: deleting due to NoExecute taint"}]}
LOST_PEER = RuntimeError("NCCL error: ncclRemoteError: A call failed possibly due to a network error or a remote process exiting.")
NO_PLACE = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                            "message": "0/9 nodes are available: 9 Insufficient nvidia.com/gpu."}]}
NO_CLAIM = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                            "message": 'persistentvolumeclaim "med42-work" not found'}]}


@pytest.mark.parametrize(("scenes", "kind", "words"), [
    ([scene(pods=[pod(0), pod(1, "Failed", **ended(137, "OOMKilled"))], failed="BackoffLimitExceeded")], LackOfMemoryError, "node 1 ("),
    ([scene(pods=BOTH, failed="BackoffLimitExceeded",
            then=leaves(3, LackOfMemoryError("train_sft", "out of memory: CUDA", "71 GB", "Lower it.")))], LackOfMemoryError,
     "found out of memory: CUDA; expected 71 GB. Lower it."),
    ([scene(pods=BOTH, failed="BackoffLimitExceeded", then=leaves(0, LOST_PEER))], Med42Error, "NCCL error: ncclRemoteError"),
    ([scene(pods=BOTH, log="RuntimeError: [rank1]: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3)"),
      scene(failed="BackoffLimitExceeded")], Med42Error, "Watchdog caught collective operation timeout"),
    ([scene(pods=[pod(0), pod(1, "Failed", **NODE_IS_LOST)], failed="BackoffLimitExceeded", then=leaves(0, LOST_PEER))], PreemptedError,
     "DeletionByTaintManager"),
    ([scene(pods=[pod(0), pod(1, "Failed", reason="NodeShutdown", message="Pod was terminated in response to imminent node shutdown.")],
            failed="BackoffLimitExceeded")], PreemptedError, "imminent node shutdown"),
    ([scene(pods=[pod(0, "Failed", reason="Evicted", message="Pod ephemeral local storage usage exceeds the total limit 10Gi.")],
            failed="BackoffLimitExceeded")], Med42Error, "Evicted: Pod ephemeral local storage"),
    ([scene(pods=BOTH, failed="BackoffLimitExceeded",
            then=leaves(0, Med42Error("train_sft, step 3", "loss nan", "a finite loss", "Lower the learning rate.")))], Med42Error,
     "train_sft, step 3: found loss nan; expected a finite loss. Lower the learning rate."),
    ([scene(pods=BOTH, failed="BackoffLimitExceeded", then=leaves(1, KeyError("labels")))], Med42Error, "KeyError: 'labels'"),
    ([scene(pods=[pod(0, "Failed", **ended(2))], failed="BackoffLimitExceeded")], Med42Error, "exit status 2 (Error), and no word of why"),
    ([scene(failed="TrainingRuntimeNotSupported", message='clustertrainingruntimes "med42-torch" not found')], Med42Error,
     'TrainingRuntimeNotSupported: clustertrainingruntimes "med42-torch" not found'),
    ([scene(pods=BOTH, failed="DeadlineExceeded", message="Job was active longer than specified deadline")], Med42Error, "longer than"),
], ids=["oom-killed", "out-of-memory", "nccl", "nccl-in-the-log", "spot", "shutdown", "evicted", "loss", "bug", "no-word", "no-runtime",
        "deadline"])
def test_a_failed_job_raises_with_the_reason_in_words(cluster, training, scenes, kind, words):
    cluster.scripts = [[scene(log="line before the end"), *scenes]]
    one = training()
    with pytest.raises(Med42Error) as told:
        one.launch()
    assert type(told.value) is kind
    assert words in str(told.value)
    if "pods" in scenes[0] and scenes[0]["pods"]:
        assert str(told.value).endswith("line before the end") or "The end of node 0's log:\n    line before the end" in str(told.value)
    assert not list(one.draft.iterdir())
    assert list(cluster.jobs), "a failed job stays, to be looked at"


@pytest.mark.parametrize(("pods", "cause", "words"), [
    ([pod(0, "Pending", **waiting("ImagePullBackOff", "Back-off pulling")), pod(1, "Pending")], "image", "ImagePullBackOff: Back-off"),
    ([pod(0, "Pending", **waiting("CreateContainerConfigError", 'secret "hub" not found'))], "configuration", 'secret "hub" not found'),
    ([pod(0, "Pending", **NO_CLAIM), pod(1, "Pending", **NO_CLAIM)], "configuration", 'persistentvolumeclaim "med42-work" not found'),
    ([pod(0), pod(1, "Pending", **NO_PLACE)], "unschedulable", "1 of 2 nodes: found no place for "),
    ([], "configuration", "2 of 2 pods: found not made: FailedCreate: exceeded quota: gpus"),
    ([pod(0, "Pending", **waiting("ContainerCreating")), pod(1, "Pending")], "configuration", "FailedMount: mount failed: timed out"),
])
def test_what_cannot_start_is_given_up_and_frees_its_machines(cluster, training, monkeypatch, pods, cause, words):
    cluster.scripts = [[scene(pods=pods)]]
    one = training(patience=1)
    monkeypatch.setattr("med42.cluster.follow.SURE", 0.2)
    name = job_name("train_sft", "")
    reason = ("FailedMount", "mount failed: timed out") if pods else ("FailedCreate", "exceeded quota: gpus")
    cluster.events = [{"metadata": {}, "reason": reason[0], "message": reason[1], "involvedObject": {"name": f"{name}x-node-0"}}]
    monkeypatch.setattr("med42.cluster.train_job.job_name", lambda stage, identity: f"{name}x")
    with pytest.raises(Med42Error) as told:
        one.launch()
    assert words in str(told.value)
    assert not cluster.jobs
    assert json.loads((one.store / "train_jobs" / f"{name}x" / "attempts.json").read_text())[0]["cause"] == cause
    cluster.scripts = [WELL]  # mended, and tried again by the engine
    assert one.launch().measured == {"steps": 7}


def test_nodes_that_come_one_by_one_are_waited_for(cluster, training, monkeypatch):
    """A cluster that adds machines takes its time; each that comes starts the clock again."""
    nowhere = pod(1, "Pending", **NO_PLACE)
    cluster.scripts = [[scene(pods=[pod(0, "Pending", **NO_PLACE), nowhere]), scene(pods=[pod(0), nowhere]), scene(pods=BOTH),
                        scene(done=True, then=finish)]]
    one = training()
    one.launch()
    assert one.states() == ["starting", "running", "complete"]


def test_a_lost_spot_node_is_made_good_within_the_budget(cluster, training):
    lost = scene(pods=[pod(0), pod(1, "Failed", **TAKEN)], failed="BackoffLimitExceeded", then=leaves(0, LOST_PEER))
    cluster.scripts = [[scene(pods=BOTH), lost], [scene(pods=BOTH), lost], WELL]
    one = training("sft.devices.restarts=2")
    outcome = one.launch()
    account = outcome.observed["train_job"]
    assert (account["attempts"], account["restarts_allowed"]) == (3, 2)
    assert [entry["cause"] for entry in account["lost"]] == ["preempted", "preempted"]
    assert "PreemptionByScheduler" in account["lost"][0]["found"]
    assert [entry["tried_again"] for entry in one.told("lost")] == ["1 of 2 times", "2 of 2 times"]
    assert len({body["metadata"]["name"] for body in cluster.created}) == 1 and len(cluster.created) == 3
    assert [body["metadata"]["annotations"]["med42.io/attempt"] for body in cluster.created] == ["1", "2", "3"]


def test_a_new_job_waits_until_the_old_pods_are_gone(cluster, training):
    lost = scene(pods=[pod(0), pod(1, "Failed", **TAKEN)], failed="BackoffLimitExceeded")
    cluster.scripts, cluster.lingers = [[lost], WELL], 5
    assert training("sft.devices.restarts=1").launch().observed["train_job"]["attempts"] == 2


def test_pods_that_do_not_go_are_named(cluster, training):
    lost = scene(pods=[pod(0), pod(1, "Failed", **TAKEN)], failed="BackoffLimitExceeded")
    cluster.scripts, cluster.lingers = [[lost], WELL], 10**6
    with pytest.raises(Med42Error, match=r"still there 1 s after it was deleted, with node 0 \(.* on machine-0\), node 1 .*kubectl delete"):
        training("sft.devices.restarts=1", patience=1).launch()
    assert len(cluster.created) == 1


def test_a_budget_that_is_spent_ends_the_training(cluster, training):
    lost = scene(pods=[pod(0), pod(1, "Failed", **TAKEN)], failed="BackoffLimitExceeded")
    cluster.scripts = [[lost], [lost], WELL]
    one = training("sft.devices.restarts=1")
    with pytest.raises(PreemptedError, match=r"That was loss 2, and devices\.restarts allows 1\."):
        one.launch()
    assert len(cluster.created) == 2
    with pytest.raises(Med42Error, match="Not tried again"):  # nor by the engine's own retry
        one.launch()
    assert len(cluster.created) == 2


def test_a_loss_is_not_forgotten_with_its_launcher(cluster, training):
    lost = scene(pods=[pod(0), pod(1, "Failed", **TAKEN)], failed="BackoffLimitExceeded")
    cluster.scripts = [[lost], [scene(pods=BOTH)]]
    one = training("sft.devices.restarts=1")
    cluster.forbidden.add(("get", "pods/log"))
    with pytest.raises(Med42Error, match="no permission"):
        one.launch()
    cluster.forbidden.clear()
    [name] = cluster.jobs
    cluster.scenes[name], cluster.scripts = [lost], [WELL]
    outcome = one.launch()
    assert len(outcome.observed["train_job"]["lost"]) == 1


def test_what_would_end_the_same_is_not_tried_again_in_the_same_run(cluster, training):
    bug = scene(pods=BOTH, failed="BackoffLimitExceeded", then=leaves(0, KeyError("labels")))
    cluster.scripts = [[bug], WELL]
    one = training("sft.devices.restarts=5")
    with pytest.raises(Med42Error, match="KeyError"):
        one.launch()
    with pytest.raises(Med42Error, match=r"same training in this run before.*KeyError.*Not tried again"):
        one.launch()
    assert len(cluster.created) == 1
    assert training("sft.devices.restarts=5", run="run-2").launch().measured == {"steps": 7}  # a new run may


def test_a_job_that_someone_deletes_is_no_success(cluster, training):
    cluster.scripts = [[scene(pods=BOTH), scene(then=lambda job: cluster.jobs.clear())]]
    with pytest.raises(Med42Error, match="deleted by someone else"):
        training().launch()


def test_complete_without_an_outcome_is_no_success(cluster, training, monkeypatch):
    monkeypatch.setattr("med42.cluster.train_job.SEEN_AFTER", 0.05)
    cluster.scripts = [[scene(pods=BOTH, done=True)]]
    with pytest.raises(Med42Error, match="Complete, and no outcome"):
        training().launch()


def test_an_outcome_that_the_volume_shows_late_is_waited_for(cluster, training):
    cluster.scripts = [[scene(pods=BOTH, done=True, then=lambda job: threading.Timer(0.2, finish, [job]).start())]]
    assert training().launch().measured == {"steps": 7}


COMPONENT = """
import sys
from pathlib import Path
from med42.cluster.train_job import on_nodes
from med42.lineage.journal import read_job
from med42.training.train_sft import train_sft
recipe, job = read_job(sys.argv[1])
train_sft(recipe, *map(Path, sys.argv[2:]), job, on_nodes(interval=0.01))
"""


def test_a_cancelled_run_frees_its_job(cluster, training, tmp_path):
    """The engine ends a component by SIGTERM."""
    cluster.scripts = [[scene(pods=BOTH)]]
    one = training()
    write_job(tmp_path / "job.json", one.recipe, one.job)
    component = subprocess.Popen(
        [sys.executable, "-c", COMPONENT, tmp_path / "job.json", one.inputs["base"], one.inputs["packed"], tmp_path / "out"],
        env={**os.environ, NODES_VARIABLE: one.nodes.model_dump_json()}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 60
    while "get pods/log" not in cluster.requests:
        assert component.poll() is None and time.monotonic() < until, component.communicate()[0]
        time.sleep(0.01)
    component.send_signal(signal.SIGTERM)
    told = component.communicate(timeout=60)[0]
    assert component.returncode != 0 and "SIGTERM to the launcher" in told
    assert not cluster.jobs and cluster.requests[-1] == "delete trainjobs"
    assert not (tmp_path / "out").exists()


ABANDONED = """
import pathlib, signal, sys, threading, time
from med42.training.launch import end_when_abandoned
signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
threading.Thread(target=end_when_abandoned, args=(pathlib.Path(sys.argv[1]), 0.5, 0.02), daemon=True).start()
time.sleep(30)
"""


def test_a_training_that_nobody_follows_ends(tmp_path):
    """The component was killed, and no other came."""
    (tmp_path / "followed").touch()
    training = subprocess.Popen([sys.executable, "-c", ABANDONED, tmp_path / "followed"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True)
    until = time.monotonic() + 2
    while time.monotonic() < until:  # somebody follows it
        (tmp_path / "followed").touch()
        assert training.poll() is None
        time.sleep(0.05)
    told = training.communicate(timeout=20)[0]
    assert "nobody waits for this training any more" in told and told.endswith("told to end\n")


def test_a_follower_leaves_its_mark(cluster, training):
    marks = []
    cluster.scripts = [[scene(pods=BOTH, then=lambda job: marks.append((places(job).scratch / "followed").stat().st_mtime_ns)),
                        scene(then=lambda job: time.sleep(0.02)),
                        scene(then=lambda job: marks.append((places(job).scratch / "followed").stat().st_mtime_ns)), *WELL[-1:]]]
    training().launch()
    assert marks[0] < marks[1]


# --- the API server ---------------------------------------------------------------------------------


def test_a_server_that_is_away_for_a_while_is_waited_for(cluster, training):
    def goes(job):
        cluster.away = 5

    cluster.scripts = [[scene(pods=BOTH, then=goes), scene(), scene(done=True, then=finish)]]
    assert training().launch().measured == {"steps": 7}


def test_a_server_that_stays_away_leaves_the_job_to_be_adopted(cluster, training):
    def goes(job):
        cluster.away = -1

    cluster.scripts = [[scene(pods=BOTH), scene(then=goes)]]
    one = training()
    with pytest.raises(AwayError, match=r"no answer for 0 s.*A training that runs goes on; run this again, and it is followed again"):
        one.launch(away=0.2)
    [name] = cluster.jobs
    cluster.away, cluster.scenes[name] = 0, [scene(done=True, then=finish)]
    assert one.launch().measured == {"steps": 7}
    assert len(cluster.created) == 1


@pytest.mark.parametrize(("verb", "resource"), [("create", "trainjobs"), ("get", "trainjobs"), ("list", "pods"), ("get", "pods/log"),
                                                ("patch", "trainjobs"), ("delete", "trainjobs")])
def test_what_is_not_permitted_is_named_by_verb_and_resource(cluster, training, verb, resource):
    cluster.scripts = [WELL]
    one = training()
    if verb == "patch":
        cluster.away, _ = 0, cluster.forbidden.add(("list", "pods"))
        with pytest.raises(Med42Error):
            one.launch()
        cluster.forbidden.clear()
    cluster.forbidden.add((verb, resource))
    group = ".trainer.kubeflow.org" if resource == "trainjobs" else ""
    with pytest.raises(Med42Error) as told:
        one.launch()
    assert f"{verb} {resource}{group} in namespace clinic: found no permission" in str(told.value)
    assert f"expected a role that allows verb '{verb}' on '{resource}{group}'" in str(told.value)


def test_trainer_of_another_version_is_told(cluster, training):
    cluster.refuse = (400, 'TrainJob in version "v1alpha1" cannot be handled: strict decoding error: unknown field "spec.runtimePatches"')
    with pytest.raises(Med42Error, match=r"of another version .*spec\.runtimePatches.*Update Kubeflow Trainer to 2\.2 or newer"):
        training().launch()


def test_a_cluster_without_trainer_is_told(cluster, training):
    cluster.refuse = (404, "404 page not found")
    with pytest.raises(Med42Error, match=r"expected Kubeflow Trainer with trainer\.kubeflow\.org/v1alpha1.*devices\.nodes=1"):
        training().launch()


def test_a_webhook_that_refuses_is_quoted(cluster, training):
    cluster.refuse = (422, 'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: runtime "x" not found')
    with pytest.raises(Med42Error, match=r'refused with 422 .*runtime "x" not found'):
        training().launch()


def test_a_token_that_is_refused_tells_how_far_the_clocks_are_apart(cluster, training):
    one = training()
    cluster.token, cluster.clock = "another", 3600.0
    with pytest.raises(Med42Error, match=r"with its clock 3,(599|600) s ahead of ours.*clocks agree"):
        one.launch()


@pytest.mark.parametrize("clock", [-86400.0, 86400.0])
def test_a_server_with_another_clock_changes_nothing(cluster, training, clock):
    cluster.clock = clock
    cluster.scripts = [[scene(suspend=True), *WELL[:1], scene(suspend=False), *WELL[1:]]]
    one = training(queue="clinic-gpus", patience=1)
    assert one.launch().measured == {"steps": 7}
    assert all(int(entry.get("seconds", 0)) < 60 for entry in one.told("train_job"))


# --- bad input --------------------------------------------------------------------------------------


def test_a_store_that_the_nodes_do_not_share_is_refused(cluster, training):
    one = training(mounts=[{"claim": "other", "path": "/somewhere"}])
    with pytest.raises(Med42Error, match="expected a folder below /somewhere, which all nodes share"):
        one.launch()
    assert not cluster.requests


def test_nodes_that_are_not_what_compiling_writes_are_refused():
    with pytest.raises(Med42Error, match=r"unknown key 'imagee'; the nearest known key is 'image'"):
        on_nodes('{"imagee": "x", "mounts": [{"claim": "a", "path": "/a"}]}')


def test_without_trainer_several_nodes_are_refused(training, cluster):
    one = training()
    with pytest.raises(Med42Error, match="run it on a cluster with Kubeflow Trainer"):
        on_nodes("")(None, "train_sft", one.recipe.sft, one.recipe, one.inputs, one.draft, one.job)


def test_outside_a_cluster_the_way_in_is_named(training, cluster, monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(Med42Error, match="no service account and no kubeconfig"):
        training().launch()


def test_a_job_of_the_same_name_that_is_another_is_left_alone(cluster, training):
    one = training()
    cluster.scripts = [WELL]
    one.launch()
    stranger = cluster.created[0]
    stranger["metadata"]["annotations"][IDENTITY] = "0" * 64
    cluster.add(stranger)
    (one.store / "train_jobs" / stranger["metadata"]["name"] / "scratch-1" / "outcome.json").unlink()
    with pytest.raises(Med42Error, match=r"a job that is not this training's.*Delete it"):
        one.launch()
