"""The PHI gate of a source: what becomes of each row, and the account of what was found."""

from __future__ import annotations

import bisect
import heapq
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from med42.data.conversation import Conversation, Dropped, Message, order
from med42.data.phi.categories import CATEGORIES
from med42.data.phi.detector import Detector, Finding, detector_for, masked
from med42.data.phi.measure import measured
from med42.errors import Med42Error
from med42.recipe.schema import Phi, PhiCategory, PhiPolicy

EVIDENCE = 5  # kept a category
SHOWN = ("order", "row", "shape", "around")  # of each
AROUND = 20  # characters of the text shown on either side, themselves masked
LONGEST_HOST = 8_000  # characters; longer rows would only make the measurement slow
ROUNDS = 8  # of masking: what stands beside a tag may be an identifier only then


@dataclass
class Account:
    """What the gate saw; the sum of two accounts does not depend on which rows were in which.

    Attributes:
        rows: rows judged.
        examined: of these, those in the sample.
        flagged: rows with a finding.
        acted: rows with a finding that the policy acts on.
        found: findings a category.
        rows_with: rows with such a finding, a category.
        evidence: a category, the rows that come first by order key: (key, row id, shape, masked surroundings).
        hosts: masked rows that come first by order key, for planting: (key, conversation).
    """

    rows: int = 0
    examined: int = 0
    flagged: int = 0
    acted: int = 0
    found: Counter[str] = field(default_factory=Counter)
    rows_with: Counter[str] = field(default_factory=Counter)
    evidence: dict[str, list[tuple[str, str, str, str]]] = field(default_factory=dict)
    hosts: list[tuple[str, Conversation]] = field(default_factory=list)

    def merge(self, other: Account, planted: int) -> None:
        """Add another account."""
        self.rows, self.examined = self.rows + other.rows, self.examined + other.examined
        self.flagged, self.acted = self.flagged + other.flagged, self.acted + other.acted
        self.found.update(other.found)
        self.rows_with.update(other.rows_with)
        for category, shown in other.evidence.items():
            self.evidence[category] = sorted([*self.evidence.get(category, []), *shown])[:EVIDENCE]
        self.hosts = heapq.nsmallest(planted, self.hosts + other.hosts, key=lambda host: host[0])


class PhiGate:
    """Judges the rows of one source; made once a worker.

    Args:
        settings: the recipe's `phi`.
        policy: the source's own policy, if it has one.
        seed: the recipe's seed, which decides the sample, the evidence shown and the rows that are planted into.

    Raises:
        Med42Error: the detector that the recipe asks for is not installed.
    """

    def __init__(self, settings: Phi, policy: PhiPolicy | None, seed: int) -> None:
        self.settings, self.policy, self._seed = settings, policy or settings.policy, seed
        self.detector = detector_for(settings)
        self._account = Account()
        self._host_keys: list[str] = []  # of all this gate's rows, so that a later account does not offer what an earlier one beat

    def judge(self, row_id: str, messages: Conversation) -> Conversation | Dropped:
        """What becomes of a row: as it is, masked, or dropped. Under `stop` the account tells (see `stop_on`).

        Args:
            row_id: the row's digest; decides whether it is in the sample.
            messages: the row.
        """
        account, key = self._account, order(self._seed, row_id)
        account.rows += 1
        if int(key[:15], 16) >= self.settings.sample * 16**15:
            return messages
        account.examined += 1
        findings = self.detector.examine(messages)
        if self.settings.planted:
            self._offer_host(key, messages, findings)
        if not findings:
            return messages
        account.flagged += 1
        account.found.update(finding.category for finding in findings)
        account.rows_with.update({finding.category for finding in findings})
        self._show(key, row_id, messages, findings)
        acting = [finding for finding in findings if finding.category not in self.settings.spared]
        account.acted += bool(acting)
        if not acting or self.policy in ("report", "stop"):
            return messages
        if self.policy == "drop":
            return Dropped(f"identifiers: {', '.join(sorted({finding.category for finding in acting}))}")
        return cleaned(self.detector, messages, acting, self.settings.spared)

    def take(self) -> Account:
        """The account of the rows since the last time."""
        taken, self._account = self._account, Account()
        return taken

    def _offer_host(self, key: str, messages: Conversation, findings: list[Finding]) -> None:
        keys = self._host_keys
        if (len(keys) >= self.settings.planted and key >= keys[-1]) or sum(len(message["content"]) for message in messages) > LONGEST_HOST:
            return
        host = cleaned(self.detector, messages, findings) if findings else messages
        if not isinstance(host, Dropped):
            self._account.hosts.append((key, host))
            bisect.insort(keys, key)
            del keys[self.settings.planted :]

    def _show(self, key: str, row_id: str, messages: Conversation, findings: list[Finding]) -> None:
        first: dict[str, Finding] = {}
        for finding in findings:
            first.setdefault(finding.category, finding)
        for category, finding in first.items():
            shown = self._account.evidence.setdefault(category, [])
            if len(shown) < EVIDENCE or key < shown[-1][0]:
                content = messages[finding.turn]["content"]
                around = _surroundings(self.detector, messages, findings, finding)
                shown.append((key, row_id, shape(content[finding.start : finding.end]), around))
                shown.sort()
                del shown[EVIDENCE:]


