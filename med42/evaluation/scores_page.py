"""The page of a model's scores."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from med42.evaluation.answers import NORMALISATIONS
from med42.evaluation.scores import Scores
from med42.recipe import Recipe
from med42.report import page, plot

WORST = 12  # wrong answers that are shown with their text
LONGEST = 600  # characters of a question that are shown


def scores_page(recipe: Recipe, scores: Scores, told: dict[str, Any], items: dict[str, dict[str, Any]],
                results: list[dict[str, Any]]) -> str:
    """Scores with their intervals, by subject and type of question, from model to model, and the worst answers.

    Args:
        recipe: the resolved recipe.
        scores: of this model and the models before.
        told: this model's `scores.json`.
        items: the questions, by id.
        results: this model's answers.
    """
    label, names = told["label"], list(recipe.evaluation.benchmarks)
    average = scores.score(label, "average").told() if any(recipe.evaluation.benchmarks[name].in_average for name in names) else "none"
    lead = f"{told['average_name'].capitalize()} of the benchmarks that count: {average}, in percent with its 95% interval."
    answer, divisor = recipe.evaluation.answer, recipe.evaluation.normalisation
    cut = [page.paragraph(f"{told['cut']:,} questions are longer than the model reads; the beginning of their prompts was cut off.", "bad")]
    return page.page(f"Scores of {label}", lead, [
        *(cut if told["cut"] else []),
        page.heading("From model to model, in %"), *_history(scores, told, names),
        page.heading("This model, in %"), _benchmarks(scores, told, names),
        page.heading("Differences, in points"), *_differences(scores, names),
        page.heading("Forms of the answer and normalisations, in %"), *_ways(recipe, told, names),
        *_stock(told), *_generative(told),
        page.heading("By subject, in %"), _groups(told, names, "by_subject"),
        page.heading("By type of question, in %"), _groups(told, names, "by_type"),
        page.heading("Calibration"), *_calibration(told, names),
        page.heading("Wrong and most sure of it"), *_worst(items, results),
        page.heading("Protocol"),
        page.paragraph(f"Zero-shot with the chat template; the log-likelihood of the whole answer decides (form: {answer}, divided by: "
                       f"{divisor}). Intervals: Wilson for a share, else a bootstrap over questions within their subject; differences are "
                       "of the same questions, in pairs.", "note"),
        *_server(told),
        page.table(("benchmark", "task", "version", "rows", "Merkle root of the rows"),
                   [(name, lock["task"], str(lock["task_version"]), lock["rows"], lock["root"])
                    for name, lock in scores.lock["benchmarks"].items()]),
    ])


def _server(told: dict[str, Any]) -> list[Markup]:
    """Who answered, where that was not this stage, and how that is known."""
    if not (server := told.get("server")):
        return []
    words = f"Answered by the server {server['url']}, which calls the model {server['model']}. "
    if not server["checked"]:
        return [page.paragraph(f"{words}That it holds this model was not checked.", "bad")]
    return [page.paragraph(f"{words}On {server['checked']} questions the model's own weights said the same within "
                           f"{server['apart']:.2g} nats a token, and {server['largest']:.2g} nats in the worst answer.", "note")]


def _history(scores: Scores, told: dict[str, Any], names: list[str]) -> list[Markup]:
    history = told["history"]
    rows = [(entry["label"], *(f"{100 * entry['scores'][name]:.1f}" for name in names), f"{100 * entry['average']:.1f}")
            for entry in history]
    blocks = [page.table(("model", *names, told["average_name"]), rows)]
    if len(history) > 1:
        places = list(range(len(history)))
        progress = {name: (places, [100 * entry["scores"][name] for entry in history]) for name in names}
        blocks.append(page.figure(plot.lines(progress, "", "score in %", places=scores.labels), ""))
    return blocks


def _benchmarks(scores: Scores, told: dict[str, Any], names: list[str]) -> Markup:
    rows = []
    for name in names:
        score = told["scores"][name]
        missed = f"{100 * score['missed_hate']:.1f}" if "missed_hate" in score else ""
        rows.append((name, scores.score(told["label"], name).told(), f"{100 * score['guessing']:.1f}", f"{100 * score['same_answer']:.1f}",
                     score["items"], "yes" if scores.lock["benchmarks"][name]["in_average"] else "no", missed))
    header = ("benchmark", "score [95%]", "guessing", "always the same answer", "questions", "in the average", "hate not seen")
    return page.table(header, rows)


def _differences(scores: Scores, names: list[str]) -> list[Markup]:
    """Each model against base, and each round of DPO against SFT."""
    pairs = [(label, scores.labels[0]) for label in scores.labels[1:]]
    pairs += [(label, "sft") for label in scores.labels if label.startswith("dpo") and "sft" in scores.items]
    if not pairs:
        return [page.paragraph("This is the first model.")]
    rows = []
    for label, other in pairs:
        cells = [f"{scores.difference(label, other, name).signed()} p {scores.p_value(label, other, name):.2g}" for name in names]
        rows.append((f"{label} less {other}", *cells))
    return [page.table(("models", *names), rows),
            page.paragraph("Difference, its 95% interval, and the p-value of McNemar's exact test.", "note")]


def _ways(recipe: Recipe, told: dict[str, Any], names: list[str]) -> list[Markup]:
    rows = []
    for form in recipe.evaluation.forms:
        for normalisation in NORMALISATIONS:
            way = f"{form}/{normalisation}"
            counts = form == recipe.evaluation.answer and normalisation == recipe.evaluation.normalisation
            # Words without letters have one form, told under the first.
            values = [told["scores"][name]["ways"].get(way) for name in names]
            shown = ["" if value is None else f"{100 * value:.1f}" for value in values]
            rows.append((form, normalisation, *shown, "this counts" if counts else ""))
    return [page.table(("answer", "divided by", *names, ""), rows)]


def _stock(told: dict[str, Any]) -> list[Markup]:
    """lm-eval's own tasks beside ours."""
    if not told["stock"]:
        return []
    rows = [(name, f"{100 * told['scores'][name]['score']:.1f}", f"{found['task']}, version {found['version']}",
             *(f"{100 * found[key]:.1f}" if key in found else "" for key in ("acc", "acc_norm"))) for name, found in told["stock"].items()]
    return [page.heading("The same questions as lm-eval's own tasks ask them, in %"),
            page.table(("benchmark", "ours", "lm-eval's task", "acc", "acc_norm"), rows),
            page.paragraph("They ask zero-shot and without a chat template, for a letter or one word. They decide nothing. MMLU is the "
                           "unweighted mean of its subjects' tasks; lm-eval has no task for USMLE, and that for MMLU-Pro shows five worked "
                           "answers, which are not among our rows.", "note")]


