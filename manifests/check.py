#!/usr/bin/env python3
"""Render every kustomization and hold every object against its schema, our own rules and checkov, with no cluster.

    make manifests                                    in the environment of manifests/requirements.txt
    python manifests/check.py [--crds DIR] [--no-checkov] [FOLDER...]

Kubernetes' own kinds are checked by kubernetes-validate (strict: unknown fields are errors), the others by the schemas of the CRD
files in --crds (`make crds` fetches them; rules in CEL are not evaluated), Argo Events' by hera's models. What no schema is there
for is told, not passed over in silence. Exit 1 where anything is bad.
"""

from __future__ import annotations

import argparse
import collections
import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
KUBERNETES = "1.33"
ALONE = ["manifests/base/secrets.example.yaml", "manifests/gitops/argocd/argocd-cm.yaml", "pipelines/compiled/tiny.yaml", "kind/gpu.yaml"]
CRD_FOLDERS = [ROOT / "build" / "crds", ROOT.parent / "shared" / "crds"]
Object = dict[str, Any]
Validate = Callable[[Object], Iterator[str]]


def kustomizations() -> list[Path]:
    """Every folder that `kubectl apply -k` is meant for; components are parts of these."""
    found = (path for root in ("manifests", "pipelines") for path in (ROOT / root).rglob("kustomization.yaml"))
    return sorted(path.parent for path in found if yaml.safe_load(path.read_text())["kind"] == "Kustomization")


def render(folder: Path) -> str:
    """A kustomization, rendered by kubectl or kustomize."""
    for tool, command in (("kubectl", ["kubectl", "kustomize"]), ("kustomize", ["kustomize", "build"])):
        if shutil.which(tool):
            told = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
            if told.returncode:
                raise SystemExit(f"{folder}: {told.stderr.strip()}")
            return told.stdout
    raise SystemExit("neither kubectl nor kustomize is on the PATH: install one of them")


def objects(text: str) -> list[Object]:
    """The objects of a YAML stream."""
    return [document for document in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if document]


def name_of(found: Object) -> str:
    """As `apps/v1 Deployment kubeflow/ui`."""
    metadata = found.get("metadata", {})
    return f"{found.get('apiVersion')} {found.get('kind')} {metadata.get('namespace', '-')}/{metadata.get('name')}"


# --- schemas --------------------------------------------------------------------------------------


def strict(schema: Any) -> Any:
    """A Kubernetes structural schema as JSON Schema that refuses unknown fields."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("nullable") and "type" in schema:
        schema["type"] = [schema["type"], "null"]
    if "properties" in schema and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema["additionalProperties"] = False
    return schema


def crd_schemas(folder: Path | None) -> dict[tuple[str, str], Any]:
    """Schemas of a folder of CustomResourceDefinitions, by apiVersion and kind."""
    found = {}
    for path in sorted(folder.glob("*.yaml")) if folder else []:
        for crd in objects(path.read_text()):
            if crd.get("kind") != "CustomResourceDefinition":
                continue
            for version in crd["spec"]["versions"]:
                schema = strict(copy.deepcopy(version["schema"]["openAPIV3Schema"]))
                schema.setdefault("properties", {}).update(
                    apiVersion={"type": "string"}, kind={"type": "string"}, metadata={"type": "object"})
                found[f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]] = schema
    return found


def by_schema(crds: dict[tuple[str, str], Any]) -> tuple[Validate, collections.Counter[str]]:
    """A check of one object against whatever schema there is for it, and the count of what none was there for."""
    import kubernetes_validate
    from hera.events import models as events
    from jsonschema import Draft202012Validator

    unchecked: collections.Counter[str] = collections.Counter()
    validators = {key: Draft202012Validator(schema) for key, schema in crds.items()}

    def validate(found: Object) -> Iterator[str]:
        kind = (found.get("apiVersion", ""), found.get("kind", ""))
        if kind in validators:
            for error in validators[kind].iter_errors(found):
                yield f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        elif kind in (("argoproj.io/v1alpha1", "EventSource"), ("argoproj.io/v1alpha1", "Sensor")):
            yield from _unknown_to(getattr(events, kind[1]), found)
        elif "." not in kind[0] or kind[0].partition("/")[0].endswith("k8s.io"):
            try:
                kubernetes_validate.validate(found, KUBERNETES, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{'.'.join(map(str, error.path))}: {error.message[:200]}"
            except kubernetes_validate.SchemaNotFoundError:
                unchecked[" ".join(kind)] += 1
        else:
            unchecked[" ".join(kind)] += 1

    return validate, unchecked


def _unknown_to(model: Any, found: Object) -> Iterator[str]:
    """What a pydantic model refuses of an object, and the fields that it does not know, which it would pass over."""
    from pydantic import ValidationError

    try:
        kept = json.loads(model.model_validate(found).model_dump_json(by_alias=True, exclude_none=True))
    except ValidationError as error:
        for told in error.errors():
            yield f"{'.'.join(map(str, told['loc']))}: {told['msg']}"
        return
    yield from _lost({key: value for key, value in found.items() if key not in ("apiVersion", "kind")}, kept, "")


def _lost(given: Any, kept: Any, where: str) -> Iterator[str]:
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(kept, dict) or key not in kept:
                yield f"{where}{key}: unknown field"
            else:
                yield from _lost(value, kept[key], f"{where}{key}.")
    elif isinstance(given, list) and isinstance(kept, list):
        for number, (one, other) in enumerate(zip(given, kept, strict=False)):
            yield from _lost(one, other, f"{where}{number}.")


# --- our own rules --------------------------------------------------------------------------------


def by_rules(found: Object) -> Iterator[str]:
    """What we ask of every object."""
    kind = found["kind"]
    if kind in ("Role", "ClusterRole"):
        for rule in found["rules"]:
            if "*" in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]:
                yield "a role allows '*'"
            if "secrets" in rule["resources"] and not rule.get("resourceNames"):
                yield "a role reads all secrets"
    if kind == "Secret":
        values = [*found.get("data", {}).values(), *found.get("stringData", {}).values()]
        if any(value and '"auths": {}' not in value for value in values):
            yield "a secret has a value"
    for pod in pods_of(found):
        yield from _restricted(pod)
        # What a node of a training asks for comes with its TrainJob.
        if kind != "ClusterTrainingRuntime":
            yield from (f"container {container['name']} asks for nothing" for container in pod["containers"]
                        if not all(container.get("resources", {}).get(key) for key in ("requests", "limits")))


def pods_of(found: Object) -> list[Object]:
    """The pods that an object makes."""
    match found["kind"]:
        case "Pod":
            return [found["spec"]]
        case "Job":
            return [found["spec"]["template"]["spec"]]
        case "CronJob":
            return [found["spec"]["jobTemplate"]["spec"]["template"]["spec"]]
        case "ClusterTrainingRuntime":
            return [job["template"]["spec"]["template"]["spec"] for job in found["spec"]["template"]["spec"]["replicatedJobs"]]
        case _:
            return []


def _restricted(pod: Object) -> Iterator[str]:
    """Pod Security's `restricted`, no token for the API server, and a root that cannot be written to."""
    if not pod.get("securityContext", {}).get("runAsNonRoot"):
        yield "a pod may run as root"
    if pod.get("securityContext", {}).get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "a pod without the runtime's seccomp profile"
    if pod.get("automountServiceAccountToken") is not False:
        yield "a pod with a token for the API server"
    for container in pod["containers"]:
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or context.get("capabilities", {}).get("drop") != ["ALL"]:
            yield f"container {container['name']} may gain privileges"
        if context.get("readOnlyRootFilesystem") is not True:
            yield f"container {container['name']} may write to its root"


