"""A whole chain of artifacts in a second or two, for tests of the audit: real data, decision, push and seal; models made up.

What training, preferences and evaluation would write is written here in their form: the records have their keys.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scored import make_scores, share

from med42.data.mix_data import mix_data
from med42.lineage.artifact import Outcome, Plan, produce
from med42.lineage.digest import merkle_root, value_digest
from med42.lineage.journal import Job
from med42.lineage.record import Record
from med42.lineage.row_set import ROWS, write_row_set
from med42.preferences.pair import Pair
from med42.recipe import Recipe
from med42.release.decide_release import decide_release
from med42.release.push_model import push_model
from med42.release.seal_audit import seal_audit

PAIRS = [Pair([{"role": "user", "content": f"Question {number}?"}], f"Answer {number}.", "No.") for number in range(40)]


@dataclass(frozen=True)
class Chain:
    """A sealed chain.

    Attributes:
        folder: where every artifact lies, by its name.
        recipe: the recipe.
        seal: record of the bundle's artifact.
    """

    folder: Path
    recipe: Recipe
    seal: Record

    @property
    def bundle(self) -> Path:
        return self.folder / "seal" / self.seal.measured["bundle"]


def make_chain(folder: Path, tiny: SimpleNamespace, run: str = "chain", score: float = 0.8, recipe: Recipe | None = None) -> Chain:
    """Make every artifact of a release of `tiny`, or of a refusal where the score is too low, and seal it."""
    recipe, job = recipe or tiny.recipe, Job(run)

    def make(name: str, stage: str, kind: str, layer: str, inputs: dict[str, str], measured: dict[str, Any],
             parameters: dict[str, Any] | None = None, observed: dict[str, Any] | None = None, text: str = "") -> None:
        def build(draft: Path) -> Outcome:
            (draft / "page.html").write_text("<!doctype html>")
            if kind == "model":
                (draft / "model.safetensors").write_bytes(hashlib.sha256(f"{name}{text}".encode()).digest() * 64)
                (draft / "config.json").write_text("{}\n")
            if stage == "build_preferences":
                ids = [pair.id for pair in pairs_of(name)]
                write_row_set(draft / ROWS, ["pairs"], iter([(bytes.fromhex("".join(ids)), [0] * len(ids))]))
            return Outcome(measured, observed or {})

        paths = {key: tiny.benchmarks if of == "benchmarks" else folder / of for key, of in inputs.items()}
        produce(Plan(stage, kind, parameters or {"seed": 0}, paths, layer, (), name), folder / name, job, build)

    mix_data(recipe, list(tiny.sources.values()), tiny.benchmarks, folder / "mix_data", job)
    make("prepare_base", "prepare_base", "model", "training", {"mix": "mix_data"}, {"license": "Apache-2.0", "summary": "random"})
    make("pack_data", "pack_data", "packed", "data", {"mix": "mix_data", "base": "prepare_base"}, {"chunks": 9, "summary": "9 chunks"})
    sft = {"sft": recipe.sft.model_dump(mode="json"), "seed": recipe.seed}
    make("train_sft", "train_sft", "model", "training", {"base": "prepare_base", "packed": "pack_data"}, {"steps": 3, "summary": "3 steps"},
         sft, {"attempts": 2, "steps_redone": 1})
    model, models = "train_sft", dict[str, dict[str, list[bool]]]()
    for number in (0, 1, 2):
        if number:
            pairs = [pair.id for pair in pairs_of(f"build_preferences-{number}")]
            account = {"pairs": {"read": len(pairs) + 1, "kept": len(pairs), "dropped": {"overlaps benchmark mmlu": 1}}}
            make(f"build_preferences-{number}", "build_preferences", "preferences", "preferences",
                 {"base": "prepare_base", "benchmarks": "benchmarks"},
                 {"pairs": len(pairs), "merkle_root": merkle_root(pairs), "accounts": account, "summary": f"{len(pairs)} pairs"})
            dpo = {"dpo": recipe.dpo.model_dump(mode="json"), "seed": 0, "round": number}
            make(f"train_dpo-{number}", "train_dpo", "model", "training", {"policy": model, "preferences": f"build_preferences-{number}"},
                 {"round": number, "steps": 2, "summary": "2 steps"}, dpo)
            model = f"train_dpo-{number}"
        label = f"dpo-{number}" if number else "base"
        models[label] = {name: share(25 if name == "never-taught" or not number else round(100 * score), 100)
                         for name in recipe.evaluation.benchmarks}
        inputs = {"model": folder / model, "benchmarks": tiny.benchmarks}
        if number:
            inputs["earlier"] = folder / f"evaluate_model-{earlier_label(number)}"
        make_scores(folder / f"evaluate_model-{label}", job, models, inputs=inputs, outside=["never-taught"],
                    measured={"protocol": value_digest("protocol"), "items": 309, "missed_hate": {"toxigen": 0.1}},
                    parameters={"evaluation": {"batch": 64}, "label": label})
    decision = decide_release(recipe, folder / "evaluate_model-dpo-2", folder / "decide_release", job)
    subject = folder / "decide_release"
    if decision.measured["approved"]:
        push_model(recipe, folder / model, subject, folder / "push_model", job, f"directory:{folder}/published")
        subject = folder / "push_model"
    return Chain(folder, recipe, seal_audit(recipe, subject, folder / "seal", job))


def earlier_label(number: int) -> str:
    return f"dpo-{number - 1}" if number > 1 else "base"


def pairs_of(name: str) -> list[Pair]:
    return PAIRS[:20] if name.endswith("1") else PAIRS[20:]


def mixed_rows(mix: Path) -> list[dict[str, Any]]:
    """The rows of a mix, as its shards hold them."""
    from med42.data.shards import read_shards

    return [json.loads(json.dumps(row)) for row in read_shards(mix)]
