"""Following a TrainJob to its end: what it waits for, node 0's log as it is written, and why it ended.

Only this process's own monotonic clock is asked for durations: the cluster's clocks may be others.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from pathlib import Path
from typing import Any

from med42.cluster.api import Cluster
from med42.cluster.causes import REMEDIES, End, Pod, end_of, obstacle, read_pod, remembered
from med42.lineage.journal import Job
from med42.training.failures import first_failure
from med42.training.launch import FOLLOWED

TOLD_EVERY = 60.0  # seconds, while nothing changes
SURE = 180.0  # seconds for which an image may not be pulled, or a container not be made, before it is believed
KEPT_LINES = 20


class Follower:
    """A TrainJob that is being followed.

    Attributes:
        holds_nodes: whether it was given up while some of its pods had machines.
    """

    def __init__(self, cluster: Cluster, name: str, nodes: int, stage: str, job: Job, scratch: Path, patience: float,
                 interval: float) -> None:
        self.cluster, self.name, self.nodes, self.stage, self.job, self.scratch = cluster, name, nodes, stage, job, scratch
        self.patience, self.interval, self.holds_nodes = patience, interval, False
        self._pods: dict[str, Pod] = {}
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._read: tuple[str, str, float] = ("", "", 0.0)  # the pod whose log was read, its last line's time, and when that was
        self._state, self._since, self._told = "", time.monotonic(), 0.0
        self._stuck: tuple[tuple[Any, ...], float] = ((), 0.0)

    def to_the_end(self) -> End | None:
        """Follow the job until it ends, or cannot begin.

        Returns:
            None where it completed, else why it did not.

        Raises:
            Med42Error: the cluster does not answer, or does not let us look. The job goes on.
        """
        while True:
            found = self.cluster.train_job(self.name)
            if found is None or found["metadata"].get("deletionTimestamp"):
                return End("deleted", f"TrainJob {self.name}", "deleted by someone else", "a job that is left alone", REMEDIES["deleted"])
            self._look()
            with contextlib.suppress(OSError):
                (self.scratch / FOLLOWED).touch()
            conditions = {condition["type"]: condition for condition in found.get("status", {}).get("conditions", [])
                          if condition["status"] == "True"}
            if "Complete" in conditions:
                self._tell("complete")
                return None
            if failed := conditions.get("Failed"):
                self._tell("failed", str(failed.get("message", "")))
                return end_of(self.name, failed, list(self._pods.values()), first_failure(self.scratch), self._lines)
            if found["spec"].get("suspend"):
                self._wait_in_line(found)
            elif end := self._start():
                return end
            time.sleep(self.interval)

    def tail(self) -> str:
        """The end of node 0's log, to be put after an error."""
        return "\nThe end of node 0's log:\n" + "\n".join(f"    {line}" for line in self._lines) if self._lines else ""

    def _look(self) -> None:
        """See what has become of the pods, and read on in node 0's log."""
        for value in self.cluster.pods(self.name):
            pod = read_pod(value)
            self._pods[pod.name] = remembered(self._pods.get(pod.name), pod)
        first = next((pod for pod in reversed(self._pods.values()) if pod.index == 0 and pod.phase != "Pending"), None)
        if first is None:
            return
        uid, last, at = self._read
        seconds = int(time.monotonic() - at) + 10 if uid == first.uid else None
        now = time.monotonic()
        for line in self.cluster.log(first.name, seconds):
            stamp, _, words = line.partition(" ")
            if uid == first.uid and stamp <= last:
                continue
            uid, last = first.uid, stamp
            self._lines.append(words)
            print(f"node 0 | {words}", flush=True)
        self._read = (uid, last, now)

    def _wait_in_line(self, found: dict[str, Any]) -> None:
        """Wait for as long as it takes; who is queued again after it ran was asked to make room, and goes on later."""
        for path in self.scratch.glob("failure-*.json"):
            path.unlink()
        self._pods.clear()
        self._stuck = ((), 0.0)
        queue = found["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
        why = (self.cluster.queue_says(found["metadata"].get("uid", "")) or "its place in the line is not known") if queue else (
            f"suspended by someone: kubectl patch trainjob {self.name} --type merge -p '{{\"spec\":{{\"suspend\":false}}}}' lets it run")
        self._tell(f"queued in {queue}" if queue else "suspended", why)

    def _start(self) -> End | None:
        """See that all nodes start; why they do not, where that has lasted too long."""
        pods = list(self._pods.values())
        running = sum(1 for pod in pods if pod.phase != "Pending" and not pod.going)
        if running >= self.nodes:
            self._tell("running", f"{self.nodes} nodes")
            return None
        now, met = time.monotonic(), obstacle(pods, self.nodes)
        seen = (met and met[0].cause, len(pods), running)
        if seen != self._stuck[0]:
            self._stuck = (seen, now)
        self._tell("starting", f"{running} of {self.nodes} nodes run" + (f"; {met[0].where}: {met[0].found}" if met and pods else ""))
        if met is None or now - self._stuck[1] < (min(SURE, self.patience) if met[1] else self.patience):
            return None
        self.holds_nodes = True
        if not met[1]:  # the objects around the pods may know more
            met = obstacle(pods, self.nodes, self.cluster.warnings(self.name)) or met
        return met[0]

    def _tell(self, state: str, why: str = "") -> None:
        now, facts = time.monotonic(), {"why": why} if why else {}
        if state != self._state:
            self._since = now
        elif now - self._told < TOLD_EVERY or state == "running":
            return
        if waited := round(now - self._since):
            facts |= {"seconds": str(waited)}
        self._state, self._told = state, now
        self.job.tell(self.stage, "train_job", state=state, **facts)