def cleaned(
    detector: Detector, messages: Conversation, findings: Sequence[Finding], spared: Sequence[PhiCategory] = (),
) -> Conversation | Dropped:
    """The conversation with identifiers masked, until the detector finds no more outside the spared categories."""
    for _ in range(ROUNDS):
        messages = masked(messages, findings)
        findings = [finding for finding in detector.examine(messages) if finding.category not in spared]
        if not findings:
            return messages
    return Dropped("identifiers that masking does not remove")


def shape(identifier: str) -> str:
    """An identifier's form without what identifies: digits as d, letters as x or X; at most 40 characters."""
    plain = re.sub(r"[^\W\d_]", lambda letter: "X" if letter[0].isupper() else "x", identifier[:40])
    return re.sub(r"\d", "d", plain) + ("\u2026" if len(identifier) > 40 else "")


def _surroundings(detector: Detector, messages: Sequence[Message], findings: Sequence[Finding], finding: Finding) -> str:
    """A few characters around a finding: every finding a tag, every other word with a digit or a capital only its shape.

    What the detector missed beside a finding would stand here otherwise.
    """
    content, parts = messages[finding.turn]["content"], []
    for start, end in ((max(0, finding.start - AROUND), finding.start), (finding.end, finding.end + AROUND)):
        inside = [one for one in findings if one.turn == finding.turn and one.start < end and one.end > start]
        pieces, last = [], start
        for one in inside:
            pieces += [_quiet(content[last : max(last, one.start)]), one.tag]
            last = max(last, one.end)
        parts.append("".join([*pieces, _quiet(content[last:end])]))
    shown = f"{parts[0]}{finding.tag}{parts[1]}"
    return shown if not detector.examine_text(shown) else finding.tag


def _quiet(text: str) -> str:
    return re.sub(r"\S*[\dA-Z\u00c0-\uffff]\S*", lambda word: "\u2026", re.sub(r"\s+", " ", text))


def stop_on(account: Account, settings: Phi, policy: PhiPolicy | None, where: str) -> None:
    """Stop the run where the policy is to stop and identifiers were found.

    Args:
        account: what was found so far.
        settings: the recipe's `phi`.
        policy: the source's own policy, if it has one.
        where: the source's key.

    Raises:
        Med42Error: tells how many rows hold how many of which category, and none of them.
    """
    if (policy or settings.policy) == "stop" and account.acted:
        found = ", ".join(f"{account.found[category]:,} {category}" for category in CATEGORIES
                          if account.found[category] and category not in settings.spared)
        raise Med42Error(f"{where}.phi", f"identifiers in {account.acted:,} of {account.examined:,} rows ({found})",
                         "none, as its policy is 'stop'",
                         "De-identify the source, name what may stay in phi.spared, or set the policy to 'mask' or 'drop'.")


def phi_report(account: Account, settings: Phi, policy: PhiPolicy | None, seed: int) -> dict[str, Any]:
    """What `phi.json` holds: counts, masked evidence, and what was found of planted identifiers, a row planted into.

    Takes about 10 ms a row planted into.
    """
    detector = detector_for(settings)
    return {
        "detector": detector.identity, "least_score": settings.least_score, "sample": settings.sample,
        "policy": policy or settings.policy, "spared": list(settings.spared),
        "rows": account.rows, "examined": account.examined, "with_findings": account.flagged, "acted_on": account.acted,
        "categories": {
            category: {
                "found": account.found[category], "rows": account.rows_with[category],
                "evidence": [dict(zip(SHOWN, shown, strict=True)) for shown in account.evidence.get(category, [])],
            } for category in CATEGORIES
        },
        "planted_rows": settings.planted,
        "planted": {key: measured(detector, host, seed, key) for key, host in account.hosts},
    }


def merged_reports(reports: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The report of a source from those of its parts: the same, to the byte of its JSON, however many parts there were."""
    first, *others = reports
    merged = {**first, "categories": {category: {**account} for category, account in first["categories"].items()}}
    for other in others:
        for count in ("rows", "examined", "with_findings", "acted_on"):
            merged[count] += other[count]
        for category, account in other["categories"].items():
            ours = merged["categories"][category]
            ours["found"], ours["rows"] = ours["found"] + account["found"], ours["rows"] + account["rows"]
            ours["evidence"] = sorted(ours["evidence"] + account["evidence"], key=lambda one: one["order"])[:EVIDENCE]
        merged["planted"] = dict(sorted({**merged["planted"], **other["planted"]}.items())[: merged["planted_rows"]])
    return merged


def recall(reports: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Of the planted identifiers of each category: how many were planted, wholly found, and found as what they are."""
    totals: dict[str, dict[str, int]] = {category: {"planted": 0, "found": 0, "named": 0} for category in CATEGORIES}
    for report in reports:
        for results in report["planted"].values():
            for category, (found, named) in results.items():
                totals[category]["planted"] += 1
                totals[category]["found"] += found
                totals[category]["named"] += named
    return totals
