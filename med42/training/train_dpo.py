"""The stage `train_dpo`: one round of direct preference optimisation (Table 3).

Round k starts from the model of round k-1 (round 1 from SFT) and takes that same model as its reference, so
the first loss of every round is ln 2, and the margins of the rounds add up to the margin over the SFT model:
beta * log(pi_3/pi_0) = beta * (log(pi_3/pi_2) + log(pi_2/pi_1) + log(pi_1/pi_0)).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.journal import Job
from med42.lineage.record import Record, read_record
from med42.recipe import Recipe
from med42.report import page
from med42.report.quiet import work_offline_and_quietly
from med42.training.checkpoints import checkpoint_folder, discard
from med42.training.launch import Launch, main, start
from med42.training.model import load_model
from med42.training.train_sft import PACKAGES
from med42.training.trainer import Training, curves, score_supervised_positions_only, training_arguments, write_log

IDS = ("prompt_ids", "chosen_ids", "rejected_ids")

# Above fp32 or bf16 rounding of a sum of log-probabilities, far below any real difference of models.
FIRST_LOSS_TOLERANCE = 1e-2


@stage
def train_dpo(recipe: Recipe, round_number: int, policy: Path, preferences: Path, out: Path, job: Job, launch: Launch = start) -> Record:
    """Train one round (1-based) from the previous model on the round's pairs, on this machine or where `launch` starts the processes.

    Raises:
        Med42Error: the first loss is not ln 2, a loss is not finite, or another world size.
    """
    settings = recipe.dpo.model_dump(mode="json", exclude={"rounds", "held_out"})
    parameters, inputs = {"seed": recipe.seed, "round": round_number, "dpo": settings}, {"policy": policy, "preferences": preferences}
    plan = Plan("train_dpo", "model", parameters, inputs, "training", PACKAGES, name=f"train_dpo-{round_number}")
    record = produce(plan, out, job, lambda draft: launch(train, plan.name, recipe.dpo, recipe, inputs, draft, job))
    discard(checkpoint_folder(plan.name, recipe, recipe.dpo, inputs, job))
    return record


def train(recipe: Recipe, inputs: dict[str, Path], draft: Path, scratch: Path, job: Job) -> Outcome:
    """Train with TRL's DPOTrainer on pairs that are token ids already; the first process writes the model."""
    work_offline_and_quietly()
    import datasets
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    class PreparedDPOTrainer(DPOTrainer):
        """A DPOTrainer for pairs that are token ids already, made by the same chat format as the SFT data."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    settings, policy, preferences = recipe.dpo, inputs["policy"], inputs["preferences"]
    name = name_of(inputs)
    round_number = int(name.rpartition("-")[2])
    training = Training(name, recipe, settings, inputs, scratch, job, 2 * settings.batch * settings.max_length)
    score_supervised_positions_only()
    tokenizer = AutoTokenizer.from_pretrained(policy)
    arguments = DPOConfig(
        **training_arguments(settings, settings.pairs_per_device, recipe.seed, training), beta=settings.beta, loss_type=[settings.loss],
        per_device_eval_batch_size=settings.pairs_per_device, max_length=settings.max_length,
        precompute_ref_log_probs=True,
    )
    model = load_model(policy, settings)
    held_out: dict[str, float] = {}
    if settings.steps != 0:
        def rows(folder: Path) -> Any:
            paths = [str(path) for path in sorted(folder.glob("part-*.parquet"))]
            return datasets.Dataset.from_parquet(paths, columns=list(IDS), cache_dir=str(scratch)) if paths else None

        trainer = PreparedDPOTrainer(
            model=model, args=arguments, train_dataset=rows(preferences), eval_dataset=rows(preferences / "held_out"),
            processing_class=tokenizer,
        )
        training.run(trainer)
        if trainer.eval_dataset is not None:
            held_out = trainer.evaluate()
    steps, history = training.steps, training.logged
    if history and abs(history[0]["loss"] - math.log(2)) > FIRST_LOSS_TOLERANCE:
        raise Med42Error(name, f"first loss {history[0]['loss']:.4f}", f"ln 2 = {math.log(2):.4f}: start and reference are the same model",
                         "The reference log-probabilities belong to another model; make the round again.")
    before = read_record(policy).measured.get("held_out", {}) if round_number > 1 else {}
    pairs = read_record(preferences).measured["pairs"]
    measured: dict[str, Any] = {"round": round_number, "steps": steps, "pairs": pairs}
    if history:
        measured |= {"first_loss": history[0]["loss"], "last_loss": history[-1]["loss"], "train_margin": history[-1]["rewards/margins"]}
    if held_out:
        measured["held_out"] = {
            "accuracy": held_out["eval_rewards/accuracies"], "margin": held_out["eval_rewards/margins"],
            "margin_over_sft": held_out["eval_rewards/margins"] + before.get("margin_over_sft", 0.0),
            "preference_gap": held_out["eval_logps/chosen"] - held_out["eval_logps/rejected"],
        }
    if training.save(model, policy, draft):
        _write_page(recipe, round_number, measured, history, draft)
        write_log(history, draft)
    margin = f", margin over SFT {measured['held_out']['margin_over_sft']:.2f}" if held_out else ""
    return Outcome({**measured, "summary": f"{measured['steps']} steps{margin}"}, training.observed())


def name_of(inputs: dict[str, Path]) -> str:
    """The round's name, by its pairs."""
    return read_record(inputs["preferences"]).name.replace("build_preferences", "train_dpo")


def _write_page(recipe: Recipe, round_number: int, measured: dict[str, Any], history: list[dict[str, Any]], draft: Path) -> None:
    settings = [(key, str(value)) for key, value in recipe.dpo.model_dump(mode="json").items()]
    held_out = [(key.replace("_", " "), value) for key, value in measured.get("held_out", {}).items()]
    shown = {"loss": ("loss",), "reward": ("rewards/chosen", "rewards/rejected"), "margin": ("rewards/margins",),
             "accuracy": ("rewards/accuracies",)}
    lead = f"{measured['pairs']:,} pairs, {measured['steps']} steps; start and reference: the model of the round before."
    (draft / "page.html").write_text(page.page(f"DPO round {round_number}", lead, [
        page.heading("Held-out pairs"),
        page.table(("measure", "value"), held_out) if held_out else page.paragraph("The recipe holds none out."),
        page.heading("Curves"), *curves(history, shown),
        page.heading("Settings"), page.table(("key", "value"), settings),
    ]))


if __name__ == "__main__":
    main(train, name_of)
