"""The stage `sample_answers`: the model that a round starts from answers the round's prompts, several times each.

On disk: `answers.jsonl` (`med42.data.answers`). Which answers are drawn is decided by the recipe's seed and the prompts of a
batch; a killed stage loses the batch in flight.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from med42.data.answers import ANSWERS, write_answers
from med42.data.shards import read_shards
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.digest import value_digest
from med42.lineage.items import DoneItems
from med42.lineage.journal import Job, Progress
from med42.lineage.record import Record
from med42.recipe import Recipe
from med42.recipe.schema import WHERE_AND_HOW_FAST, OnPolicy, ServerSampler
from med42.report import page
from med42.report.quiet import work_offline_and_quietly
from med42.training.completions import complete
from med42.training.model import load_model
from med42.training.train_sft import PACKAGES

SHOWN = 12


@stage
def sample_answers(recipe: Recipe, round_number: int, policy: Path, preferences: Path, out: Path, job: Job) -> Record:
    """Sample answers for one round (1-based).

    Raises:
        Med42Error: the server does not answer, or every answer is empty.
    """
    settings = _settings(recipe)
    decides = settings.model_dump(mode="json", exclude={"reward": True, "least_margin": True, "sampler": WHERE_AND_HOW_FAST})
    plan = Plan("sample_answers", "answers", {"seed": recipe.seed, "dtype": recipe.dpo.dtype, **decides},
                {"policy": policy, "preferences": preferences}, "training", PACKAGES, name=f"sample_answers-{round_number}")
    done = DoneItems(plan, job)
    record = produce(plan, out, job, lambda draft: _build(recipe, settings, round_number, policy, preferences, draft, done, plan.name, job))
    done.discard()
    return record


def _settings(recipe: Recipe) -> OnPolicy:
    if recipe.dpo.on_policy is None:
        raise Med42Error("dpo.on_policy", "none", "how answers are sampled", "Set it, or train on the published pairs.")
    return recipe.dpo.on_policy


def _build(recipe: Recipe, settings: OnPolicy, round_number: int, policy: Path, preferences: Path, draft: Path, done: DoneItems,
           name: str, job: Job) -> Outcome:
    prompts = _prompts(preferences)
    progress = Progress(job, name, len(prompts), "prompts")
    before = len(done.found)
    progress.begin(len(prompts), before)
    sampled = (_from_server(settings, settings.sampler, round_number, recipe.seed, prompts, done)
               if isinstance(settings.sampler, ServerSampler) else _in_process(recipe, settings, policy, prompts, done))
    for items in sampled:
        done.add(items)
        progress.step(len(done.found))
    rows = [done.found[prompt["id"]] for prompt in prompts]
    write_answers(draft / ANSWERS, rows)
    words = [len(answer.split()) for row in rows for answer in row["answers"]]
    if not any(words):
        raise Med42Error(name, f"{len(words):,} answers, all of them empty", "some words",
                         "The model that the round starts from says nothing.")
    measured: dict[str, Any] = {
        "prompts": len(rows), "answers": len(words), "mean_words": sum(words) / len(words), "empty": words.count(0),
        "distinct": sum(len(set(row["answers"])) for row in rows) / len(words),
    }
    (draft / "page.html").write_text(page.page(
        f"Answers of round {round_number}",
        f"{len(rows):,} prompts, {settings.answers} answers each, {measured['mean_words']:.1f} words on average; "
        f"{measured['distinct']:.0%} of the answers to a prompt are distinct.",
        [page.heading("Some of them"), page.table(("asked", "answered"), [
            (row["prompt"][-1]["content"], answer) for row in rows[:SHOWN] for answer in row["answers"]])]))
    return Outcome({**measured, "summary": f"{len(words):,} answers to {len(rows):,} prompts"}, {"resumed_after": before})


def _prompts(preferences: Path) -> list[dict[str, Any]]:
    """Each prompt once, with the first published pair of it."""
    found: dict[str, dict[str, Any]] = {}
    for pair in read_shards(preferences):
        found.setdefault(value_digest(pair["prompt"]), {key: pair[key] for key in ("id", "prompt", "chosen", "rejected", "prompt_ids")})
    return list(found.values())


def seed_of(seed: int, identity: str) -> int:
    """A seed below 2^31 for one prompt, or one batch of them."""
    return int(value_digest([seed, identity])[:8], 16) % 2**31


def _row(prompt: dict[str, Any], answers: list[str]) -> dict[str, Any]:
    return {**{key: prompt[key] for key in ("id", "prompt", "chosen", "rejected")}, "answers": [answer.strip() for answer in answers]}


def _in_process(recipe: Recipe, settings: OnPolicy, policy: Path, prompts: list[dict[str, Any]],
                done: DoneItems) -> Iterator[list[dict[str, Any]]]:
    """Batches of prompts, each with its own seed, so that those before it change nothing."""
    work_offline_and_quietly()
    import torch
    from transformers import AutoTokenizer

    size: int = getattr(settings.sampler, "batch", 1)
    batches = [prompts[first : first + size] for first in range(0, len(prompts), size)]
    left = [batch for batch in batches if not all(prompt["id"] in done.found for prompt in batch)]
    if not left:
        return
    tokenizer = AutoTokenizer.from_pretrained(policy)
    model = load_model(policy, recipe.dpo).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    for batch in left:
        width = max(len(prompt["prompt_ids"]) for prompt in batch)
        padding = [width - len(prompt["prompt_ids"]) for prompt in batch]
        pad = tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * free + list(prompt["prompt_ids"]) for free, prompt in zip(padding, batch, strict=True)])
        mask = torch.tensor([[0] * free + [1] * (width - free) for free in padding])
        torch.manual_seed(seed_of(recipe.seed, batch[0]["id"]))
        with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=recipe.dpo.dtype == "bfloat16"):
            out = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), do_sample=True, temperature=settings.temperature,
                top_p=settings.top_p, top_k=0, max_new_tokens=settings.max_tokens, num_return_sequences=settings.answers, pad_token_id=pad)
        texts = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
        yield [_row(prompt, texts[place * settings.answers : (place + 1) * settings.answers]) for place, prompt in enumerate(batch)]


def _from_server(settings: OnPolicy, sampler: ServerSampler, round_number: int, seed: int, prompts: list[dict[str, Any]],
                 done: DoneItems) -> Iterator[list[dict[str, Any]]]:
    """One prompt at a time as they are answered; the first that fails for good ends it, and those answered are kept."""
    left = [prompt for prompt in prompts if prompt["id"] not in done.found]
    with concurrent.futures.ThreadPoolExecutor(sampler.concurrency) as pool:
        asked = {pool.submit(complete, sampler, settings, round_number, list(prompt["prompt_ids"]), seed_of(seed, prompt["id"])): prompt
                 for prompt in left}
        try:
            for answered in concurrent.futures.as_completed(asked):
                yield [_row(asked[answered], answered.result())]
        finally:
            pool.shutdown(cancel_futures=True)
