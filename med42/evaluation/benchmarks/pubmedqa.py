"""PubMedQA, PQA-L: the 500 official test ids, answered yes, no or maybe."""

from med42.data.row import Row, text, texts
from med42.data.sources.pubmedqa import question_text
from med42.evaluation.item import Item

DECISIONS = ("yes", "no", "maybe")


def item(row: Row) -> Item | str:
    """One question with its abstract."""
    decision = text(row, "final_decision").strip().lower()
    if decision not in DECISIONS:
        return "decision is not yes, no or maybe"
    if not text(row, "QUESTION").strip():
        return "empty question"
    return Item(text(row, "QUESTION").strip(), DECISIONS, DECISIONS.index(decision), question_text(row), lettered=False,
                context="\n".join(texts(row, "CONTEXTS")))
