"""Looking at the cluster that a run is in: whether all is there that its profile says, before any work.

Preflight asks the API server, as the run's own service account, for what would otherwise show as a pod that waits for ever. What it
may not see it says so, with the verb and the resource that a role would have to allow.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from med42.cluster.profile import PROFILE_VARIABLE, PUBLIC_KEY_VARIABLE, Profile, Secret, Signing, by_trainer, devices_of
from med42.errors import Med42Error
from med42.lineage.signature import SIGNING_STAGES, read_key
from med42.recipe import Recipe

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
TIMEOUT = (5, 20)  # seconds to connect, and to wait for an answer
SKEW = 300.0  # seconds that clocks may differ: past that, tokens and signed addresses of buckets are refused
# What the launcher of a TrainJob does: verb, group, resource.
LAUNCHER_VERBS = [
    *((verb, "trainer.kubeflow.org", "trainjobs") for verb in ("create", "get", "patch", "delete")),
    ("list", "", "pods"), ("get", "", "pods/log"),
]

Check = tuple[str, Callable[[], str]]


def profile_told() -> Profile | None:
    """The profile that the pipeline was compiled for; None outside of a cluster, or where the profile says nothing of one."""
    told = os.environ.get(PROFILE_VARIABLE)
    return Profile.model_validate_json(told) if told else None


def checks_on(recipe: Recipe, profile: Profile, pushes: bool, client: Any = None, namespace: str = "") -> Iterator[Check]:
    """What is to be looked at: a name for each check, and the check, which gives what was found or raises a `Med42Error`.

    Args:
        recipe: the resolved recipe.
        profile: the cluster as it should be.
        pushes: whether the run pushes to a hub.
        client: of the `kubernetes` package; by default the one of this pod's service account.
        namespace: of the run; by default this pod's.

    Raises:
        Med42Error: there is no client, or this is no pod.
    """
    for secret in profile.secrets:
        used = pushes if secret.stages == ["push_model"] else True
        yield f"secret {secret.name}", lambda secret=secret, used=used: _secret(secret, used)  # type: ignore[misc]
    if recipe.audit.signed is True:
        yield f"secret {profile.signing.secret}", lambda: _signing(profile.signing)
    client = client or connect()
    namespace = namespace or NAMESPACE.read_text().strip()
    yield "clock", lambda: _clock(client)
    if volume := profile.storage.volume:
        yield f"volume {volume.claim}", lambda: _claim(client, namespace, volume.claim, volume.storage_class)
    stages = ("train_sft", "train_dpo")
    if any(by_trainer(profile, devices_of(recipe, stage)) for stage in stages) and (trainer := profile.trainer):
        yield "Kubeflow Trainer", lambda: _runtime(client, trainer.api, trainer.runtime)
        yield "permissions", lambda: _permissions(client, namespace)
        if queue := profile.kueue:
            yield f"queue {queue.queue}", lambda: _queue(client, namespace, queue.api, queue.queue)
    for name, selector, from_zero in _pools(recipe, profile):
        yield f"pool {name}", lambda name=name, selector=selector, from_zero=from_zero: _nodes(client, name, selector, from_zero)  # type: ignore[misc]


def connect() -> Any:
    """A client of the API server with this pod's service account.

    Raises:
        Med42Error: there is no client, or no service account.
    """
    try:
        from kubernetes import client, config
    except ModuleNotFoundError as error:
        raise Med42Error("kubernetes", "not installed", "the Kubernetes client",
                         "Install this package with its extra 'release'.") from error
    configuration = client.Configuration()
    try:
        config.load_incluster_config(configuration)
    except config.ConfigException as error:
        raise Med42Error("the cluster", f"no service account ({error})", "a pod with one", "Compile for the profile 'default' to run "
                         "elsewhere, or let the pod mount its token.") from error
    configuration.retries = 2
    return client.ApiClient(configuration)


def _pools(recipe: Recipe, profile: Profile) -> list[tuple[str, dict[str, str], bool]]:
    """The pools that stages of this recipe run on: name, selector, whether they may have no node yet."""
    stages = ("train_sft", "train_dpo", "sample_answers", "score_answers", "evaluate_model")
    with_gpus = {stage for stage in stages if devices_of(recipe, stage).gpus_per_node}
    names = {task.pool for row, task in profile.tasks.items() if not profile.pools[task.pool].accelerators
             or (with_gpus and row in ("train", "evaluate", *with_gpus))}
    return [(name, pool.selector, pool.from_zero) for name, pool in profile.pools.items() if name in names]


def _ask(what: str, verb: str, resource: str, call: Callable[[], Any]) -> Any:
    """Ask the API server; None for what is not there.

    Raises:
        Med42Error: it refuses, or does not answer.
    """
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return call()
    except ApiException as error:
        if error.status == 404:
            return None
        if error.status == 403:
            raise Med42Error(what, "no permission to look", f"a role that allows verb '{verb}' on '{resource}'",
                             "Bind the roles of manifests/base to the service account of the run.") from error
        raise Med42Error(what, f"the API server refuses with {error.status} {error.reason}", "an answer",
                         "See that the service account exists and its token is mounted.") from error
    except HTTPError as error:
        raise Med42Error(what, f"no answer from the API server ({type(error).__name__})", "one", "See that the NetworkPolicy lets "
                         "this pod reach it.") from error


def _secret(secret: Secret, used: bool) -> str:
    if secret.seen_as in os.environ:
        return f"there, with key '{secret.key}'"
    if secret.needed and used:
        raise Med42Error(f"secret {secret.name}", f"no such secret, or no key '{secret.key}' in it", f"one for {', '.join(secret.stages)}",
                         f"kubectl create secret generic {secret.name} --from-literal={secret.key}=... (docs/cluster.md)")
    return "not there, and not needed" if not used else "not there; only what is public can be fetched"


def _signing(signing: Signing) -> str:
    if not (public := os.environ.get(PUBLIC_KEY_VARIABLE, "")):
        files = [name for name in (signing.key, signing.public, signing.certificate) if name]
        raise Med42Error(f"secret {signing.secret}", f"no such secret, no file '{signing.public}' in it, or a pipeline compiled without",
                         f"one with {', '.join(files)} for {' and '.join(SIGNING_STAGES)}, as the recipe's audit.signed asks",
                         f"kubectl create secret generic {signing.secret} {' '.join(f'--from-file={name}' for name in files)}"
                         ", and compile with audit.signed=true (docs/cluster.md)")
    return f"there, for {read_key(public.encode(), f'secret {signing.secret}, {signing.public}')}"


def _clock(client: Any) -> str:
    from kubernetes.client import VersionApi

    version, _, headers = _ask("clock", "get", "/version", lambda: VersionApi(client).get_code_with_http_info(_request_timeout=TIMEOUT))
    ahead = parsedate_to_datetime(headers["Date"]).timestamp() - time.time()
    told = f"Kubernetes {version.git_version}, its clock {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this node's"
    if abs(ahead) > SKEW:
        raise Med42Error("clock", told, f"at most {SKEW:.0f} s", "Set the nodes' clocks (chrony, systemd-timesyncd).")
    return told


def _claim(client: Any, namespace: str, name: str, storage_class: str | None) -> str:
    from kubernetes.client import CoreV1Api, StorageV1Api

    claim = _ask(f"volume {name}", "get", "persistentvolumeclaims",
                 lambda: CoreV1Api(client).read_namespaced_persistent_volume_claim(name, namespace, _request_timeout=TIMEOUT))
    if claim is None:
        raise Med42Error(f"volume {name}", f"no such claim in namespace {namespace}", "a PersistentVolumeClaim that all stages write to",
                         "Apply the overlay of this cluster (docs/cluster.md), or change storage.volume in the profile.")
    wanted = claim.spec.storage_class_name or storage_class
    if claim.status.phase != "Bound" and wanted:
        found = _ask(f"storage class {wanted}", "get", "storageclasses",
                     lambda: StorageV1Api(client).read_storage_class(wanted, _request_timeout=TIMEOUT))
        if found is None:
            raise Med42Error(f"storage class {wanted}", "no such class", f"the one that claim {name} waits for",
                             "Create it, or name one of `kubectl get storageclass` in the overlay.")
    if claim.status.phase == "Lost":
        raise Med42Error(f"volume {name}", "Lost: its volume is gone", "Bound",
                         "Restore the volume, or delete the claim and apply it again.")
    return f"{claim.status.phase}, {claim.spec.resources.requests['storage']}, class {claim.spec.storage_class_name or 'default'}"


def _runtime(client: Any, api: str, name: str) -> str:
    from kubernetes.client import CustomObjectsApi

    group, _, version = api.partition("/")
    _versions(client, "Kubeflow Trainer", group, version, "2.2 or newer")
    runtime = _ask(f"runtime {name}", "get", f"clustertrainingruntimes.{group}", lambda: CustomObjectsApi(client).get_cluster_custom_object(
        group, version, "clustertrainingruntimes", name, _request_timeout=TIMEOUT))
    if runtime is None:
        raise Med42Error(f"runtime {name}", "no such ClusterTrainingRuntime", "ours", "kubectl apply -k manifests/trainer")
    return f"{api}, runtime {name}"


def _versions(client: Any, what: str, group: str, version: str, release: str) -> None:
    from kubernetes.client import ApisApi

    found = _ask(what, "get", f"/apis/{group}", lambda: ApisApi(client).get_api_versions(_request_timeout=TIMEOUT))
    served = next(([entry.version for entry in told.versions] for told in found.groups if told.name == group), [])
    if version not in served:
        raise Med42Error(what, f"{group} in versions {', '.join(served)}" if served else f"no API group {group}", f"{group}/{version}",
                         f"Install {what} {release}, or name the version that is there in the profile.")


def _queue(client: Any, namespace: str, api: str, name: str) -> str:
    from kubernetes.client import CustomObjectsApi

    group, _, version = api.partition("/")
    _versions(client, "Kueue", group, version, "0.15 or newer")
    queue = _ask(f"queue {name}", "get", f"localqueues.{group}", lambda: CustomObjectsApi(client).get_namespaced_custom_object(
        group, version, namespace, "localqueues", name, _request_timeout=TIMEOUT))
    if queue is None:
        raise Med42Error(f"queue {name}", f"no such LocalQueue in namespace {namespace}", "the profile's kueue.queue",
                         "Create it, or name one of `kubectl get localqueues`.")
    return f"hands out what ClusterQueue {queue['spec']['clusterQueue']} has"


def _permissions(client: Any, namespace: str) -> str:
    from kubernetes.client import (
        AuthorizationV1Api,
        V1ResourceAttributes,
        V1SelfSubjectAccessReview,
        V1SelfSubjectAccessReviewSpec,
    )

    missing = []
    for verb, group, resource in LAUNCHER_VERBS:
        kind, _, part = resource.partition("/")
        asked = V1ResourceAttributes(namespace=namespace, verb=verb, group=group, resource=kind, subresource=part or None)
        review = V1SelfSubjectAccessReview(spec=V1SelfSubjectAccessReviewSpec(resource_attributes=asked))
        answer = _ask("permissions", "create", "selfsubjectaccessreviews", lambda review=review: AuthorizationV1Api(  # type: ignore[misc]
            client).create_self_subject_access_review(review, _request_timeout=TIMEOUT))
        if not answer.status.allowed:
            missing.append(f"{verb} {resource}{'.' + group if group else ''}")
    if missing:
        raise Med42Error("permissions", f"no right to {', '.join(missing)} in namespace {namespace}", "the launcher's verbs",
                         "Bind the role med42-launcher of manifests/base to the service account of the run.")
    return f"all {len(LAUNCHER_VERBS)} verbs of the launcher"


def _nodes(client: Any, name: str, selector: dict[str, str], from_zero: bool) -> str:
    from kubernetes.client import CoreV1Api

    labels = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
    found = _ask(f"pool {name}", "list", "nodes", lambda: CoreV1Api(client).list_node(label_selector=labels, _request_timeout=TIMEOUT))
    if not found.items and not from_zero:
        raise Med42Error(f"pool {name}", f"no node with {labels or 'any label'}", "one at least",
                         "Label the nodes, change the selector, or set from_zero where the cluster adds nodes itself.")
    return f"{len(found.items)} nodes with {labels}" + (", more when they are asked for" if from_zero else "")
