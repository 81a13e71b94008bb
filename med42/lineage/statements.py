"""In-toto statements of a chain of records: SLSA provenance (v1) of every artifact, and the verdicts of every decision.

The predicates are built as their published messages, by `in_toto_attestation`, and so cannot have another form. A
statement has no signature of its own: the bundle's covers it.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from med42 import __version__
from med42.lineage.digest import canonical
from med42.lineage.record import Record

PROVENANCE, TEST_RESULT = "https://slsa.dev/provenance/v1", "https://in-toto.io/attestation/test-result/v0.1"
BUILD_TYPE = "urn:med42-pipeline:stage:v1"  # docs/audit.md says what its parameters mean


def statements(recipe_name: str, recipe_digest: str, records: Mapping[str, Record]) -> dict[str, bytes]:
    """Every statement, as canonical JSON by name."""
    found = {}
    for record in records.values():
        name = f"{record.name}-{record.digest[:8]}"
        found[f"{name}.provenance.json"] = provenance(recipe_name, recipe_digest, record, records)
        if record.stage == "decide_release":
            found[f"{name}.test-result.json"] = test_result(recipe_name, recipe_digest, record, records)
    return found


def provenance(recipe_name: str, recipe_digest: str, record: Record, records: Mapping[str, Record]) -> bytes:
    """How an artifact was made: from what, by which code, with which parameters, in which run."""
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2

    made = record.made
    started = datetime.datetime.fromisoformat(made.started)
    materials: list[dict[str, Any]] = [
        {"name": name, "digest": {"sha256": digest}, "annotations": {"record": records[digest].name}}
        for name, digest in sorted(record.inputs.items()) if digest in records
    ]
    materials += [{"name": f"{key}/{name}", "digest": {"sha256": digest}} for key, files in pinned_files(record).items()
                  for name, digest in sorted(files.items())]
    if made.commit:
        materials.append({"name": "source code", "digest": {"gitCommit": made.commit}, "annotations": {"dirty": made.dirty}})
    if made.image:
        materials.append({"name": "container image", "uri": made.image})
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"recipe": recipe_name, "recipeDigest": recipe_digest, "parameters": record.parameters},
            "internalParameters": {"stage": record.stage, "code": record.code, "packages": record.packages},
            "resolvedDependencies": materials,
        },
        "runDetails": {
            "builder": {"id": "urn:med42-pipeline:builder", "version": {"med42": __version__, "python": made.python}},
            "metadata": {
                "invocationId": made.run, "startedOn": _time(started),
                "finishedOn": _time(started + datetime.timedelta(seconds=made.seconds)),
            },
        },
    }
    json_format.ParseDict(predicate, provenance_pb2.Provenance())
    return _statement(_subjects(record), PROVENANCE, predicate)


def test_result(recipe_name: str, recipe_digest: str, decision: Record, records: Mapping[str, Record]) -> bytes:
    """Which gates the model that a decision is about met, which not, and which (as warnings) a person overrode."""
    from google.protobuf import json_format
    from in_toto_attestation.predicates.test_result.v0 import test_result_pb2

    names: dict[str, list[str]] = {"passedTests": [], "warnedTests": [], "failedTests": []}
    for verdict in decision.measured.get("verdicts", []):
        outcome = "passed" if verdict.get("met") is True else "warned" if verdict.get("overridden") is True else "failed"
        names[f"{outcome}Tests"].append(f"{verdict.get('score')}: {verdict.get('rule')}")
    approved = decision.measured.get("approved") is True
    predicate = {
        "result": "PASSED" if approved else "FAILED",
        "configuration": [{"name": f"recipe {recipe_name}", "digest": {"sha256": recipe_digest}}],
        **names,
    }
    json_format.ParseDict(predicate, test_result_pb2.TestResult())
    judged = judged_model(decision, records)
    return _statement(_subjects(judged or decision), TEST_RESULT, predicate)


def judged_model(decision: Record, records: Mapping[str, Record]) -> Record | None:
    """The model whose scores a decision is about."""
    scores = records.get(decision.inputs.get("scores", ""))
    return records.get(scores.inputs.get("model", "")) if scores else None


def pinned_files(record: Record) -> dict[str, dict[str, str]]:
    """Digests of the published files that a stage read, by what they are of and by name."""
    told = record.parameters.get("pinned") or {}
    groups = {record.name: told} if _files(told) else told if isinstance(told, dict) else {}
    return {key: files for key, group in sorted(groups.items()) if (files := _files(group))}


def _files(told: Any) -> dict[str, str]:
    files = told.get("files", told) if isinstance(told, dict) else {}
    right = isinstance(files, dict) and all(isinstance(digest, str) and len(digest) == 64 for digest in files.values())
    return files if right else {}


def _subjects(record: Record) -> list[dict[str, Any]]:
    own = {"name": f"record of {record.name}", "digest": {"sha256": record.digest}}
    return [own, *({"name": f"{record.name}/{name}", "digest": {"sha256": entry.sha256}} for name, entry in sorted(record.files.items()))]


def _statement(subjects: list[dict[str, Any]], kind: str, predicate: dict[str, Any]) -> bytes:
    from google.protobuf import json_format
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement

    told = Statement([ResourceDescriptor(subject["name"], digest=subject["digest"]).pb for subject in subjects], kind, predicate)
    told.validate()
    return canonical(json_format.MessageToDict(told.pb))


def _time(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
