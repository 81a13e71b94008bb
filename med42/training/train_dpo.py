"""The stage `train_dpo`: one round of direct preference optimisation (Table 3).

Round k starts from the model of round k-1 (round 1 from SFT) and takes that same model as its reference, so
the first loss of every round is ln 2, and the margins of the rounds add up to the margin over the SFT model:
beta * log(pi_3/pi_0) = beta * (log(pi_3/pi_2) + log(pi_2/pi_1) + log(pi_1/pi_0)).
"""

from __future__ import annotations

import functools
import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from med42.data.chat import END, TURN_END
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.journal import Job
from med42.lineage.record import Record, read_record
from med42.recipe import Recipe
from med42.recipe.schema import Dpo
from med42.report.quiet import work_offline_and_quietly
from med42.training.answers import answer, asked, divergence
from med42.training.checkpoint_bucket import discard
from med42.training.checkpoints import checkpoint_folder
from med42.training.launch import Launch, main, start
from med42.training.model import copy_model, load_model
from med42.training.round_page import round_page, summary_of
from med42.training.sharding import is_first_process
from med42.training.train_sft import PACKAGES
from med42.training.trainer import Training, score_supervised_positions_only, training_arguments, write_log

IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
ROUNDS = "rounds.json"
ANSWERS = "answers.json"

# Above fp32 or bf16 rounding of a sum of log-probabilities, far below any real difference of models.
FIRST_MARGIN_TOLERANCE = 2e-2


@stage
def train_dpo(recipe: Recipe, round_number: int, policy: Path, preferences: Path, out: Path, job: Job, sft: Path | None = None,
              launch: Launch = start) -> Record:
    """Train one round (1-based) from the previous model on the round's pairs, on this machine or where `launch` starts the processes.

    Args:
        recipe: the resolved recipe.
        round_number: which round of `dpo.rounds`.
        policy: the model of the round before; in round 1 the SFT model.
        preferences: the round's pairs.
        out: folder to make.
        job: the run and its store.
        sft: the SFT model, to tell how far later rounds have gone from it; without it they do not tell.
        launch: who starts the processes and waits for them.

    Raises:
        Med42Error: start and reference are not the same model, a loss is not finite, or another world size.
    """
    settings = recipe.dpo.model_dump(mode="json", exclude={"rounds", "held_out", "on_policy"})
    inputs = {"policy": policy, "preferences": preferences} | ({"sft": sft} if sft and round_number > 1 else {})
    parameters = {"seed": recipe.seed, "round": round_number, "dpo": settings}
    plan = Plan("train_dpo", "model", parameters, inputs, "training", PACKAGES, name=f"train_dpo-{round_number}")
    record = produce(plan, out, job, lambda draft: launch(train, plan.name, recipe.dpo, recipe, inputs, draft, job))
    discard(recipe.dpo.checkpoint_bucket, checkpoint_folder(plan.name, recipe, recipe.dpo, inputs, job))
    return record


def train(recipe: Recipe, inputs: dict[str, Path], draft: Path, scratch: Path, job: Job) -> Outcome:
    """Train a round, or leave the model as it is where `dpo.stop` says so; the first process writes the model."""
    work_offline_and_quietly()
    from transformers import AutoTokenizer

    settings, policy, preferences = recipe.dpo, inputs["policy"], inputs["preferences"]
    name = name_of(inputs)
    round_number = int(name.rpartition("-")[2])
    training = Training(name, recipe, settings, inputs, scratch, job, 2 * settings.batch * settings.max_length,
                        read_record(preferences).measured["pairs"])
    measured: dict[str, Any] = {"round": round_number, "steps": 0, "pairs": read_record(preferences).measured["pairs"]}
    answers: list[dict[str, str]] = []
    if stopped := why_not_trained(recipe, round_number, policy):
        measured["stopped"] = stopped
        if writes := is_first_process():
            copy_model(policy, draft)
    else:
        tokenizer = AutoTokenizer.from_pretrained(policy)
        arguments = _arguments(recipe, training)  # before the model is loaded: by them each process loads its shard
        model = load_model(policy, settings)
        if settings.steps != 0:
            found, answers = _train(recipe, model, arguments, tokenizer, inputs, training)
            measured |= found
        writes = training.save(model, policy, draft)
    if writes:
        earlier = json.loads((policy / ROUNDS).read_text()) if (policy / ROUNDS).is_file() else []
        rounds = [*earlier, summary_of(measured)]
        (draft / ROUNDS).write_text(json.dumps(rounds, indent=1) + "\n")
        (draft / ANSWERS).write_text(json.dumps(answers, indent=1) + "\n")
        (draft / "page.html").write_text(
            round_page(recipe, measured, training.logged, answers, rounds, read_record(policy), read_record(preferences)))
        write_log(training.logged, draft)
    margin = f", margin over SFT {measured['held_out']['margin_over_sft']:.2f}" if "held_out" in measured else ""
    return Outcome({**measured, "summary": stopped or f"{measured['steps']} steps{margin}"}, training.observed())


