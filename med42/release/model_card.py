"""The model card (README.md): what the model is made of and how well it does, from its records alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from med42.data.licences import LICENCES
from med42.lineage.record import Record
from med42.lineage.scores import interval_of, scores_of
from med42.recipe import Recipe, recipe_digest
from med42.recipe.schema import HubOrigin, InventedOrigin

# Licences that a hub knows by these names; any other is given as `other` with its name.
HUB_LICENSES = {
    "apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "gemma",
    "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3",
}
SETTINGS = ("optimizer", "learning_rate", "betas", "weight_decay", "schedule", "warmup", "beta", "loss", "batch", "max_length", "dtype")

INTENDED = """\
For research and for building tools in which a clinician stays responsible: drafting and summarising text, answering
study questions, comparing methods of training. It is not a medical device. It must not diagnose, triage, choose a
treatment or a dose, or speak to a patient, without a qualified person who checks what it says."""

LIMITATIONS = """\
- It can state false things fluently, invent sources, and be wrong where it sounds most certain.
- The scores are of multiple-choice questions: they measure the choice among given answers, not the safety or
  completeness of free text, and no score covers a clinical setting.
- It repeats the gaps and biases of its data, which are mostly English and hold nothing newer than their sources.
- Preference training moves style and caution as well as correctness; refusals are not a safeguard."""

LOADING = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

place = "..."  # this repository's name, or the folder that holds these files
tokenizer = AutoTokenizer.from_pretrained(place)
model = AutoModelForCausalLM.from_pretrained(place)
messages = [{"role": "user", "content": "Which vitamin deficiency causes scurvy?"}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**prompt, max_new_tokens=128)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))
```

The chat template is part of the tokenizer; a prompt in another form gives another model. An answer ends at `<|eot_id|>`, or at
`<|end_of_text|>`: `generation_config.json` says so to `generate`, and a server that does not read it must be told."""


def model_card(recipe: Recipe, record: Record, ancestry: dict[str, Record], override: dict[str, Any] | None = None) -> str:
    """A model's card: Markdown with a YAML head, the same text for the same records.

    Args:
        recipe: the resolved recipe.
        record: the model's record.
        ancestry: records by digest that hold what the model descends from and, if it was scored, its scores.
        override: who released it against which gates and why, where a person did.
    """
    line = _line(record, ancestry)
    sections = [
        f"# {recipe.title}",
        f"Made by the recipe `{recipe.name}` (for {recipe.use} use). `record.json` beside this card names every input of it by digest.",
    ]
    if invented := [name for name, source in recipe.sources.items() if isinstance(source.origin, InventedOrigin)]:
        sections.append(f"**A demonstration, not for use:** the facts of {', '.join(sorted(invented))} are invented.")
    if override:
        sections.append(f"**Released against {', '.join(override['gates'])}** by {override['by']}: {override['reason']}")
    sections += ["## Base and licence", _base(recipe, line)]
    if mixes := line.get("mix_data"):
        sections += ["## Data", _data(recipe, mixes[-1])]
    if trained := [*line.get("train_sft", []), *line.get("train_dpo", [])]:
        sections += ["## Training", _training(trained)]
    sections += ["## Scores", _scores(record, ancestry), "## Intended use", INTENDED, "## Limitations", LIMITATIONS]
    sections += ["## How to load it", LOADING]
    sections += ["## Provenance", f"- record of the model: `{record.digest}`\n- recipe: `{recipe_digest(recipe)}`"]
    head = _head(recipe, line) | _model_index(recipe, record, ancestry)
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n" + "\n\n".join(sections) + "\n"


def _line(record: Record, ancestry: dict[str, Record]) -> dict[str, list[Record]]:
    """The records that the model descends from, its own included, by stage, oldest first."""
    line: dict[str, list[Record]] = {}
    seen: set[str] = set()

    def visit(one: Record) -> None:
        if one.digest not in seen:
            seen.add(one.digest)
            for _, digest in sorted(one.inputs.items()):
                if digest in ancestry:
                    visit(ancestry[digest])
            line.setdefault(one.stage, []).append(one)

    visit(record)
    return line


def _head(recipe: Recipe, line: dict[str, list[Record]]) -> dict[str, Any]:
    license_id = _license(recipe, line)
    head: dict[str, Any] = {"license": license_id.lower() if license_id.lower() in HUB_LICENSES else "other"}
    if head["license"] == "other":
        head["license_name"] = license_id
    if recipe.base.kind == "hub":
        head["base_model"] = recipe.base.repo
    if published := sorted({source.origin.repo for source in recipe.sources.values() if isinstance(source.origin, HubOrigin)}):
        head["datasets"] = published
    return head | {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["medical", "clinical", "med42-pipeline"]}


