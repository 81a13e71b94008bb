"""MTS-Dialog: a doctor-patient dialogue, the section of the note it belongs to, and its summary.

The paper counts 2,602 samples = 2 x (1,201 train + 100 validation): two instructions a dialogue.
"""

from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped, choose, conversation
from med42.data.row import Row, text
from med42.recipe.schema import Source

SUMMARISE = (
    "Summarise this conversation between a doctor and a patient for the clinical note.",
    "Write the part of the clinical note that this conversation supports.",
    "Turn the following visit dialogue into a concise clinical summary.",
)
CLASSIFY = (
    "To which section of the clinical note does this conversation belong?",
    "Name the section header of the clinical note that fits this dialogue.",
    "Under which note section would you file this conversation?",
)


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """One conversation that asks for the section header and one that asks for the summary."""
    dialogue = text(row, "dialogue").strip()
    key = text(row, "ID")
    for wordings, column in ((CLASSIFY, "section_header"), (SUMMARISE, "section_text")):
        answer = text(row, column)
        if not dialogue:
            yield Dropped("empty dialogue")
        else:
            yield conversation(f"{choose(wordings, column, key, dialogue)}\n\n{dialogue}", answer, source.system)
