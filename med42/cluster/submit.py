"""Submitting a request of a run to Kubeflow Pipelines: once, however often and from wherever it is asked for.

Kubeflow keeps no two experiments of one name, and nothing else that it makes is unique by a name of ours. So an experiment is a
request: it is named by the request's digest, who makes it starts the run, and who finds it there waits for the run in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from med42.cluster.request import Wanted
from med42.errors import Med42Error
from med42.recipe import dump_recipe

PAGE = 100
ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}


@dataclass(frozen=True)
class Run:
    """A run of a request.

    Attributes:
        id: Kubeflow's.
        name: ours.
        state: as Kubeflow calls it; empty before it has one.
        created: whether this very call started it.
        version: the pipeline version's name, or its id where the run was there before.
    """

    id: str
    name: str
    state: str
    created: bool
    version: str


@dataclass(frozen=True)
class Pipelines:
    """Kubeflow Pipelines' API.

    Attributes:
        client: `kfp.Client`.
        namespace: of a server for several users; empty for one without.
        away: seconds for which it may be away.
        pause: seconds before the first new try; twice as long before each other one.
        grace: seconds within which whoever made an experiment starts its run.
        settle: seconds after which two who both took over see one another's run.
    """

    client: Any
    namespace: str = ""
    away: float = 120.0
    pause: float = 1.0
    grace: float = 60.0
    settle: float = 3.0

    def submit(self, wanted: Wanted, package: Path | None = None, service_account: str = "", dry: bool = False) -> Run | None:
        """The run of a request: the one that there is, or a new one.

        Args:
            wanted: the request.
            package: a compiled pipeline to register where the cluster does not have it yet, and to run.
            service_account: of the run's pods; empty for Kubeflow's own.
            dry: start nothing and register nothing.

        Returns:
            The run; None where there is none and it is dry.

        Raises:
            Med42Error: no such pipeline or version, no permission, or no answer.
        """
        named = self._pages("runs", "runs", self.client.list_runs, namespace=self._space, filter=_equals("display_name", wanted.name))
        if there := _first(list(named)):  # wherever somebody may have moved it
            return there
        experiment = self._experiment(wanted.name)
        if dry:
            if package is None:
                self._version(wanted)
            return None
        pipeline, version, name = self._register(package) if package else self._version(wanted)
        claimed, mine = time.monotonic(), None if experiment else self._claim(wanted)
        place = mine or experiment or self._experiment(wanted.name)
        if place is None:
            raise Med42Error(f"experiment '{wanted.name}'", "one that was there and is gone", "one that stays", "Run this again.")
        if there := self._first_run(place) if mine else self._await_run(place):
            return there
        made = self._start(wanted, place, pipeline, version, service_account)
        # Who takes over, and who was so slow that somebody may have, look whether they are alone; of several runs one stays.
        if mine is None or time.monotonic() - claimed > self.grace / 2:
            time.sleep(self.settle)
            first = self._first_run(place)
            if first and first.id != made.run_id:
                self._ask("delete", "runs", lambda: self.client.delete_run(made.run_id), missing=None)
                return first
        return Run(made.run_id, wanted.name, made.state or "", True, name)

    def follow(self, run_id: str, tell: Callable[[str], None], interval: float = 10.0) -> str:
        """Follow a run to its end, and tell what changes; its last state.

        Raises:
            Med42Error: the server is away for too long. The run goes on.
        """
        known: dict[str, str] = {}
        while True:
            run = self._ask("get", "runs", lambda: self.client.get_run(run_id))
            for task in (run.run_details.task_details if run.run_details else None) or []:
                state = task.state or ""
                if state and known.get(task.task_id) != state and task.display_name not in (None, "root", "executor"):
                    known[task.task_id] = state
                    why = f": {' '.join(task.error.message.split())}" if task.error and task.error.message else ""
                    tell(f"{task.display_name}  {state.lower()}{_lasted(task)}{why}")
            state = run.state or "PENDING"
            if known.get("") != state:
                known[""] = state
                tell(f"run {run_id}  {state.lower()}{f': {run.error.message}' if run.error and run.error.message else ''}")
            if state in ENDED:
                return state
            time.sleep(interval)

    def _version(self, wanted: Wanted) -> tuple[str, str, str]:
        """Ids of pipeline and version, and the version's name: the one asked for, or the newest."""
        pipeline = self._pipeline(wanted.pipeline)
        register = f"Register it: med42 compile {wanted.request.recipe} --profile {wanted.request.profile} -o FILE, then --pipeline FILE."
        if pipeline is None:
            there = [one.display_name for one in self._pages("pipelines", "pipelines", self.client.list_pipelines, namespace=self._space)]
            raise Med42Error(f"pipeline '{wanted.pipeline}'", f"none of that name; there are {', '.join(there[:8]) or 'none'}",
                             "the recipe's pipeline", register)
        versions = self._versions(pipeline)
        if wanted.request.version is None and versions:
            newest = versions[0]
            return pipeline, newest.pipeline_version_id, _named(newest)
        for version in versions:
            if wanted.request.version in (version.name, version.display_name):
                return pipeline, version.pipeline_version_id, _named(version)
        known = ", ".join(_named(version) for version in versions[:5]) or "none"
        raise Med42Error(f"{wanted.path}: version", f"'{wanted.request.version}', which pipeline {wanted.pipeline} does not have",
                         f"one of its {len(versions)}; the newest are {known}", register)

    def _register(self, package: Path) -> tuple[str, str, str]:
        """A compiled pipeline's ids, registered where it is not there; the version is named by its content."""
        try:
            content = package.read_bytes()
            name = next(yaml.safe_load_all(content))["pipelineInfo"]["name"]
        except (OSError, yaml.YAMLError, KeyError, TypeError, StopIteration) as error:
            raise Med42Error(package, f"no compiled pipeline ({' '.join(str(error).split())[:200]})", "what `med42 compile` writes",
                             "Compile it again.") from error
        wanted = f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
        pipeline = self._pipeline(name)
        if pipeline is None:
            self._ask("create", "pipelines", lambda: self.client.upload_pipeline(str(package), name, namespace=self._space), there=None)
            pipeline = self._pipeline(name)
            assert pipeline is not None
        for look in (True, False):
            for version in self._versions(pipeline):
                if wanted in (version.name, version.display_name):
                    return pipeline, version.pipeline_version_id, wanted
            if look:
                self._ask("create", "pipelines/versions",
                          lambda: self.client.upload_pipeline_version(str(package), wanted, pipeline_id=pipeline), there=None)
        raise Med42Error(f"pipeline version '{wanted}'", "not there after it was registered", "it", "Look at the server's log.")

    def _pipeline(self, name: str) -> str | None:
        found = self._pages("pipelines", "pipelines", self.client.list_pipelines, namespace=self._space,
                            filter=_equals("display_name", name))
        return next((one.pipeline_id for one in found if name in (one.name, one.display_name)), None)

    def _versions(self, pipeline: str) -> list[Any]:
        """Newest first, by the server's own clock."""
        return list(self._pages("pipelines/versions", "pipeline_versions", self.client.list_pipeline_versions, pipeline_id=pipeline,
                                sort_by="created_at desc"))

    def _experiment(self, name: str) -> str | None:
        found = self._pages("experiments", "experiments", self.client.list_experiments, namespace=self._space,
                            filter=_equals("display_name", name))
        return next((one.experiment_id for one in found if one.display_name == name), None)

    def _claim(self, wanted: Wanted) -> str | None:
        """Make the request's experiment; None where somebody else has."""
        from kfp_server_api import ExperimentServiceApi, V2beta1Experiment

        # Not by `Client.create_experiment`, which takes what is there for its own.
        experiments = ExperimentServiceApi(self.client._experiment_api.api_client)
        description = f"{wanted.request.reason}\nrequest {wanted.digest}"
        body = V2beta1Experiment(display_name=wanted.name, description=description, namespace=self._space)
        made = self._ask("create", "experiments", lambda: experiments.experiment_service_create_experiment(experiment=body), there=None)
        return None if made is None else str(made.experiment_id)

    def _await_run(self, experiment: str) -> Run | None:
        """The run that whoever made an experiment starts in it; None where that takes too long: they were ended before they could."""
        until = time.monotonic() + self.grace
        while time.monotonic() < until:
            if there := self._first_run(experiment):
                return there
            time.sleep(self.pause)
        return self._first_run(experiment)

    def _start(self, wanted: Wanted, experiment: str, pipeline: str, version: str, service_account: str) -> Any:
        """Start the run; an answer that was lost is looked for before it is asked for again."""
        parameters = {"recipe": dump_recipe(wanted.recipe), "run": wanted.name} | {
            key: value for key in ("push_to", "data_root", "store") if (value := getattr(wanted.request, key))}
        before = {run.run_id for run in self._runs(experiment)}

        def start() -> Any:
            there = [run for run in self._runs(experiment) if run.run_id not in before and run.display_name == wanted.name]
            return there[0] if there else self.client.run_pipeline(
                experiment, wanted.name, params=parameters, pipeline_id=pipeline, version_id=version,
                service_account=service_account or None)

        return self._ask("create", "runs", start)

    def _runs(self, experiment: str) -> list[Any]:
        return list(self._pages("runs", "runs", self.client.list_runs, experiment_id=experiment))

    def _first_run(self, experiment: str) -> Run | None:
        return _first(self._runs(experiment))

    @property
    def _space(self) -> str | None:
        return self.namespace or None

    def _pages(self, resource: str, part: str, call: Callable[..., Any], **arguments: Any) -> Iterator[Any]:
        """All that a list holds, page by page."""
        token = ""
        while True:
            page = self._ask("list", resource, lambda token=token: call(page_token=token, page_size=PAGE, **arguments))  # type: ignore[misc]
            yield from getattr(page, part) or []
            token = page.next_page_token or ""
            if not token:
                return

    def _ask(self, verb: str, resource: str, call: Callable[[], Any], **instead: Any) -> Any:
        """Ask, again and again while the server is away, overloaded or broken.

        Args:
            verb: what is asked for, as roles call it.
            resource: of what, in the API group pipelines.kubeflow.org.
            call: the request.
            instead: the answer for what is already `there` (409) or `missing` (404).

        Raises:
            Med42Error: it refuses, or is away for too long.
        """
        from kfp_server_api import ApiException
        from urllib3.exceptions import HTTPError

        lost: float | None = None
        pause = self.pause
        while True:
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # the client prints links
                    return call()
            except (ApiException, HTTPError) as error:
                status = error.status if isinstance(error, ApiException) else 0
                if status == 409 and "there" in instead:
                    return instead["there"]
                if status == 404 and "missing" in instead:
                    return instead["missing"]
                if status and status != 429 and status < 500:
                    raise self._refusal(verb, resource, status, _words(error)) from error
                lost = lost or time.monotonic()
                if time.monotonic() - lost > self.away:
                    raise Med42Error(f"Kubeflow Pipelines at {_host(self.client)}",
                                     f"no good answer for {self.away:.0f} s ({_words(error)})", f"one to: {verb} {resource}",
                                     "Run this again when it is back: nothing is started twice.") from error
                time.sleep(pause)
                pause = min(2 * pause, 30.0)

    def _refusal(self, verb: str, resource: str, status: int, words: str) -> Med42Error:
        what = f"{verb} {resource}.pipelines.kubeflow.org" + (f" in namespace {self.namespace}" if self.namespace else "")
        match status:
            case 403:
                return Med42Error(what, f"no permission ({words})",
                                  f"a role that allows verb '{verb}' on '{resource}.pipelines.kubeflow.org'",
                                  "Bind it to the submitter's service account, or log in as someone who has it.")
            case 401:
                return Med42Error(what, f"a token that the server does not take ({words})", "a valid one, for the server's audience",
                                  "Give another --token-file, and see that the clocks agree: a token has a time from which it holds.")
        return Med42Error(what, f"refused with {status} ({words})", "a request that the server takes", "Mend what the message names.")