def _license(recipe: Recipe, line: dict[str, list[Record]]) -> str:
    bases = line.get("prepare_base")
    return str(bases[0].measured["license"] if bases else recipe.base.license)


def _base(recipe: Recipe, line: dict[str, list[Record]]) -> str:
    measured = line["prepare_base"][0].measured if "prepare_base" in line else {}
    start = f"`{measured.get('repo', recipe.base.repo)}`" if recipe.base.kind == "hub" else "random weights of the Llama-3 shape"
    at = f" at commit `{measured['commit']}`" if measured.get("commit") else ""
    told = [f"It starts from {start}{at}, licence {_license(recipe, line)}, whose terms hold for this model too."]
    if notice := LICENCES[recipe.base.license].notice:
        told.append(f"{notice}.")
    terms = line["mix_data"][-1].measured.get("terms", {}) if "mix_data" in line else {}
    for key, words in (("non_commercial", "Not for commercial use, because of"), ("unknown", "No licence is named by the publishers of"),
                       ("share_alike", "Share alike is asked for by")):
        if terms.get(key):
            told.append(f"{words} {', '.join(terms[key])}.")
    return " ".join(told)


def _data(recipe: Recipe, mix: Record) -> str:
    rows = []
    for name, account in mix.measured["accounts"].items():
        source = recipe.sources[name]
        rows.append((name, source.domain, account["kept"], account["read"] - account["kept"], source.license))
    share = f", {mix.measured['medical_share']:.1%} of them medical" if "medical_share" in mix.measured else ""
    return f"{mix.measured['rows']:,} conversations{share}.\n\n" + _table(("source", "domain", "rows", "left out", "licence"), rows)


def _training(trained: list[Record]) -> str:
    rows = []
    for one in trained:
        settings = one.parameters.get("sft") or one.parameters.get("dpo") or {}
        told = ", ".join(f"{key} {settings[key]}" for key in SETTINGS if settings.get(key) is not None)
        rows.append((one.name, one.measured.get("steps", ""), told))
    return _table(("stage", "steps", "settings"), rows)


def _scores(record: Record, ancestry: dict[str, Record]) -> str:
    evaluation = _evaluation(record, ancestry)
    if evaluation is None:
        return "It was not scored."
    rows = [(one.name, f"{one.value:.4f}", f"{one.low:.4f} to {one.high:.4f}" if one.items else "", one.items or "")
            for one in scores_of(evaluation, ancestry)]
    ends = interval_of(evaluation, "average")
    rows.append((f"**{evaluation.measured.get('average_name', 'average')}**", f"{float(evaluation.measured['average']):.4f}",
                 f"{ends[0]:.4f} to {ends[1]:.4f}" if ends else "", ""))
    how = "Wilson's" + (" of a share, else a bootstrap over the items within their subject" if "intervals" in evaluation.measured else "")
    protocol = f" Protocol `{evaluation.measured['protocol']}`." if "protocol" in evaluation.measured else ""
    return _table(("benchmark", "score", "95% interval", "items"), rows) + (
        f"\n\nShare of right answers; the interval is of the items alone: {how}.{protocol}")


def _model_index(recipe: Recipe, record: Record, ancestry: dict[str, Record]) -> dict[str, Any]:
    """The scores in the form that hubs read."""
    evaluation = _evaluation(record, ancestry)
    if evaluation is None:
        return {}
    protocol = str(evaluation.measured.get("protocol", ""))
    results = [
        {"task": {"type": "text-generation"}, "dataset": {"name": one.name, "type": one.name, "args": {"protocol": protocol}},
         "metrics": [{"type": "accuracy", "value": round(one.value, 6), "name": "share of right answers"}
                     | ({"args": {"items": one.items, "low_95": round(one.low, 6), "high_95": round(one.high, 6)}} if one.items else {})]}
        for one in scores_of(evaluation, ancestry)
    ]
    return {"model-index": [{"name": recipe.name, "results": results}]} if results else {}


def _evaluation(record: Record, ancestry: dict[str, Record]) -> Record | None:
    """The scores of this very model; those of its forebears, which gates compare with, are left out."""
    return next((one for one in ancestry.values() if one.stage == "evaluate_model" and record.digest in one.inputs.values()), None)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *([f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in line) + " |" for line in lines)
