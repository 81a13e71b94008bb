"""The 18 identifier categories of HIPAA's Safe Harbor, 45 CFR 164.514(b)(2)(i)(A) to (R)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from med42.recipe.schema import PhiCategory


@dataclass(frozen=True)
class Identifier:
    """One category: its letter in the rule, what the rule calls it, and what stands in its place in masked text."""

    letter: str
    title: str
    tag: str


SAFE_HARBOR: dict[PhiCategory, Identifier] = {
    "name": Identifier("A", "names", "[NAME]"),
    "place": Identifier("B", "geographic subdivisions smaller than a state", "[PLACE]"),
    "date": Identifier("C", "dates finer than a year, and ages over 89", "[DATE]"),
    "phone": Identifier("D", "telephone numbers", "[PHONE]"),
    "fax": Identifier("E", "fax numbers", "[FAX]"),
    "email": Identifier("F", "e-mail addresses", "[EMAIL]"),
    "ssn": Identifier("G", "social security numbers", "[SSN]"),
    "record": Identifier("H", "medical record numbers", "[RECORD]"),
    "health_plan": Identifier("I", "health plan beneficiary numbers", "[HEALTH PLAN]"),
    "account": Identifier("J", "account numbers", "[ACCOUNT]"),
    "licence": Identifier("K", "certificate and licence numbers", "[LICENCE]"),
    "vehicle": Identifier("L", "vehicle identifiers and licence plates", "[VEHICLE]"),
    "device": Identifier("M", "device identifiers and serial numbers", "[DEVICE]"),
    "url": Identifier("N", "web addresses (URLs)", "[URL]"),
    "ip": Identifier("O", "internet protocol (IP) addresses", "[IP]"),
    "biometric": Identifier("P", "biometric identifiers, as far as text names them", "[BIOMETRIC]"),
    "photo": Identifier("Q", "full-face photographs, as far as text names an image", "[PHOTO]"),
    "other": Identifier("R", "any other unique number, characteristic or code", "[CODE]"),
}
CATEGORIES: tuple[PhiCategory, ...] = get_args(PhiCategory)

# Safe Harbor lets ages over 89 stand as one group of 90 and older; this keeps a masked sentence readable.
AGE_TAG = "[AGE 90+]"