def connect(host: str, namespace: str = "", token_file: Path | None = None, authority: Path | None = None, **patience: float) -> Pipelines:
    """Kubeflow Pipelines at an address.

    Args:
        host: the address; empty for KF_PIPELINES_ENDPOINT, or the cluster that this runs in.
        namespace: on a server for several users.
        token_file: a token, read again for every request; absent: the service account's own, where the pod has one for Kubeflow.
        authority: certificates to trust, of an organisation's own authority; absent: those that everybody trusts.
        patience: of `Pipelines`.

    Raises:
        Med42Error: no client is installed, no token or certificate is there, or the server does not answer.
    """
    try:
        from kfp.client import Client, set_volume_credentials
        from urllib3.exceptions import HTTPError
    except ModuleNotFoundError as error:
        raise Med42Error("kfp", f"not installed ({error})", "kfp 2.17.0 with its client",
                         "Install this package with its extra 'pipeline'.") from error
    path = token_file or Path(os.environ.get("KF_PIPELINES_SA_TOKEN_PATH") or "/var/run/secrets/kubeflow/pipelines/token")
    for file, what in ((token_file, "a token"), (authority, "certificates")):
        if file and not file.is_file():
            raise Med42Error(file, "no such file", what, "Check the name.")
    credentials = set_volume_credentials.ServiceAccountTokenVolumeCredentials(str(path)) if path.is_file() else None
    until = time.monotonic() + patience.get("away", Pipelines.away)
    while True:
        try:
            with _quietly():  # it asks the server whether it has several users
                client = Client(host=host or None, credentials=credentials, ssl_ca_cert=str(authority) if authority else None,
                                **({"namespace": namespace} if namespace else {}))
            break
        except (TimeoutError, HTTPError) as error:
            if time.monotonic() > until:
                address = host or os.environ.get("KF_PIPELINES_ENDPOINT", "")
                raise Med42Error(f"Kubeflow Pipelines at {address or 'the address of the kubeconfig'}", "no answer",
                                 "a server that is well",
                                 "Check --host and the token; `curl HOST/apis/v2beta1/healthz` should answer.") from error
            time.sleep(patience.get("pause", Pipelines.pause))
    return Pipelines(client, namespace, **patience)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the client from warning of its own version and from logging each try."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().setLevel(level)


