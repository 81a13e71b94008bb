"""StackExchange: a question and its answers in HTML; `sites` names the sites, as `biology` of biology.stackexchange.com.

The paper is silent on which answer it takes: the one with the highest score, the accepted one among equals, then the oldest.
"""

import re
from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped, conversation
from med42.data.html_text import plain
from med42.data.row import Row, integer, records, text, texts, value
from med42.recipe.schema import Source

SITE = re.compile(r"https?://([a-z0-9-]+)\.stackexchange\.com/")


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The question and its best answer, as plain text."""
    answers = records(row, "answers", "answer_id", "pm_score", "selected", "text")
    found = {match.group(1) for link in texts(row, "metadata") if (match := SITE.match(link))}
    if source.sites and not found & set(source.sites):
        yield Dropped("site is not among the recipe's")
    elif not answers:
        yield Dropped("no answer")
    else:
        best = max(answers, key=_worth)
        yield conversation(plain(text(row, "question")), plain(text(best, "text")), source.system)


def _worth(answer: Row) -> tuple[int, bool, int]:
    return integer(answer, "pm_score"), str(value(answer, "selected")).lower() == "true", -integer(answer, "answer_id")
