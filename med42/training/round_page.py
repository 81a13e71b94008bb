"""The page of a DPO round: its card, the models' answers side by side, and all rounds up to it."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from med42.lineage.record import Record
from med42.recipe import Recipe
from med42.report import page, plot
from med42.training.trainer import curves, planned

# Over all rounds: titles and the measurements that they show, of the model after a round.
CURVES = {
    "margin over SFT": "margin_over_sft", "win rate over its start": "accuracy", "KL from SFT, nats a token": "kl_to_sft",
    "tokens of an answer": "answer_tokens",
}
COLUMNS = {"pairs": "pairs", "steps": "steps", "margin": "margin", "log-probability gap": "preference_gap", **CURVES}


def round_page(recipe: Recipe, measured: dict[str, Any], history: list[dict[str, Any]], answers: list[dict[str, str]],
               rounds: list[dict[str, Any]], policy: Record, preferences: Record) -> str:
    """A whole HTML document.

    Args:
        recipe: the resolved recipe.
        measured: what the round measured.
        history: logged values by step.
        answers: `prompt`, `before` and `after` of each sample.
        rounds: `summary_of` each round up to this one.
        policy: the record of the model that the round starts from and refers to.
        preferences: the record of its pairs.
    """
    number = measured["round"]
    lead = measured.get("stopped") or f"{measured['pairs']:,} pairs, {measured['steps']} steps; start and reference: {policy.name}."
    settings = [(key, str(value)) for key, value in recipe.dpo.model_dump(mode="json").items()]
    shown = {"loss": ("loss",), "reward": ("rewards/chosen", "rewards/rejected"), "margin": ("rewards/margins",),
             "accuracy": ("rewards/accuracies",)}
    return page.page(f"DPO round {number}", lead, [
        page.table(("", ""), _card(measured, policy, preferences)),
        page.heading("Where the pairs come from"),
        page.table(("set", "read", "kept", "left out, and why"), _sets(preferences)),
        *_answers(answers),
        *([page.heading("Steps of this round"), *curves(history, shown)] if history else []),
        *_over_rounds(rounds),
        *planned(recipe, f"train_dpo-{number}"), page.heading("Settings"), page.table(("key", "value"), settings),
    ])


def summary_of(measured: dict[str, Any]) -> dict[str, Any]:
    """What the pages of later rounds show of this one."""
    flat = {**measured, **measured.get("held_out", {})}
    keys = ("round", "stopped", "answer_tokens_before", *COLUMNS.values())
    return {key: flat[key] for key in keys if flat.get(key) is not None}


def _card(measured: dict[str, Any], policy: Record, preferences: Record) -> list[tuple[str, str]]:
    told, held_out = preferences.measured, measured.get("held_out", {})
    rows = [
        ("start and reference", f"{policy.name}, {policy.digest[:16]}"),
        ("pairs", f"{measured['pairs']:,}, {preferences.digest[:16]}"),
        ("tokens of the pairs' answers", f"{told['mean_chosen_tokens']:.1f} chosen, {told['mean_rejected_tokens']:.1f} rejected (means)"),
    ]
    if "first_loss" in measured:
        rows += [("loss", f"{measured['first_loss']:.4f} at first, {measured['last_loss']:.4f} at last"),
                 ("margin of the last step", f"{measured['train_margin']:.4f}")]
    if held_out:
        rows += [("held-out pairs: margin over the start", f"{held_out['margin']:.4f}"),
                 ("held-out pairs: margin over SFT", f"{held_out['margin_over_sft']:.4f}"),
                 ("held-out pairs: win rate over the start", f"{held_out['accuracy']:.1%}"),
                 ("held-out pairs: log-probability of chosen over rejected", f"{held_out['preference_gap']:.2f}")]
    if "answer_tokens" in measured:
        before, after = measured["answer_tokens_before"], measured["answer_tokens"]
        rows.append(("tokens of its own answers (length drift)", f"{before:.1f} before, {after:.1f} after ({after - before:+.1f})"))
    if measured.get("kl_to_sft") is not None:
        rows.append(("KL from the SFT model, nats a token of its answers", f"{measured['kl_to_sft']:.4g}"))
    return rows


def _sets(preferences: Record) -> list[tuple[str, int, int, str]]:
    accounts = preferences.measured["accounts"]
    return [(name, account["read"], account["kept"], "; ".join(f"{count:,} {reason}" for reason, count in account["dropped"].items()))
            for name, account in accounts.items()]


def _answers(answers: list[dict[str, str]]) -> list[Markup]:
    if not answers:
        return []
    return [page.heading("Its likeliest answers, before and after"),
            page.table(("asked", "before", "after"), [(one["prompt"], one["before"], one["after"]) for one in answers])]


def _over_rounds(rounds: list[dict[str, Any]]) -> list[Markup]:
    shown = {title: key for title, key in COLUMNS.items() if any(key in one for one in rounds)}
    rows = [(str(one["round"]), *(f"{one[key]:,.4g}" if key in one else "" for key in shown.values())) for one in rounds]
    blocks = [page.heading("All rounds up to this one"), page.table(("round", *shown), rows)]
    for title, key in CURVES.items():
        # At SFT the margin and the divergence are 0 by what they are; its answers were counted before the first round.
        start = {"margin_over_sft": 0.0, "kl_to_sft": 0.0, "answer_tokens": rounds[0].get("answer_tokens_before")}.get(key)
        points = ([(0, start)] if start is not None else []) + [(one["round"], one[key]) for one in rounds if key in one]
        if len(points) > 1:
            names = ["SFT", *(f"round {one['round']}" for one in rounds)]
            xs, ys = zip(*points, strict=True)
            blocks.append(page.figure(plot.lines({title: (xs, ys)}, "", title, names), ""))
    return blocks
