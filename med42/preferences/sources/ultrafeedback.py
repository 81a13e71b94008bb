"""UltraFeedback binarized, and Snorkel's PairRM sets: whole chats whose last turns differ.

UltraFeedback has a score of each of the two; Snorkel has those of the five answers, of which the best and the worst are the pair.
"""

from med42.data.conversation import Dropped, Message
from med42.data.row import Row, floating, floatings, records, text
from med42.preferences.pair import Pair, pair_of


def pair(row: Row) -> Pair | Dropped:
    """The shared turns as the prompt; scores, where there are any, as the margin."""
    chosen, rejected = _chat(row, "chosen"), _chat(row, "rejected")
    if not chosen or not rejected or chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        return Dropped("a chat that does not end with an answer")
    if chosen[:-1] != rejected[:-1]:
        return Dropped("chats differ before the last answer")
    return pair_of(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"], _margin(row))


def _margin(row: Row) -> float | None:
    """How much better the publisher scored the chosen answer, where they did."""
    if row.get("score_chosen") is not None and row.get("score_rejected") is not None:
        return floating(row, "score_chosen") - floating(row, "score_rejected")
    if row.get("all_rm_scores") is not None:
        scores = floatings(row, "all_rm_scores")
        return max(scores) - min(scores) if scores else None
    return None


def _chat(row: Row, column: str) -> list[Message]:
    return [Message(role=text(turn, "role"), content=text(turn, "content")) for turn in records(row, column, "role", "content")]
