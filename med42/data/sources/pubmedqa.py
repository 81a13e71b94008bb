"""PubMedQA, expert-labelled: an abstract, a question, yes/no/maybe and the abstract's conclusion."""

from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped, conversation
from med42.data.row import Row, text, texts
from med42.recipe.schema import Source


def question_text(row: Row) -> str:
    """The prompt, in the form that the benchmark uses too."""
    abstract = "\n".join(part.strip() for part in texts(row, "CONTEXTS"))
    return f"Abstract: {abstract}\n\nQuestion: {text(row, 'QUESTION').strip()}\nAnswer with yes, no or maybe."


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The decision first, then the authors' conclusion as its reason."""
    decision = text(row, "final_decision").strip().lower()
    if decision not in ("yes", "no", "maybe"):
        yield Dropped("decision is not yes, no or maybe")
        return
    if not text(row, "QUESTION").strip():
        yield Dropped("empty question")
        return
    yield conversation(question_text(row), f"{decision}. {text(row, 'LONG_ANSWER').strip()}", source.system)
