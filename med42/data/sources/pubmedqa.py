"""PubMedQA, expert-labelled: an abstract, a question, yes/no/maybe and the abstract's conclusion."""

from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped, choose, conversation
from med42.data.row import Row, text, texts
from med42.recipe.schema import Source

PLAIN = "Abstract: {abstract}\n\nQuestion: {question}\nAnswer with yes, no or maybe."
WORDINGS = (
    PLAIN,
    "{question}\n\nAnswer yes, no or maybe from this abstract, then say why.\n\n{abstract}",
    "{abstract}\n\nFrom this abstract, {question}\nBegin with yes, no or maybe.",
    "Abstract: {abstract}\n\nQuestion: {question}\nAnswer with yes, no or maybe and the conclusion that leads to it.",
    "Read the abstract of a study.\n\n{abstract}\n\nWhat does it say: yes, no or maybe? {question}",
)


def question_text(row: Row, wording: str = PLAIN) -> str:
    """The prompt; by default in the form that the benchmark uses."""
    abstract = "\n".join(part.strip() for part in texts(row, "CONTEXTS"))
    return wording.format(abstract=abstract, question=text(row, "QUESTION").strip())


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The decision first, then the authors' conclusion as its reason."""
    decision = text(row, "final_decision").strip().lower()
    if decision not in ("yes", "no", "maybe"):
        yield Dropped("decision is not yes, no or maybe")
        return
    if not text(row, "QUESTION").strip():
        yield Dropped("empty question")
        return
    wording = PLAIN if source.wordings == "plain" else choose(WORDINGS, text(row, "QUESTION"))
    yield conversation(question_text(row, wording), f"{decision}. {text(row, 'LONG_ANSWER').strip()}", source.system)
