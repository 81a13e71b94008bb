"""MedMCQA: Indian medical entrance questions with four options; `cop` is the 0-based right one, `exp` an explanation.

Explanations are a book's or a teacher's, missing in one row of eight. Many begin with the answer again ("Ans. is 'b' i.e., Iron"),
by letter; where that is another letter, explanation and answer contradict each other, and the explanation is left off.
"""

import re
from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped
from med42.data.options import LETTERS, exam_question
from med42.data.row import Row, integer, text
from med42.recipe.schema import Source

# "Ans. is 'b' i.e., ", "Ans. (c) ", "Answer: D. ", "Ans) a ("; but neither "Ans. A patient" nor "Ans. is aspirin".
ANSWER_AGAIN = re.compile(
    r"""\W*ans(?:wer)?\b [\s.:;,)=-]* (?:is\b)? [\s.:;,=-]*
    (?: ['"(\u2018\u201c]+ \s* (?P<quoted>[a-d]) \s* ['")\u2019\u201d]+ | (?P<bare>[a-d])\b (?= \s* (?: [.:;,()=-] | i\.?\s?e\b | $ ) ) )
    [\s.:;,)=-]* (?: i\.?\s?e\b [\s.:;,]* )?""",
    re.IGNORECASE | re.VERBOSE,
)


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The question with its options listed, answered by letter and text, with the explanation as its reason."""
    options = [text(row, column) for column in ("opa", "opb", "opc", "opd")]
    right = integer(row, "cop")
    yield exam_question(text(row, "question"), options, right, source, _explanation(text(row, "exp"), right))


def _explanation(said: str, right: int) -> str:
    """The explanation without the answer that it repeats; nothing where it explains another answer."""
    again = ANSWER_AGAIN.match(said)
    if again is None:
        return said
    letter = again.group("quoted") or again.group("bare")
    return said[again.end() :] if LETTERS.find(letter.upper()) == right else ""