def _train(recipe: Recipe, model: Any, arguments: Any, tokenizer: Any, inputs: dict[str, Path],
           training: Training) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """What a round measures, and what its models answer before and after."""
    settings, policy, round_number = recipe.dpo, inputs["policy"], int(training.name.rpartition("-")[2])
    score_supervised_positions_only()
    trainer = _trainer(recipe, model, arguments, tokenizer, inputs, training)
    prompts, ends = asked(inputs["preferences"], settings.samples), _ends(tokenizer)
    with _plain(trainer, settings):
        before = answer(trainer.model, prompts, settings.sample_tokens, ends)
    training.run(trainer)
    measured: dict[str, Any] = {"steps": training.steps, **_logged(training.name, settings, training.logged)}
    if trainer.eval_dataset is not None:
        measured["held_out"] = _held_out(trainer.evaluate(), round_number, policy)
    if not prompts:
        return measured, []
    with _plain(trainer, settings):
        after = answer(trainer.model, prompts, settings.sample_tokens, ends)
        measured |= {"answer_tokens_before": _mean_length(before), "answer_tokens": _mean_length(after)}
        if sft := policy if round_number == 1 else inputs.get("sft"):
            measured["kl_to_sft"] = divergence(trainer.model, _frozen(trainer, sft, settings), prompts, after)
    return measured, [{"prompt": prompt.text, "before": tokenizer.decode(first), "after": tokenizer.decode(second)}
                      for prompt, first, second in zip(prompts, before, after, strict=True)]


def why_not_trained(recipe: Recipe, round_number: int, policy: Path) -> str:
    """Why a round leaves the model as it is (`dpo.stop`): the one before brought too little; empty where it is trained."""
    stop, before = recipe.dpo.stop, read_record(policy).measured
    if stop is None or round_number == 1:
        return ""
    if told := before.get("stopped"):
        return str(told)
    found = before.get("held_out", {}).get(stop.measure)
    if found is None or found >= stop.at_least:
        return ""
    return f"not trained: round {round_number - 1} brought a held-out {stop.measure} of {found:.4g}, less than {stop.at_least:g} (dpo.stop)"


