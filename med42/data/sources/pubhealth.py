"""PUBHEALTH: claims about public health, a verdict, and why."""

from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped, choose, conversation
from med42.data.row import Row, integer, text, value
from med42.recipe.schema import Source

VERDICTS = ("true", "false", "unproven", "mixture")  # in the order of the publisher's class numbers
ASK = (
    "Is this claim about public health true, false, unproven or a mixture of both? Explain your verdict.",
    "Check the following health claim. Say whether it is true, false, unproven or a mixture, and why.",
    "What does the evidence say of this claim: true, false, unproven or a mixture? Give your reasons.",
    "Give a verdict (true, false, unproven or mixture) on this claim and justify it.",
)


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The claim, answered by the verdict and its explanation."""
    label = value(row, "label")
    verdict = text(row, "label").strip().lower() if label is None or isinstance(label, str) else _named(integer(row, "label"))
    claim, explanation = text(row, "claim").strip(), text(row, "explanation").strip()
    if verdict not in VERDICTS:
        yield Dropped("verdict is missing or none of the four")
    elif not claim or not explanation:
        yield Dropped("empty claim" if not claim else "empty explanation")
    else:
        yield conversation(f"{choose(ASK, claim)}\n\nClaim: {claim}", f"{verdict.capitalize()}. {explanation}", source.system)


def _named(number: int) -> str:
    return VERDICTS[number] if 0 <= number < len(VERDICTS) else ""