def doubled(rendered: list[Object]) -> Iterator[str]:
    """Objects of one rendering that are the same to a cluster, as two recipes of one name would be."""
    for name, count in collections.Counter(map(name_of, rendered)).items():
        if count > 1:
            yield f"{name}: {count} objects of this name; two recipes must not have one name"


# --- checkov --------------------------------------------------------------------------------------


def checkov(rendered: dict[str, str]) -> tuple[int, int, list[str]]:
    """Checkov over all renderings: how many checks passed, how many are explained in place, and what failed."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in rendered.items():
            (Path(folder) / f"{name.replace('/', '-')}.yaml").write_text(text)
        # As a module: its script needs the folder of the environment on the PATH.
        command = [sys.executable, "-m", "checkov.main", "--directory", folder, "--framework", "kubernetes", "--skip-download",
                   "--output", "json", "--compact", "--quiet", "--soft-fail"]
        told = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LOG_LEVEL": "ERROR"}, check=False)
    try:
        found = json.loads(told.stdout)
    except ValueError:
        raise SystemExit(f"checkov: {told.stderr.strip()[-2000:] or told.stdout[-2000:]}") from None
    summary, results = found["summary"], found["results"]
    failed = [f"{Path(check['file_path']).name}: {check['resource']}: {check['check_id']} {check['check_name']}"
              for check in results["failed_checks"]]
    return summary["passed"], summary["skipped"], failed


# --- all of it ------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Check everything, or the named folders; the exit code."""
    parser = argparse.ArgumentParser(prog="manifests/check.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="kustomizations; all of them by default")
    parser.add_argument("--crds", type=Path, help="a folder of CRD files; build/crds by default")
    parser.add_argument("--no-checkov", action="store_true")
    given = parser.parse_args(arguments)
    crds = given.crds or next((folder for folder in CRD_FOLDERS if folder.is_dir()), None)
    if crds is None:
        print("no CRD schemas: run `make crds`; objects of other kinds than Kubernetes' own are not checked")
    validate, unchecked = by_schema(crd_schemas(crds))
    folders = [folder.resolve() for folder in given.folders or kustomizations()]
    rendered = {str(folder.relative_to(ROOT)) if folder.is_relative_to(ROOT) else folder.name: render(folder) for folder in folders}
    if not given.folders:
        rendered |= {name: (ROOT / name).read_text() for name in ALONE}
    bad, kinds = [], collections.Counter[str]()
    for name, text in rendered.items():
        found = objects(text)
        print(f"{len(found):4d} objects  {name}")
        bad += [f"{name}: {told}" for told in doubled(found)]
        for one in found:
            kinds[one["kind"]] += 1
            bad += [f"{name}: {name_of(one)}: {told}" for check in (validate, by_rules) for told in check(one)]
    print(f"{sum(kinds.values()):4d} objects of {len(kinds)} kinds held against schemas and our rules: "
          + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
    for kind, count in unchecked.items():
        print(f"     no schema for {kind}: {count} objects not checked")
    if not given.no_checkov:
        passed, skipped, failed = checkov(rendered)
        print(f"{passed:4d} checks of checkov passed, {skipped} explained in place, {len(failed)} failed")
        bad += failed
    for told in bad:
        print(f"BAD  {told}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