def _arguments(recipe: Recipe, training: Training) -> Any:
    from trl import DPOConfig

    settings = recipe.dpo
    evaluated = max(1, settings.tokens_at_once // (2 * settings.max_length))  # pairs
    losses = {settings.loss: 1.0} | ({"sft": settings.sft_weight} if settings.sft_weight else {})
    return DPOConfig(
        **training_arguments(settings, settings.pairs_per_device, recipe.seed, training), beta=settings.beta, loss_type=list(losses),
        loss_weights=list(losses.values()), label_smoothing=settings.label_smoothing,
        per_device_eval_batch_size=evaluated, max_length=settings.max_length, precompute_ref_log_probs=True,
    )


def _trainer(recipe: Recipe, model: Any, arguments: Any, tokenizer: Any, inputs: dict[str, Path], training: Training) -> Any:
    """TRL's trainer with our forward inside, or as it is (`dpo.forward`); it has the reference's log-probabilities."""
    import datasets

    from med42.training.preference_trainer import PreparedDPOTrainer, SharedPromptTrainer

    def rows(folder: Path) -> Any:
        paths = [str(path) for path in sorted(folder.glob("part-*.parquet"))]
        return datasets.Dataset.from_parquet(paths, columns=list(IDS), cache_dir=str(training.scratch)) if paths else None

    preferences = inputs["preferences"]
    given = {"model": model, "args": arguments, "train_dataset": rows(preferences), "eval_dataset": rows(preferences / "held_out"),
             "processing_class": tokenizer}
    if recipe.dpo.forward == "trl":
        return PreparedDPOTrainer(**given)
    folder = training.checkpoints or training.scratch
    return SharedPromptTrainer(functools.partial(_reference, recipe.dpo, inputs, folder), recipe.dpo.row_tokens, **given)


def _reference(settings: Dpo, inputs: dict[str, Path], folder: Path, name: str, pairs: Any, score: Any) -> Any:
    """The log-probabilities that the start gives one set of the round's pairs; from a file where they are in one."""
    from med42.training.reference import reference_log_probs

    belongs_to = {"model": read_record(inputs["policy"]).digest, "pairs": read_record(inputs["preferences"]).digest}
    # A training step reckons with as many tokens, and needs more memory for each.
    return reference_log_probs(folder / f"reference-{name}.safetensors", belongs_to, pairs, settings.tokens_at_once, score)


def _logged(name: str, settings: Dpo, logged: list[dict[str, Any]]) -> dict[str, Any]:
    """First and last of what was logged. The first margin is 0, for which the loss is ln 2; ipo's is (1 / 2 beta)^2.

    Raises:
        Med42Error: start and reference are not the same model.
    """
    first, last = logged[0], logged[-1]
    expected = 1 / (4 * settings.beta**2) if settings.loss == "ipo" else math.log(2)
    if not abs(first["rewards/margins"]) <= FIRST_MARGIN_TOLERANCE:
        raise Med42Error(name, f"first margin {first['rewards/margins']:.4f}, first loss {first['loss']:.4f}",
                         f"margin 0, loss {expected:.4f}: start and reference are the same model",
                         "The reference log-probabilities belong to another model; make the round again.")
    return {"first_loss": first["loss"], "last_loss": last["loss"], "train_margin": last["rewards/margins"]}


def _held_out(found: dict[str, float], round_number: int, policy: Path) -> dict[str, float]:
    before = read_record(policy).measured.get("held_out", {}) if round_number > 1 else {}
    return {
        "accuracy": found["eval_rewards/accuracies"], "margin": found["eval_rewards/margins"],
        "margin_over_sft": found["eval_rewards/margins"] + before.get("margin_over_sft", 0.0),
        "preference_gap": found["eval_logps/chosen"] - found["eval_logps/rejected"],
    }


def _frozen(trainer: Any, folder: Path, settings: Dpo) -> Any:
    """A model that is only asked, on the trainer's device or in its shards."""
    model = load_model(folder, settings)
    if not trainer.is_deepspeed_enabled:
        return model.to(trainer.accelerator.device)
    from trl.models import prepare_deepspeed

    return prepare_deepspeed(model, trainer.accelerator).module


def _plain(trainer: Any, settings: Dpo) -> Any:
    """Within it, the trainer's model computes other rows than packed pairs."""
    if settings.forward == "trl":
        return nullcontext()
    from med42.training.preference_trainer import plain_attention

    return plain_attention(trainer.model, settings.attention)


def _ends(tokenizer: Any) -> list[int]:
    return sorted({tokenizer.convert_tokens_to_ids(token) for token in (END, TURN_END)} | {tokenizer.eos_token_id})


def _mean_length(answers: list[list[int]]) -> float:
    return sum(map(len, answers)) / len(answers)


def name_of(inputs: dict[str, Path]) -> str:
    """The round's name, by the number that its pairs have in theirs."""
    return f"train_dpo-{read_record(inputs['preferences']).name.rpartition('-')[2]}"


if __name__ == "__main__":
    main(train, name_of)
