"""Finding identifiers in conversations, and putting tags in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from med42.data.conversation import Conversation, Message
from med42.data.phi.categories import AGE_TAG, SAFE_HARBOR
from med42.data.phi.recogniser import Text, grouped, possible
from med42.data.phi.recognisers import RECOGNISERS
from med42.recipe.schema import Phi, PhiCategory


@dataclass(frozen=True, order=True)
class Finding:
    """An identifier in a conversation: characters `start` to `end` of a turn."""

    turn: int
    start: int
    end: int
    category: PhiCategory
    score: float
    recogniser: str

    @property
    def tag(self) -> str:
        """What stands in its place in masked text."""
        return AGE_TAG if self.recogniser == "age" else SAFE_HARBOR[self.category].tag


# Further findings in a text: (category, start, end, score, name of the recogniser).
Further = Callable[[str], Iterable[tuple[PhiCategory, int, int, float, str]]]


class Detector:
    """Our recognisers, and another detector beside them if there is one."""

    def __init__(self, least_score: float = 0.5, further: Further | None = None, identity: str = "patterns") -> None:
        self.identity, self._further, self._least = identity, further, least_score
        self._groups = grouped(recogniser for recogniser in RECOGNISERS if recogniser.score >= least_score)

    def examine(self, messages: Sequence[Message]) -> list[Finding]:
        """Identifiers in a conversation, in the order of the text; no two overlap."""
        return [finding for turn, message in enumerate(messages) for finding in self.examine_text(message["content"], turn)]

    def examine_text(self, content: str, turn: int = 0) -> list[Finding]:
        """Identifiers in one text."""
        text = Text(content)
        found = [
            Finding(turn, start, end, recogniser.category, recogniser.score, recogniser.name)
            for recogniser in possible(self._groups, text) for start, end in recogniser.find(text)
        ]
        if self._further is not None:
            found += [Finding(turn, start, end, category, score, name)
                      for category, start, end, score, name in self._further(content) if score >= self._least and start < end]
        return _apart(found)


def _apart(found: list[Finding]) -> list[Finding]:
    """Of findings that overlap, one over all their characters: the most certain, then the longest, says what it is."""
    apart: list[Finding] = []
    best = None
    for finding in sorted(found):
        if apart and best is not None and finding.start < apart[-1].end:
            best = max(best, finding, key=lambda one: (one.score, one.end - one.start))
            end = max(apart[-1].end, finding.end)
            apart[-1] = Finding(finding.turn, apart[-1].start, end, best.category, best.score, best.recogniser)
        else:
            apart.append(best := finding)
    return apart


def masked(messages: Sequence[Message], findings: Sequence[Finding]) -> Conversation:
    """The conversation with every finding replaced by the tag of its category."""
    turns = [Message(role=message["role"], content=message["content"]) for message in messages]
    for turn, message in enumerate(turns):
        content, pieces, last = message["content"], [], 0
        for finding in sorted(finding for finding in findings if finding.turn == turn):
            pieces += [content[last : finding.start], finding.tag]
            last = finding.end
        message["content"] = "".join([*pieces, content[last:]])
    return turns


def detector_for(settings: Phi) -> Detector:
    """The detector that a recipe asks for; made once a process.

    Raises:
        Med42Error: Presidio, or the model, is not installed.
    """
    if settings.detector == "patterns":
        return Detector(settings.least_score)
    from med42.data.phi.presidio import presidio_findings

    further, identity = presidio_findings(settings)
    return Detector(settings.least_score, further, f"patterns and {identity}")


def detector_packages(settings: Phi) -> tuple[str, ...]:
    """The distributions, beside this one, whose versions decide what the detector finds.

    Raises:
        Med42Error: one of them is not installed.
    """
    if settings.detector == "patterns":
        return ()
    from med42.data.phi.presidio import presidio_packages

    return presidio_packages()
