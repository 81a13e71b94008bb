"""The cluster's API server, as a launcher of trainings speaks to it: few verbs, patient, and plain about what it may not do.

The plain Kubernetes client: a training needs a dozen calls, and the Kubeflow SDK cannot adopt a job, own it or read why it waits.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from med42.errors import Med42Error

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
QUEUE_GROUP, QUEUE_VERSIONS = "kueue.x-k8s.io", ("v1beta2", "v1beta1")
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
TIMEOUT = (5, 30)  # seconds to connect, and to wait for the next byte
LONGEST_PAUSE = 30.0


class AwayError(Med42Error):
    """The API server was not to be reached for too long; what it was asked for may still be going on."""


@dataclass(frozen=True)
class Cluster:
    """A namespace of a cluster.

    Attributes:
        client: of the `kubernetes` package.
        namespace: where trainings are.
        away: seconds for which the API server may be away.
        pause: seconds before the first new try; twice as long before each other one.
    """

    client: Any
    namespace: str
    away: float = 900.0
    pause: float = 1.0

    def train_job(self, name: str) -> dict[str, Any] | None:
        """A TrainJob; None where there is none."""
        return self._or_none("get", PLURAL, lambda: self._objects().get_namespaced_custom_object(
            GROUP, VERSION, self.namespace, PLURAL, name, _request_timeout=TIMEOUT))

    def create_train_job(self, body: dict[str, Any]) -> None:
        """Create a TrainJob, unless one of its name is there. Fields that the cluster's version does not know are refused."""
        self._ask("create", PLURAL, lambda: self._objects().create_namespaced_custom_object(
            GROUP, VERSION, self.namespace, PLURAL, body, field_validation="Strict", _request_timeout=TIMEOUT), there=None)

    def own_train_job(self, name: str, owners: list[dict[str, Any]]) -> None:
        """Make pods the owners of a TrainJob, in the place of all before: when they go, it goes."""
        self._or_none("patch", PLURAL, lambda: self._objects().patch_namespaced_custom_object(
            GROUP, VERSION, self.namespace, PLURAL, name, {"metadata": {"ownerReferences": owners}}, _request_timeout=TIMEOUT))

    def delete_train_job(self, name: str) -> None:
        """Delete a TrainJob; it is gone when its pods are."""
        self._or_none("delete", PLURAL, lambda: self._objects().delete_namespaced_custom_object(
            GROUP, VERSION, self.namespace, PLURAL, name, propagation_policy="Foreground", _request_timeout=TIMEOUT))

    def pods(self, train_job: str) -> list[dict[str, Any]]:
        """The pods of a TrainJob, as plain values: the client's own classes refuse what a newer cluster adds."""
        found = self._ask("list", "pods", lambda: self._core().list_namespaced_pod(
            self.namespace, label_selector=f"jobset.sigs.k8s.io/jobset-name={train_job}", _request_timeout=TIMEOUT, _preload_content=False))
        return list(json.loads(found.data)["items"])

    def log(self, pod: str, seconds: int | None) -> list[str]:
        """Lines of the last seconds of a pod's log, each led by its time; all of them, or none where there is no log yet."""
        text = self._or_none("get", "pods/log", lambda: self._core().read_namespaced_pod_log(
            pod, self.namespace, container="node", timestamps=True, since_seconds=seconds, _request_timeout=TIMEOUT,
            _preload_content=False).data, unready=True)
        return [] if text is None else text.decode("utf-8", "replace").splitlines()

    def queue_says(self, uid: str) -> str:
        """Why Kueue lets a TrainJob wait; nothing where it does not say, or where we may not ask."""
        for version in QUEUE_VERSIONS:
            try:
                found = self._or_none("list", "workloads", functools.partial(
                    self._objects().list_namespaced_custom_object, QUEUE_GROUP, version, self.namespace, "workloads",
                    label_selector=f"kueue.x-k8s.io/job-uid={uid}", _request_timeout=TIMEOUT))
            except Med42Error:
                return ""
            for workload in (found or {}).get("items", []):
                waiting = [told for told in workload.get("status", {}).get("conditions", [])
                           if told["type"] in ("QuotaReserved", "Admitted") and told["status"] == "False"]
                if waiting:
                    return str(waiting[0].get("message", ""))
        return ""

    def warnings(self, name: str) -> list[str]:
        """What went wrong with a TrainJob's own objects (no quota, a policy, a volume), newest last; nothing where we may not ask."""
        try:
            found = self._ask("list", "events", lambda: self._core().list_namespaced_event(
                self.namespace, field_selector="type=Warning", _request_timeout=TIMEOUT, _preload_content=False))
        except Med42Error:
            return []
        events = [event for event in json.loads(found.data)["items"]
                  if event["involvedObject"].get("name", "").startswith(name)]
        return list(dict.fromkeys(f"{event.get('reason')}: {event.get('message')}" for event in events))

    def _objects(self) -> Any:
        from kubernetes import client

        return client.CustomObjectsApi(self.client)

    def _core(self) -> Any:
        from kubernetes import client

        return client.CoreV1Api(self.client)

    def _or_none(self, verb: str, resource: str, call: Callable[[], Any], unready: bool = False) -> Any:
        return self._ask(verb, resource, call, missing=None, unready=unready)

    def _ask(self, verb: str, resource: str, call: Callable[[], Any], unready: bool = False, **instead: Any) -> Any:
        """Ask, again and again while the server is away or overloaded.

        Args:
            verb: what is asked for, as roles call it.
            resource: of what.
            call: the request.
            unready: whether a refusal is what a container that has not started yet answers.
            instead: the answer for what is `missing` (404) or already `there` (409).

        Raises:
            AwayError: it is away for too long.
            Med42Error: it refuses.
        """
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        lost: float | None = None
        pause = self.pause
        while True:
            try:
                return call()
            except (ApiException, HTTPError) as error:
                status = error.status if isinstance(error, ApiException) else 0
                if status == 404 and "missing" in instead:
                    return instead["missing"]
                if status == 409 and "there" in instead:
                    return instead["there"]
                if status == 400 and unready:
                    return None
                if status and status != 429 and status < 500:
                    raise self._refusal(verb, resource, error) from error
                lost = lost or time.monotonic()
                if time.monotonic() - lost > self.away:
                    raise AwayError(f"the API server {self.client.configuration.host}",
                                    f"no answer for {self.away:.0f} s ({_words(error)})", f"one to: {verb} {resource}",
                                    "A training that runs goes on; run this again, and it is followed again.") from error
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _refusal(self, verb: str, resource: str, error: Any) -> Med42Error:
        """What a refusal means, by its status."""
        group = {PLURAL: f".{GROUP}", "workloads": f".{QUEUE_GROUP}"}.get(resource, "")
        what, words = f"{verb} {resource}{group} in namespace {self.namespace}", _words(error)
        match error.status:
            case 403:
                return Med42Error(what, f"no permission ({words})", f"a role that allows verb '{verb}' on '{resource}{group}'",
                                  "Bind the launcher's role to the service account of the run (docs/several-nodes.md lists its verbs).")
            case 401:
                return Med42Error(what, f"a token that the server does not take ({words}){_skew(error)}", "a valid token",
                                  "See that the service account exists, and that the clocks agree.")
            case 404:
                return Med42Error(what, f"nothing of that name ({words})", f"Kubeflow Trainer with {GROUP}/{VERSION}",
                                  "Install Kubeflow Trainer 2.2 or newer, or let a pod hold all GPUs: devices.nodes=1.")
            case 400 | 422 if "unknown field" in words:
                return Med42Error(what, f"a TrainJob of another version ({words})", f"{GROUP}/{VERSION} with runtimePatches",
                                  "Update Kubeflow Trainer to 2.2 or newer.")
        return Med42Error(what, f"refused with {error.status} ({words})", "a TrainJob that the cluster takes",
                          "Mend what the message names: the runtime, the queue, a policy of the namespace.")


