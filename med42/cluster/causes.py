"""What ended a training on several nodes, or keeps it from starting: told apart by what its pods, its processes and its log say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from med42.errors import Med42Error
from med42.training.failures import CrashError, LackOfMemoryError, PreemptedError, lost_peers

Cause = Literal["preempted", "network", "memory", "evicted", "image", "configuration", "unschedulable", "deadline", "deleted", "stopped",
                "failed"]

# The same training may end well on other nodes, and is tried there at once.
PASSING: tuple[Cause, ...] = ("preempted", "network")
# It would end the same. What is in neither (no place, no image, a claim that is not there) may be mended meanwhile.
FINAL: tuple[Cause, ...] = ("memory", "evicted", "deadline", "stopped", "failed")

IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable"}
CONFIGURATION = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError", "PreStartHookError"}
NODE_IS_GOING = {"Shutdown", "NodeShutdown", "Terminated", "NodeLost", "Preempting", "NodeAffinity"}
REMEDIES: dict[Cause, str] = {
    "image": "See that the image is in the registry under this digest, and that the namespace has the secret to pull it.",
    "configuration": "Mend what the message names: a secret, a volume claim, a quota or a policy of the namespace.",
    "unschedulable": "Give the pool more nodes, or ask for fewer (devices.nodes); `med42 plan` says how many are needed.",
    "evicted": "Give the pods more of what ran out (the profile's memory or disk).",
    "memory": "Give the pods more memory in the cluster profile.",
    "network": "Look at the network between the nodes: NCCL_DEBUG=INFO in the runtime shows which interface is used.",
    "preempted": "Run it again: it goes on from its last checkpoint. devices.restarts says how often that is done by itself.",
    "deadline": "Give it more time.",
    "deleted": "Run it again: it goes on from its last checkpoint.",
    "stopped": "Look at the log above.",
    "failed": "The log above has its traceback.",
}


@dataclass(frozen=True)
class Pod:
    """What is known of one node of a training.

    Attributes:
        name: of the pod.
        uid: of the pod.
        index: which node it is; 0 is the meeting point.
        node: the machine, where it has one.
        phase: as Kubernetes calls it.
        waiting: why its container does not start: reason and message.
        ended: how its container ended: reason, exit code.
        disrupted: who took it away, and why.
        unscheduled: what the scheduler says.
        reason: the kubelet's, of the whole pod, with its message.
        going: whether it is being deleted.
    """

    name: str
    uid: str
    index: int
    node: str = ""
    phase: str = "Pending"
    waiting: tuple[str, str] | None = None
    ended: tuple[str, int] | None = None
    disrupted: str = ""
    unscheduled: str = ""
    reason: tuple[str, str] = ("", "")
    going: bool = False

    @property
    def where(self) -> str:
        """The pod, in words."""
        return f"node {self.index} ({self.name}{f' on {self.node}' if self.node else ''})"


@dataclass(frozen=True)
class End:
    """Why a training ended, in words."""

    cause: Cause
    where: str
    found: str
    expected: str
    remedy: str

    def error(self, more: str = "") -> Med42Error:
        """What the stage raises."""
        kind = {"preempted": PreemptedError, "memory": LackOfMemoryError}.get(self.cause, Med42Error)
        return kind(self.where, self.found, self.expected, self.remedy + more)


def read_pod(value: dict[str, Any]) -> Pod:
    """What matters of a pod."""
    metadata, spec, status = value["metadata"], value.get("spec", {}), value.get("status", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    states = [told.get("state", {}) for told in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]]
    waiting = next((state["waiting"] for state in states if state.get("waiting")), None)
    ended = next((state["terminated"] for state in states if state.get("terminated") and state["terminated"].get("exitCode")), None)
    disrupted, scheduled = conditions.get("DisruptionTarget", {}), conditions.get("PodScheduled", {})
    index = {**(metadata.get("annotations") or {}), **(metadata.get("labels") or {})}.get("batch.kubernetes.io/job-completion-index", "0")
    return Pod(
        metadata["name"], metadata.get("uid", ""), int(index), spec.get("nodeName") or "", status.get("phase", "Pending"),
        waiting and (waiting.get("reason", ""), waiting.get("message", "")), ended and (ended.get("reason", ""), ended["exitCode"]),
        f"{disrupted.get('reason')}: {disrupted.get('message')}" if disrupted.get("status") == "True" else "",
        scheduled.get("message") or scheduled.get("reason") or "" if scheduled.get("status") == "False" else "",
        (status.get("reason") or "", status.get("message") or ""), "deletionTimestamp" in metadata,
    )


def remembered(before: Pod | None, now: Pod) -> Pod:
    """A pod as it is now, with what it was seen to end of: a later look may no longer show it."""
    if before is None or before.uid != now.uid:
        return now
    return replace(now, ended=now.ended or before.ended, disrupted=now.disrupted or before.disrupted,
                   reason=now.reason if now.reason[0] else before.reason)


def obstacle(pods: Sequence[Pod], nodes: int, warnings: Sequence[str] = ()) -> tuple[End, bool] | None:
    """What keeps a training from starting.

    Args:
        pods: those that there are.
        nodes: how many there should be.
        warnings: what the cluster says of the objects around them.

    Returns:
        Why it does not start, and whether that seldom passes by itself; None where all nodes run.
    """
    for pod in pods:
        if pod.waiting and pod.waiting[0] in IMAGE | CONFIGURATION:
            image = pod.waiting[0] in IMAGE
            return _end("image" if image else "configuration", pod.where, ": ".join(part for part in pod.waiting if part),
                        "an image that can be pulled" if image else "a container that can be made"), True
    if homeless := [pod for pod in pods if pod.unscheduled]:
        pod = homeless[0]
        if "persistentvolumeclaim" in pod.unscheduled:
            return _end("configuration", pod.where, pod.unscheduled, "volume claims that are there and bound"), True
        return _end("unschedulable", f"{len(homeless)} of {nodes} nodes", f"no place for {pod.name}: {pod.unscheduled}",
                    f"room for {nodes} nodes at once"), False
    told = "; ".join(warnings[-3:]) or "no word of why"
    if len(pods) < nodes:
        return _end("configuration", f"{nodes - len(pods)} of {nodes} pods", f"not made: {told}", "a pod for every node"), False
    if slow := [pod for pod in pods if pod.phase == "Pending"]:
        return _end("configuration", slow[0].where, f"not started: {told}", "a container that starts"), False
    return None


def end_of(name: str, condition: dict[str, Any], pods: Sequence[Pod], told: Med42Error | None, tail: Sequence[str]) -> End:
    """Why a training failed.

    What its own processes say of themselves (a loss that is no number, too little memory) explains the most, then what became of
    the machines, then what the rest saw of it: lost peers.

    Args:
        name: of the TrainJob.
        condition: its condition `Failed`.
        pods: as they were last seen.
        told: the error that a process left word of and that explains the others'.
        tail: the last lines of node 0's log.
    """
    killed = next((pod for pod in pods if pod.ended and pod.ended[0] == "OOMKilled"), None)
    gone = next((pod for pod in pods if pod.disrupted or pod.reason[0] in NODE_IS_GOING), None)
    evicted = next((pod for pod in pods if pod.reason[0] == "Evicted"), None)
    if isinstance(told, LackOfMemoryError):
        return End("memory", told.where, told.found, told.expected, told.remedy)
    if killed:
        return _end("memory", killed.where, "OOMKilled: the pod used more of the machine's memory than it may", "a pod within its limit")
    if told is not None and not isinstance(told, PreemptedError | CrashError):
        return End("stopped", told.where, told.found, told.expected, told.remedy)
    if condition.get("reason") in ("DeadlineExceeded", "TrainJobDeadlineExceeded"):
        return _end("deadline", name, str(condition.get("message")), "an end within activeDeadlineSeconds")
    if evicted and not evicted.disrupted.startswith(("PreemptionByScheduler", "EvictionByEvictionAPI", "DeletionByTaintManager")):
        return _end("evicted", evicted.where, f"Evicted: {evicted.reason[1]}", "a pod within its limits")
    if gone:
        return _end("preempted", gone.where, gone.disrupted or ": ".join(gone.reason), "the node until the end")
    if isinstance(told, PreemptedError):
        return End("preempted", told.where, told.found, told.expected, told.remedy)
    # Where a process left word, its own; the log holds the others' too, who lost it.
    if lost := next((line for line in (reversed(tail) if told is None else [told.found]) if lost_peers(line)), ""):
        return _end("network", told.where if told is not None else "node 0", lost[:300], "processes that reach one another")
    if (met := obstacle(pods, len(pods))) and met[1]:
        return met[0]
    if told is not None:
        return End("failed", told.where, told.found, told.expected, told.remedy)
    first = next((pod for pod in pods if pod.ended), None)
    if first and first.ended:
        return _end("failed", first.where, f"exit status {first.ended[1]} ({first.ended[0]}), and no word of why", "exit status 0")
    cause: Cause = "configuration" if not pods else "failed"
    words = f"{condition.get('reason', 'Failed')}: {condition.get('message', 'no word of why')}"
    return _end(cause, f"TrainJob {name}", words, "success")


def _end(cause: Cause, where: str, found: str, expected: str) -> End:
    return End(cause, where, " ".join(found.split()), expected, REMEDIES[cause])
