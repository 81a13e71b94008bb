"""The stage `score_answers`: a reward for every sampled answer.

On disk: `scored.jsonl` (`med42.data.answers`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from med42.data.answers import ANSWERS, SCORED, read_answers, write_answers
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.digest import file_digest, folder_files
from med42.lineage.items import DoneItems
from med42.lineage.journal import Job, Progress
from med42.lineage.record import Record
from med42.recipe import Recipe
from med42.recipe.schema import RewardModel, RewardOverlap
from med42.report import page
from med42.report.quiet import work_offline_and_quietly
from med42.training.train_sft import PACKAGES

SHOWN = 12

# The scores of all answers to one prompt: (a line of answers.jsonl) -> scores.
Reward = Callable[[dict[str, Any]], list[float]]


@stage
def score_answers(recipe: Recipe, round_number: int, answers: Path, out: Path, job: Job) -> Record:
    """Score the answers of one round (1-based).

    Raises:
        Med42Error: no such reward model, or it gives no finite number, or another number of them.
    """
    if recipe.dpo.on_policy is None:
        raise Med42Error("dpo.on_policy", "none", "how answers are scored", "Set it, or train on the published pairs.")
    reward = recipe.dpo.on_policy.reward
    files = _files(reward, job)
    parameters = {"reward": reward.model_dump(mode="json"), "pinned": {"reward": files}}
    plan = Plan("score_answers", "answers", parameters, {"answers": answers}, "training", PACKAGES,
                name=f"score_answers-{round_number}")
    done = DoneItems(plan, job)
    record = produce(plan, out, job, lambda draft: _build(reward, round_number, answers, draft, done, plan.name, job))
    done.discard()
    return record


def _build(reward: RewardModel | RewardOverlap, round_number: int, answers: Path, draft: Path, done: DoneItems, name: str,
           job: Job) -> Outcome:
    rows = read_answers(answers / ANSWERS)
    progress = Progress(job, name, len(rows), "prompts")
    before = len(done.found)
    progress.begin(len(rows), before)
    left = [row for row in rows if row["id"] not in done.found]
    score = overlap if isinstance(reward, RewardOverlap) or not left else _by_model(reward, job)
    for row in left:
        scores = score(row)
        if len(scores) != len(row["answers"]) or not all(map(math.isfinite, scores)):
            raise Med42Error(f"{name}, prompt {row['id'][:12]}", f"scores {scores}", f"{len(row['answers'])} finite numbers",
                             "The reward model is broken, or not one that scores an answer by one number.")
        done.add([{**row, "scores": scores}])
        progress.step(len(done.found))
    scored = [done.found[row["id"]] for row in rows]
    write_answers(draft / SCORED, scored)
    every = [score for row in scored for score in row["scores"]]
    measured: dict[str, Any] = {
        "prompts": len(scored), "answers": len(every), "mean_reward": sum(every) / len(every),
        "mean_best": sum(max(row["scores"]) for row in scored) / len(scored),
        "mean_worst": sum(min(row["scores"]) for row in scored) / len(scored),
    }
    (draft / "page.html").write_text(page.page(
        f"Rewards of round {round_number}", f"{len(every):,} answers: {measured['mean_reward']:.4g} on average, the best of a prompt "
        f"{measured['mean_best']:.4g}, the worst {measured['mean_worst']:.4g}.",
        [page.heading("Best and worst of some prompts"), page.table(("asked", "best", "", "worst", ""), [
            _ends(row) for row in scored[:SHOWN]])]))
    return Outcome({**measured, "summary": f"mean reward {measured['mean_reward']:.4g}"}, {"resumed_after": before})


def overlap(row: dict[str, Any]) -> list[float]:
    """Words in common with the published chosen answer less those with the rejected one: the difference of two F1, -1 to 1."""
    return [_f1(answer, row["chosen"]) - _f1(answer, row["rejected"]) for answer in row["answers"]]


def _f1(one: str, other: str) -> float:
    first, second = Counter(one.lower().split()), Counter(other.lower().split())
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 0.0


def _files(reward: RewardModel | RewardOverlap, job: Job) -> dict[str, str]:
    """The reward model's files by digest."""
    if isinstance(reward, RewardOverlap):
        return {}
    folder = _folder(reward, job)
    return {name: file_digest(folder / name) for name in folder_files(folder)}


def _folder(reward: RewardModel, job: Job) -> Path:
    folder = (job.data_root or Path()) / reward.folder
    if not any(folder.glob("*.safetensors")):
        raise Med42Error("dpo.on_policy.reward.folder", f"no *.safetensors in {folder}", "a sequence classifier in the data root",
                         "Put the reward model there, or name another folder.")
    return folder


def _by_model(reward: RewardModel, job: Job) -> Reward:
    work_offline_and_quietly()
    return _by_ranker(reward, job) if reward.kind == "pair_ranker" else _by_classifier(reward, job)


def _by_ranker(reward: RewardModel, job: Job) -> Reward:
    """A ranker of pairs as a reward; it gets the text of a prompt of one turn, and of several with who says what."""
    import torch

    from med42.training.pair_ranker import load_ranker

    rank = load_ranker(_folder(reward, job), getattr(torch, reward.dtype), "cuda" if torch.cuda.is_available() else "cpu")

    def score(row: dict[str, Any]) -> list[float]:
        prompt = row["prompt"]
        told = prompt[0]["content"] if len(prompt) == 1 else "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)
        return rank(told, row["answers"])

    return score


def _by_classifier(reward: RewardModel, job: Job) -> Reward:
    """A sequence classifier with one output as a reward; it gets prompt and answer by its own chat template.

    Raises:
        Med42Error: it has no chat template, or another number of outputs.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = _folder(reward, job)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=getattr(torch, reward.dtype), use_safetensors=True)
    if tokenizer.chat_template is None or model.config.num_labels != 1:
        raise Med42Error(folder, f"{model.config.num_labels} outputs, {'a' if tokenizer.chat_template else 'no'} chat template",
                         "a classifier with one output and a chat template", "Choose a reward model of that form.")
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    # The head reads the last token that is no padding: where padding is also what ends an answer, one answer at a time.
    at_once = tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id if at_once else None
    tokenizer.padding_side = "right"

    def score(row: dict[str, Any]) -> list[float]:
        texts = [tokenizer.apply_chat_template([*row["prompt"], {"role": "assistant", "content": answer}], tokenize=False)
                 for answer in row["answers"]]
        found: list[float] = []
        for some in [texts] if at_once else [[text] for text in texts]:
            # The template writes the first token itself.
            batch = tokenizer(some, add_special_tokens=False, padding=at_once, return_tensors="pt").to(model.device)
            with torch.no_grad():
                logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            found += logits.float().flatten().tolist()
        return found

    return score


def _ends(row: dict[str, Any]) -> tuple[str, str, float, str, float]:
    """Its last turn, the best answer with its score, and the worst."""
    best, worst = (pick(range(len(row["scores"])), key=row["scores"].__getitem__) for pick in (max, min))
    return (row["prompt"][-1]["content"], row["answers"][best], row["scores"][best], row["answers"][worst], row["scores"][worst])