def connect(away: float = 900.0, pause: float = 1.0) -> Cluster:
    """The cluster that this process runs in or, outside of one, the one of the kubeconfig.

    Raises:
        Med42Error: neither is there, or there is no client for it.
    """
    try:
        from kubernetes import client, config
    except ModuleNotFoundError as error:
        raise Med42Error("kubernetes", "not installed", "the Kubernetes client", "Install this package with its extra 'train'.") from error
    configuration = client.Configuration()
    try:
        config.load_incluster_config(configuration)
        namespace = NAMESPACE_FILE.read_text().strip()
    except (config.ConfigException, OSError):
        try:
            file = os.environ.get("KUBECONFIG")  # the client itself reads this once, when it is imported
            config.load_kube_config(file, client_configuration=configuration)
            namespace = config.list_kube_config_contexts(file)[1]["context"].get("namespace", "default")
        except (config.ConfigException, OSError) as error:
            raise Med42Error("the cluster", f"no service account and no kubeconfig ({error})", "one of them",
                             "Run this in a pod, set KUBECONFIG, or set devices.nodes=1.") from error
    configuration.retries = False  # we do that ourselves, and say how long
    return Cluster(client.ApiClient(configuration), namespace, away, pause)


def _words(error: Any) -> str:
    """The server's own words, or the connection's."""
    body: Any = getattr(error, "body", None)
    try:
        told = json.loads(body)["message"]
    except (TypeError, ValueError, KeyError):
        told = body or getattr(error, "reason", None) or error
    return " ".join(str(told).split())[:500]


def _skew(error: Any) -> str:
    """How far the server's clock is from ours, where that is far."""
    try:
        ahead = parsedate_to_datetime(error.headers["Date"]).timestamp() - time.time()
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""
    return f", with its clock {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} ours" if abs(ahead) > 60 else ""
