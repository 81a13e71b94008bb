"""ACI-Bench: a whole visit as a dialogue, and the note that a clinician wrote of it.

The paper counts 87 samples = 67 training + 20 validation visits: one conversation a visit.
"""

from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped, choose, conversation
from med42.data.row import Row, text
from med42.recipe.schema import Source

WRITE = (
    "Write the clinical note of this visit.",
    "Here is the transcript of a visit. Document it as a full clinical note.",
    "Turn the following conversation between doctor and patient into a structured clinical note.",
    "Summarise this encounter as the note that goes into the patient's record.",
)


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The dialogue with a request for the note, answered by the note."""
    dialogue = text(row, "dialogue").strip()
    if not dialogue:
        yield Dropped("empty dialogue")
    else:
        yield conversation(f"{choose(WRITE, text(row, 'encounter_id'), dialogue)}\n\n{dialogue}", text(row, "note"), source.system)
