"""The bill of materials of a model: CycloneDX 1.6, with its data sets, model card, scores and how it was made.

It is written as plain JSON, for the `cyclonedx` library (11.12) has no model card; that library's validator is what it is
tested against. No time and no random serial number: the same records give the same bytes.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from med42 import __version__
from med42.lineage.digest import canonical
from med42.lineage.record import Record
from med42.lineage.scores import scored
from med42.lineage.statements import judged_model

# The ids that SPDX lists, of those that recipes use; any other is given by name.
_SPDX = ("CC0-1.0", "Unlicense", "MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "GPL-3.0-only", "GPL-3.0-or-later",
         "ODC-By-1.0", "ODbL-1.0",
         *(f"CC-BY-{version}" for version in ("2.0", "2.5", "3.0", "4.0")), *(f"CC-BY-SA-{version}" for version in ("2.5", "3.0", "4.0")),
         *(f"CC-BY-NC-{version}" for version in ("2.0", "3.0", "4.0")), *(f"CC-BY-NC-SA-{version}" for version in ("3.0", "4.0")))

LIMITATIONS = ("States false things fluently.", "Scores are of multiple-choice questions and cover no clinical setting.",
               "Repeats the gaps and biases of its data.")
USE = ("Research, and tools in which a clinician stays responsible.",)


def ml_bom(recipe: Mapping[str, Any], decision: Record, records: Mapping[str, Record]) -> bytes:
    """The bill of the model that a decision is about.

    Args:
        recipe: the resolved recipe, as its JSON tells it.
        decision: the decision about the model.
        records: all that it descends from, by digest.
    """
    model = judged_model(decision, records) or decision
    data = _data(recipe, records)
    base = _base(recipe, records)
    packages = sorted({(name, version) for record in records.values() for name, version in record.packages.items()})
    libraries = [{"type": "library", "bom-ref": f"pkg:pypi/{name}@{version}", "name": name, "version": version,
                  "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"} for name, version in packages]
    component = {
        "type": "machine-learning-model", "bom-ref": f"model:{model.digest}", "name": str(recipe["name"]), "version": model.digest[:16],
        "description": str(recipe["title"]), "licenses": [_license(str(recipe["base"].get("license", "unknown")))],
        "hashes": [{"alg": "SHA-256", "content": entry.sha256} for name, entry in sorted(model.files.items())
                   if name.endswith(".safetensors")],
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"}, "task": "text generation", "architectureFamily": "Llama",
                "datasets": [{"ref": one["bom-ref"]} for one in data],
                "inputs": [{"format": "text"}], "outputs": [{"format": "text"}],
            },
            "quantitativeAnalysis": {"performanceMetrics": _metrics(decision, records)},
            "considerations": {
                "useCases": list(USE), "technicalLimitations": list(LIMITATIONS),
                "ethicalConsiderations": [{"name": "Not a medical device", "mitigationStrategy": "A qualified person checks it."}],
            },
        },
        "properties": [{"name": "med42:record", "value": model.digest}, {"name": "med42:decision", "value": decision.digest},
                       {"name": "med42:approved", "value": str(decision.measured.get("approved") is True).lower()}],
    }
    refs = [one["bom-ref"] for one in [base, *data, *libraries]]
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, 'med42:' + decision.digest)}",
        "metadata": {
            "lifecycles": [{"phase": "build"}], "component": component,
            "tools": {"components": [{"type": "application", "name": "med42-pipeline", "version": __version__}]},
        },
        "components": [base, *data, *libraries],
        "dependencies": [{"ref": component["bom-ref"], "dependsOn": sorted(set(refs))}],
        "formulation": [{"bom-ref": "formula", "workflows": [{
            "bom-ref": f"workflow:{decision.digest}", "uid": decision.digest, "name": f"recipe {recipe['name']}", "taskTypes": ["build"],
            "tasks": [{
                "bom-ref": f"task:{record.digest}", "uid": record.digest, "name": record.name, "taskTypes": [_task_type(record)],
                "inputs": [{"resource": {"ref": f"task:{digest}"}}
                           for digest in sorted(set(record.inputs.values()) & records.keys())] or None,
                "timeStart": record.made.started.replace("+00:00", "Z"),
            } for record in sorted(records.values(), key=lambda record: (record.name, record.digest))],
        }]}],
    }
    return canonical(_without_none(bill))


def _data(recipe: Mapping[str, Any], records: Mapping[str, Record]) -> list[dict[str, Any]]:
    found = []
    for kind, stage in (("sources", "prepare_source"), ("preferences", "build_preferences")):
        made = [record for record in records.values() if record.stage == stage]
        for name, source in sorted(recipe.get(kind, {}).items()):
            own = [record for record in made if name in record.measured.get("accounts", {})]
            if own:
                origin = source.get("origin", {})
                place = str(origin.get("repo") or origin.get("url") or origin.get("part") or ", ".join(origin.get("files", [])))
                owner = place.partition("/")[0]
                pins = recipe.get("pins", {}).get(f"{kind}.{name}", {})
                found.append({
                    "type": "data", "bom-ref": f"data:{kind}.{name}", "name": name,
                    "version": str(pins.get("revision") or own[0].digest[:16]),
                    "licenses": [_license(str(source.get("license", "unknown")))],
                    "data": [{"type": "dataset", "name": place, "governance": {"owners": [{"organization": {"name": owner}}]}}],
                    "properties": [{"name": "med42:origin", "value": str(origin.get("kind", ""))},
                                   {"name": "med42:terms", "value": str(source.get("terms", ""))},
                                   *({"name": "med42:record", "value": record.digest} for record in own)],
                })
    return found


def _base(recipe: Mapping[str, Any], records: Mapping[str, Record]) -> dict[str, Any]:
    base = next((record for record in records.values() if record.stage == "prepare_base"), None)
    measured = base.measured if base else {}
    return {
        "type": "machine-learning-model", "bom-ref": "model:base", "name": str(recipe["base"].get("repo") or "random weights"),
        "version": str(measured.get("commit") or (base.digest[:16] if base else "unknown")),
        "licenses": [_license(str(measured.get("license") or recipe["base"].get("license", "unknown")))],
    }


def _metrics(decision: Record, records: Mapping[str, Record]) -> list[dict[str, Any]]:
    return [
        {"type": "accuracy", "slice": one.name, "value": f"{one.value:.6f}",
         **({"confidenceInterval": {"lowerBound": f"{one.low:.6f}", "upperBound": f"{one.high:.6f}"}} if one.items else {})}
        for one in scored(decision, records)
    ]


def _license(name: str) -> dict[str, Any]:
    return {"license": {"id": name} if name in _SPDX else {"name": name}}


def _task_type(record: Record) -> str:
    kinds = {"push_model": "deploy", "decide_release": "test", "evaluate_model": "test"}
    return kinds.get(record.stage, "build")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list) else value
