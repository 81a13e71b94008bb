"""What the detector finds of identifiers planted into copies of real rows."""

from __future__ import annotations

from med42.data.conversation import Conversation, number
from med42.data.phi.categories import CATEGORIES
from med42.data.phi.detector import Detector
from med42.data.phi.plants import plant

ENDS = (". ", ".\n", "? ", "! ", "\n")


def measured(detector: Detector, host: Conversation, *key: object) -> dict[str, list[int]]:
    """One identifier of each category planted into a copy of a conversation that has none.

    Returns:
        a category: [1 if findings cover every character of it, 1 if one of them names its category].
    """
    results: dict[str, list[int]] = {}
    for category in CATEGORIES:
        planted = plant(category, *key)
        turn = number(len(host), "turn", category, *key)
        content = host[turn]["content"]
        place = _sentence_end(content, number(len(content) + 1, "place", category, *key))
        start, end = place + 1 + planted.start, place + 1 + planted.end
        found = [finding for finding in detector.examine_text(f"{content[:place]}\n{planted.text}\n{content[place:]}")
                 if finding.start < end and finding.end > start]
        covered = {character for finding in found for character in range(finding.start, finding.end)}
        results[category] = [int(covered.issuperset(range(start, end))), int(any(finding.category == category for finding in found))]
    return results


def _sentence_end(content: str, wanted: int) -> int:
    """The first end of a sentence at or after a place, or the text's end."""
    return min((found + len(end) for end in ENDS if (found := content.find(end, wanted)) >= 0), default=len(content))