def record_run(path: Path, wanted: Wanted, run: Run) -> str:
    """Write which run a request has, beside it; the path, or why not: a request may lie where nothing can be written."""
    told = {"request": wanted.digest, "run_id": run.id, "run": run.name, "pipeline": wanted.pipeline, "version": run.version}
    draft = path.parent / f".{path.name}.partial"
    try:
        if path.is_file() and json.loads(path.read_text()).get("run_id") == run.id:
            return str(path)
        draft.write_text(json.dumps(told, indent=1) + "\n")
        draft.rename(path)
    except (OSError, ValueError) as error:
        return f"not recorded: {path}: {error}"
    return str(path)


def _first(runs: list[Any]) -> Run | None:
    """The one of several runs that stays: of the lowest id, on which all agree whatever their clocks say."""
    if not runs:
        return None
    run = min(runs, key=lambda run: str(run.run_id))
    reference = run.pipeline_version_reference
    return Run(run.run_id, run.display_name, run.state or "", False, reference.pipeline_version_id if reference else "")


def _named(version: Any) -> str:
    return str(version.name or version.display_name)


def _lasted(task: Any) -> str:
    """How long a task took, by the server's clock alone."""
    if not task.start_time or not task.end_time or task.end_time < task.start_time:
        return ""
    return f" after {(task.end_time - task.start_time).total_seconds():,.0f} s"


def _equals(key: str, value: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "stringValue": value}]})


def _host(client: Any) -> str:
    return str(client._existing_config.host)


def _words(error: Any) -> str:
    body: Any = getattr(error, "body", None)
    try:
        told = json.loads(body)
        told = told.get("message") or told["error"]
    except (TypeError, ValueError, KeyError, AttributeError):
        told = body or getattr(error, "reason", None) or error
    return " ".join(str(told).split())[:400]
