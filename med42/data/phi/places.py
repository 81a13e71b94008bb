"""Recognisers of places smaller than a state."""

from __future__ import annotations

import re

from med42.data.phi.recogniser import Check, Recogniser, Text, listed

STATES = (
    "Alabama|Alaska|Arizona|Arkansas|California|Colorado|Connecticut|Delaware|Florida|Georgia|Hawaii|Idaho|Illinois|Indiana|Iowa|Kansas"
    "|Kentucky"
    "|Louisiana|Maine|Maryland|Massachusetts|Michigan|Minnesota|Mississippi|Missouri|Montana|Nebraska|Nevada|New Hampshire|New Jersey"
    "|New Mexico"
    "|New York|North Carolina|North Dakota|Ohio|Oklahoma|Oregon|Pennsylvania|Rhode Island|South Carolina|South Dakota|Tennessee|Texas|Utah"
    "|Vermont|Virginia|Washington|West Virginia|Wisconsin|Wyoming"
)
CODES = "A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|P[AR]|RI|S[CD]|T[NX]|UT|V[AT]|W[AIVY]"
# The codes that are no degree, disease or test as well: "cancer, CA", "Jane Roe, MD" and "sclerosis, MS" are no places.
PLAIN_CODES = "AK|AZ|FL|IL|KS|KY|MN|NJ|NM|NV|NY|OH|TN|TX|UT|VT|WI|WV|WY"
CITY = r"[A-Z][a-z]{2,20}(?:[ -][A-Z][a-z]{2,20}){0,2}"
STREET = (
    "Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|Way|Terrace|Ter|Circle|Cir|Highway|Hwy|Parkway|Pkwy"
    "|Square|Sq|Trail|Grove|Crescent|Close|Row|Loop|Plaza|Pike|Turnpike|Alley|Gardens|Mews|Hill"
)
# A sentence's first word before a comma, peoples, and places as large as a state or larger.
NO_CITIES = frozenset(listed("""
However Therefore Thus Also In For Later Typically Sometimes Currently Moreover Furthermore Finally Africa African Asia Asian Europe
European America American Australia Canada China England France Germany India Ireland Italy Japan Mexico Scotland Spain Sweden Norway
Denmark Finland Brazil Russia Wales Netherlands Switzerland Austria Belgium Poland Greece Turkey Israel Egypt Iran Iraq Pakistan Nigeria
Kenya Ethiopia Korea Taiwan Thailand Vietnam United North South East West Northern Southern Eastern Western Central New The This That
These Medicare Medicaid Arctic January February March April May June July August September October November December
""")) | frozenset(STATES.split("|"))
LARGE = frozenset(("New Jersey", "New Mexico", "New Hampshire", "New Zealand"))
HOME = (
    r"\b(?:(?:lives?|lived|living|resid(?:es|ed|ing)|resident|native|mov(?:ed|ing)|relocated|grew up|born)(?: here| outside| near)? "
    r"(?:in|at|of|to|from|near)|home ?town(?: is|:)|city:|county:|town:|village of) {1,2}"
)
LIVES = (
    "live", "lives", "lived", "living", "resides", "resided", "residing", "resident", "native", "moved", "moving", "relocated", "grew",
    "born", "home", "hometown", "city", "county", "town", "village",
)


def _city(text: Text, start: int, end: int) -> bool:
    found = text.plain[start:end].replace("-", " ").split(",")[0].split()
    side = found[0] in ("New", "North", "South", "East", "West") and len(found) > 1 and " ".join(found[:2]) not in LARGE
    return side or found[0] not in NO_CITIES


def _coordinates(text: Text, start: int, end: int) -> bool:
    north, east = [float(part) for part in re.findall(r"-?\d+\.\d+", text.lower[start:end])]
    return 1 < abs(north) <= 90 and 1 < abs(east) <= 180


def _place(name: str, score: float, pattern: str, gate: str | None = None, needs: tuple[str, ...] = (), check: Check | None = None,
           cased: bool = True, then: str | None = None) -> Recogniser:
    return Recogniser(name, "place", score, re.compile(pattern), re.compile(gate) if gate else None, needs, cased, check,
                      re.compile(then) if then else None)


STATED = rf", {{1,2}}(?:{STATES}|{CODES})\b".lower().replace("\\b", r"\b")

PLACES = (
    _place("street address", 0.85, rf"(?<![\w.-])\d{{1,5}}(?:-\d{{1,4}})?[A-Za-z]? (?:(?:[NSEW]|NE|NW|SE|SW|North|South|East|West)\.? )?"
        rf"(?:(?:[A-Z][\w'.]{{1,20}}|\d{{1,3}}(?:st|nd|rd|th))[ -]){{1,4}}(?:{STREET})\b\.?(?:,? {{1,2}}(?:Apt|Apartment|Suite|Ste|Unit"
        rf"|Floor|Room|#)\.? ?\w{{1,6}})?(?:,? {{1,2}}{CITY},? {{1,2}}(?:{CODES}|{STATES})\b(?:,? {{1,2}}\d{{5}}(?:-\d{{4}})?)?)?",
        r"\d [a-z\d]"),
    _place("street address in small letters", 0.7, rf"\b(?:(?:home |mailing |street )?address(?: is|:)?|liv(?:es|ed|ing) at) "
        rf"(?P<it>\d{{1,5}} (?:[a-z'.]{{2,20}} ){{1,4}}(?:{STREET.lower()}))\b", r"\d [a-z\d]", ("address", "lives", "lived", "living"),
        cased=False),
    _place("post office box", 0.85, r"(?<!\w)p\.? ?o\.? ?box {0,2}\d{1,6}", r"\d", ("box", "obox", "pobox"), cased=False),
    _place("state and ZIP code", 0.85, rf"\b(?:{CITY},? {{1,2}})?(?:{CODES}|{STATES})\.?,? {{1,2}}\d{{5}}(?:-\d{{4}})?(?![\w,]|[.-]\d)",
        r"\d{5}"),
    _place("ZIP code", 0.85, r"(?<!\w)(?:(?:zip|postal)(?: ?code)?|post ?code)(?![a-z])\s{0,3}(?:(?:is|was|of|[:=#(-])\s{0,3}){0,2}"
        r"(?P<it>\d{5}(?:-\d{4})?|[a-z]{1,2}\d[a-z\d]? ?\d[a-z]{2}|[a-z]\d[a-z] ?\d[a-z]\d)\b", r"\d", ("zip", "zipcode", "postal",
        "postalcode",
        "post", "postcode"), cased=False),
    _place("city and state", 0.7, rf"\b{CITY}, {{1,2}}(?:{STATES}|{PLAIN_CODES})\b", STATED, check=_city),
    _place("city and state after a preposition", 0.65, rf"\b(?:in|from|of|at|near|to) (?P<it>{CITY}, {{1,2}}(?:{CODES}))\b", STATED,
        check=_city),
    _place("where someone lives", 0.65, HOME, None, LIVES, _city, False, rf"(?P<it>(?:St\. )?{CITY})"),
    _place("county", 0.6, rf"\b{CITY} (?:County|Parish|Township|Borough)\b", None, ("county", "parish", "township", "borough"), _city),
    _place("coordinates", 0.6, r"(?<![\w.])-?\d{1,2}\.\d{4,10}\u00b0? ?[ns]?, ?-?\d{1,3}\.\d{4,10}(?![\w.])", r"\.\d{4}",
        check=_coordinates, cased=False),
)