def _generative(told: dict[str, Any]) -> list[Markup]:
    """The written answers beside the scored ones."""
    if not told["generative"]:
        return []
    rows = [(name, f"{100 * told['scores'][name]['score']:.1f}", f"{100 * found['right']:.1f}", f"{100 * found['no_answer']:.1f}")
            for name, found in told["generative"].items()]
    return [page.heading("The same questions answered in writing, step by step, in %"),
            page.table(("benchmark", "by log-likelihood", "in writing", "no answer could be read"), rows)]


def _groups(told: dict[str, Any], names: list[str], key: str) -> Markup:
    rows = [(f"{name}: {group or 'none named'}", 100 * found["score"], f"{100 * found['score']:.1f} [{100 * found['low']:.1f}, "
             f"{100 * found['high']:.1f}] of {found['items']:,}") for name in names for group, found in told["scores"][name][key].items()]
    return page.bars(("group", "", "score [95%] of questions"), rows, 100) if rows else page.paragraph("No benchmark has more than one.")


def _calibration(told: dict[str, Any], names: list[str]) -> list[Markup]:
    rows = [(name, f"{100 * told['scores'][name]['calibration']['error']:.1f}") for name in names]
    lines = {name: ([found[3] for found in told["scores"][name]["calibration"]["bins"]],
                    [found[4] for found in told["scores"][name]["calibration"]["bins"]]) for name in names}
    return [page.figure(plot.lines({**lines, "perfect": ([0, 1], [0, 1])}, "the model's probability of its answer", "share right"), ""),
            page.table(("benchmark", "mean distance of probability and share right, in points"), rows)]


def _worst(items: dict[str, dict[str, Any]], results: list[dict[str, Any]]) -> list[Markup]:
    wrong = sorted((row for row in results if not row["correct"]), key=lambda row: (-row["confidence"], row["id"]))[:WORST]
    rows = []
    for row in wrong:
        item = items[row["id"]]
        rows.append((row["benchmark"], _short(item["question"]), item["options"][row["right"]], item["options"][row["preferred"]],
                     f"{100 * row['confidence']:.0f}%", row["id"][:12]))
    if not rows:
        return [page.paragraph("None is wrong.")]
    return [page.table(("benchmark", "question", "right", "the model's", "sure", "item"), rows)]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
