"""MedQuAD: questions and answers of NIH web sites."""

import re
from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped, conversation
from med42.data.row import Row, text
from med42.recipe.schema import Source


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The question as published, the answer with the page's layout spaces removed."""
    answer = re.sub(r"[ \t]+", " ", text(row, "answer"))
    question = re.sub(r"(?<!\s)\s+(?=\?)", "", text(row, "question"))
    yield conversation(question, re.sub(r" *\n *", "\n", answer), source.system)
