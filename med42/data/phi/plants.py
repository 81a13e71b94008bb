"""Synthetic identifiers, planted into real rows to learn what the detector misses.

The forms are those in which people write, not those that the recognisers look for: some stand without a label, in odd spacing, in small
letters or in words, and several are known to be missed. No identifier here belongs to anyone: names are put together at random, telephone
numbers have the exchange 555 or come from ranges kept for fiction, addresses end in reserved domains or documentation networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from med42.data.conversation import number
from med42.data.phi.recogniser import listed
from med42.recipe.schema import PhiCategory

OPEN, CLOSE = "\u27e6", "\u27e7"

_GIVEN = listed("""
Rosalind Thandiwe Bjorn Xiomara Caleb Mei-Ling Oluwaseun Priyanka Tobias Marguerite Dmitri Saoirse Anneliese Kwame Ignacio Leilani John
Mary Robert Linda David Susan James Karen Thomas Maria
""")
_FAMILY = listed("""
Okonkwo Lindqvist O'Malley Nguyen Abernathy Kowalczyk Featherstone Ramaswamy Delacroix Smith-Jones McAllister Tanaka Villanueva Haddad
Brown Johnson Pemberton Zielinski Garc\u00eda Achterberg
""")
_TOWNS = listed("Marlow Eastbrook Fairhaven Cedarfalls Brackwater Newbridge Pinehurst Ashcombe Lakemont Riverton")
_STREETS = listed("Maple Harrow Larkspur Wellington Old-Mill Juniper Chapel Thornbury Lincoln Meadowbrook")
_STATES = (
    ("Ohio", "OH"), ("Texas", "TX"), ("Oregon", "OR"), ("California", "CA"), ("Maryland", "MD"), ("New York", "NY"), ("Georgia", "GA"),
)
_MONTHS = listed("January February March April May June July August September October November December")


@dataclass(frozen=True)
class Plant:
    """A sentence with an identifier at characters `start` to `end`."""

    text: str
    start: int
    end: int


class _Draw:
    """Choices that digests of a key decide, one after the other."""

    def __init__(self, *key: object) -> None:
        self._key, self._count = key, 0

    def below(self, limit: int) -> int:
        self._count += 1
        return number(limit, *self._key, self._count)

    def of(self, options: list[str] | tuple[str, ...] | str) -> str:
        return options[self.below(len(options))]

    def digits(self, count: int) -> str:
        """Digits, the first not zero."""
        return str(1 + self.below(9)) + "".join(str(self.below(10)) for _ in range(count - 1))

    def letters(self, count: int, among: str = "ABCDEFGHJKLMNPRSTUVWXYZ") -> str:
        return "".join(self.of(among) for _ in range(count))

    def hexadecimal(self, count: int) -> str:
        return self.letters(count, "0123456789abcdef")

    def name(self) -> str:
        return f"{self.of(_GIVEN)} {self.of(_FAMILY)}"

    def phone(self, form: str) -> str:
        return form.format(area=self.digits(3).replace("1", "4", 1), local=f"0{self.digits(3)}", country=self.of(("44", "49", "61",
        "91")), long=self.digits(9))

    def street(self) -> str:
        return self.of(_STREETS).replace("-", " ")

    def date(self, form: str) -> str:
        month, year = self.below(12) + 1, 1930 + self.below(90)
        day = self.below(28) + 1
        suffix = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd"}.get(day, "th")
        return form.format(d=day, m=month, y=year, yy=year % 100, name=_MONTHS[month - 1], short=_MONTHS[month - 1][:3], suffix=suffix,
                           dd=f"{day:02}", mm=f"{month:02}", upper=_MONTHS[month - 1][:3].upper())


# Each gives a sentence; the identifier stands between the brackets.
_FORMS: dict[PhiCategory, tuple[Callable[[_Draw], str], ...]] = {
    "name": (
        lambda d: f"Thank you for referring Mr. \u27e6{d.of(_FAMILY)}\u27e7 to our clinic.",
        lambda d: f"This was discussed with Dr \u27e6{d.name()}\u27e7 at length.",
        lambda d: f"Patient name: \u27e6{d.of(_FAMILY)}, {d.of(_GIVEN)}\u27e7",
        lambda d: f"My name is \u27e6{d.name()}\u27e7 and I have had this for years.",
        lambda d: f"\u27e6{d.name()}\u27e7 came back for a follow-up visit.",
        lambda d: f"We saw \u27e6{d.of(_GIVEN)}\u27e7 again, who felt better.",
        lambda d: f"Her husband, \u27e6{d.name()}\u27e7, was present.",
        lambda d: f"Kind regards,\n\u27e6{d.name()}\u27e7",
        lambda d: f"Reviewed and signed: \u27e6{d.name()}\u27e7, MD.",
        lambda d: f"the patient is called \u27e6{d.name().lower()}\u27e7 and is doing well.",
    ),
    "place": (
        lambda d: f"She lives at \u27e6{d.digits(3)} {d.street()} {d.of(('Street', 'Ave', 'Rd.', 'Lane', 'Blvd', 'Drive'))}\u27e7.",
        lambda d: f"He grew up in \u27e6{d.of(_TOWNS)}, {d.of([state for state, _ in _STATES])}\u27e7.",
        lambda d: f"Mail it to \u27e6{d.of(_TOWNS)}, {d.of([code for _, code in _STATES])} {d.digits(5)}\u27e7.",
        lambda d: f"The family has lived in \u27e6{d.of(_TOWNS)}\u27e7 since then.",
        lambda d: f"Send it to \u27e6P.O. Box {d.digits(4)}\u27e7.",
        lambda d: f"zip code is \u27e6{d.digits(5)}\u27e7",
        lambda d: f"He works at a mill in \u27e6{d.of(_TOWNS)}\u27e7 and smokes.",
        lambda d: f"The home is in \u27e6{d.of(_TOWNS)} County\u27e7.",
        lambda d: f"Flat {d.below(9) + 1}, \u27e6{d.digits(2)} {d.street()} {d.of(('Grove', 'Close', 'Crescent'))}\u27e7.",
        lambda d: f"address \u27e6{d.digits(3)} {d.street().lower()} street\u27e7",
    ),
    "date": (
        lambda d: d.date("She was admitted on \u27e6{m}/{d}/{y}\u27e7."),
        lambda d: d.date("Seen in clinic on \u27e6{name} {d}, {y}\u27e7 for review."),
        lambda d: d.date("The operation was on \u27e6the {d}{suffix} of {name} {y}\u27e7."),
        lambda d: d.date("DOB \u27e6{mm}/{dd}/{yy:02}\u27e7"),
        lambda d: d.date("Specimen taken \u27e6{y}-{mm}-{dd}\u27e7."),
        lambda d: d.date("Reported \u27e6{dd}{upper}{y}\u27e7."),
        lambda d: d.date("The scan of \u27e6{dd}.{mm}.{y}\u27e7 was normal."),
        lambda d: d.date("Symptoms began in \u27e6{name} {y}\u27e7."),
        lambda d: d.date("He returned on \u27e6{name} {d}{suffix}\u27e7."),
        lambda d: d.date("Next visit \u27e6{m}/{d}\u27e7 at nine."),
        lambda d: f"This is a \u27e6{90 + d.below(14)}\u27e7-year-old woman.",
        lambda d: f"He is \u27e6{90 + d.below(14)}\u27e7 y/o and lives alone.",
        lambda d: f"The patient, aged \u27e6{90 + d.below(9)}\u27e7, declined surgery.",
        lambda d: f"He turned \u27e6ninety-{d.of(('one', 'three', 'six'))}\u27e7 last week.",
    ),
    "phone": (
        lambda d: d.phone("You can reach her at \u27e6({area}) 555-{local}\u27e7."),
        lambda d: d.phone("His number is \u27e6{area}-555-{local}\u27e7."),
        lambda d: d.phone("Tel. \u27e6{area}.555.{local}\u27e7"),
        lambda d: d.phone("Call \u27e6{area}555{local}\u27e7 after six."),
        lambda d: d.phone("Her mobile is \u27e6+{country} {long}\u27e7."),
        lambda d: d.phone("The daughter's cell: \u27e6{area} 555 {local}\u27e7"),
        lambda d: d.phone("Phone number: \u27e6555-{local}\u27e7."),
        lambda d: d.phone("Work \u27e6+1 ({area}) 555-{local} ext. 12\u27e7"),
        lambda d: d.phone("We spoke on \u27e6{area}\u00b7555\u00b7{local}\u27e7 today."),
        lambda d: d.phone("My number is \u27e6{area}555{local}\u27e7 in the evening."),
    ),
    "fax": (
        lambda d: d.phone("Fax: \u27e6({area}) 555-{local}\u27e7"),
        lambda d: d.phone("Please fax the results to \u27e6{area}-555-{local}\u27e7."),
        lambda d: d.phone("\u27e6{area}.555.{local}\u27e7 (fax)"),
        lambda d: d.phone("Our fax number is \u27e6+1 {area} 555 {local}\u27e7."),
        lambda d: d.phone("Facsimile \u27e6{area}-555-{local}\u27e7"),
        lambda d: d.phone("Send by telefax to \u27e6{area}555{local}\u27e7."),
        lambda d: d.phone("F: \u27e6{area}-555-{local}\u27e7"),
        lambda d: d.phone("fax it over, \u27e6555-{local}\u27e7"),
    ),
    "email": (
        lambda d: f"Write to \u27e6{d.of(_GIVEN).lower()}.{d.letters(6).lower()}@example.com\u27e7.",
        lambda d: f"E-mail \u27e6{d.letters(8).lower()}{d.digits(2)}@mail.example.org\u27e7 for results",
        lambda d: f"<\u27e6{d.of(_FAMILY).replace(chr(39), '').replace(chr(237), 'i')}_{d.digits(3)}@clinic-example.net\u27e7>",
        lambda d: f"contact \u27e6{d.letters(5).lower()} [at] example [dot] com\u27e7",
        lambda d: f"mail me: \u27e6{d.letters(7).lower()} at example dot org\u27e7",
        lambda d: f"mailto:\u27e6{d.letters(6).lower()}+{d.letters(3).lower()}@example.co.uk\u27e7",
        lambda d: f"reach me as \u27e6{d.letters(6).lower()} @ example.com\u27e7",
        lambda d: f"my mail is \u27e6{d.letters(6).lower()}, then the usual sign, example.com\u27e7",
    ),
    "ssn": (
        lambda d: f"SSN: \u27e6{_area(d)}-{10 + d.below(89)}-{d.digits(4)}\u27e7",
        lambda d: f"Social security number \u27e6{_area(d)} {10 + d.below(89)} {d.digits(4)}\u27e7.",
        lambda d: f"Her social is \u27e6{_area(d)}-{10 + d.below(89)}-{d.digits(4)}\u27e7",
        lambda d: f"(ssn \u27e6{_area(d)}{10 + d.below(89)}{d.digits(4)}\u27e7)",
        lambda d: f"The last four of the SSN are \u27e6{d.digits(4)}\u27e7.",
        lambda d: f"SS# \u27e6xxx-xx-{d.digits(4)}\u27e7",
        lambda d: f"Identification \u27e6{_area(d)}.{10 + d.below(89)}.{d.digits(4)}\u27e7",
    ),
    "record": (
        lambda d: f"MRN: \u27e6{d.digits(7)}\u27e7",
        lambda d: f"MRN \u27e6{d.letters(2)}-{d.digits(6)}\u27e7 was opened.",
        lambda d: f"Medical record number \u27e6{d.digits(3)}-{d.digits(2)}-{d.digits(3)}\u27e7.",
        lambda d: f"Med Rec # \u27e6{d.digits(8)}\u27e7",
        lambda d: f"Chart no. \u27e6{d.digits(6)}\u27e7 reviewed.",
        lambda d: f"Patient ID \u27e6{d.letters(1)}{d.digits(7)}\u27e7",
        lambda d: f"Hospital number is \u27e6{d.digits(9)}\u27e7.",
        lambda d: f"see record \u27e6{d.digits(7)}\u27e7 for details",
        lambda d: f"NHS number \u27e6{d.digits(3)} {d.digits(3)} {d.digits(4)}\u27e7",
    ),
    "health_plan": (
        lambda d: f"Member ID: \u27e6{d.letters(3)}{d.digits(9)}\u27e7",
        lambda d: f"Insurance policy number \u27e6{d.digits(10)}\u27e7.",
        lambda d: f"Medicare number: \u27e6{_medicare(d, '-')}\u27e7",
        lambda d: f"Subscriber # \u27e6{d.digits(8)}\u27e7",
        lambda d: f"Group no. \u27e6{d.digits(6)}\u27e7 on the card",
        lambda d: f"Medicaid ID \u27e6{d.letters(2)}{d.digits(5)}{d.letters(1)}\u27e7",
        lambda d: f"she is insured under \u27e6{d.letters(3)}{d.digits(8)}\u27e7",
        lambda d: f"Beneficiary: \u27e6{_medicare(d, '')}\u27e7",
    ),
    "account": (
        lambda d: f"Account number \u27e6{d.digits(10)}\u27e7 was billed.",
        lambda d: f"Acct #: \u27e6{d.digits(4)}-{d.digits(5)}\u27e7",
        lambda d: f"Paid with card \u27e6{_card(d, ' ')}\u27e7.",
        lambda d: f"credit card number \u27e6{_card(d, '-')}\u27e7",
        lambda d: f"IBAN \u27e6{_iban(d)}\u27e7",
        lambda d: f"Routing number \u27e6{d.digits(9)}\u27e7",
        lambda d: f"bank account is \u27e6{d.digits(9)}\u27e7",
        lambda d: f"Invoice no. \u27e6{d.digits(7)}\u27e7 is open.",
        lambda d: f"her loan \u27e6{d.digits(9)}\u27e7 is overdue",
    ),
    "licence": (
        lambda d: f"Driver's license \u27e6{d.letters(1)}{d.digits(7)}\u27e7.",
        lambda d: f"License number: \u27e6{d.letters(2)}-{d.digits(6)}\u27e7",
        lambda d: f"DEA \u27e6{d.letters(2)}{d.digits(7)}\u27e7",
        lambda d: f"NPI: \u27e6{d.digits(10)}\u27e7",
        lambda d: f"passport no \u27e6{d.digits(9)}\u27e7",
        lambda d: f"Birth certificate number \u27e6{d.digits(3)}-{d.digits(2)}-{d.digits(6)}\u27e7.",
        lambda d: f"DL# \u27e6{d.letters(1)}{d.digits(3)}-{d.digits(4)}-{d.digits(4)}\u27e7",
        lambda d: f"carries permit \u27e6{d.letters(1)}{d.digits(6)}\u27e7",
    ),
    "vehicle": (
        lambda d: f"VIN \u27e6{_vin(d)}\u27e7",
        lambda d: f"License plate \u27e6{d.digits(1)}{d.letters(3)}{d.digits(3)}\u27e7.",
        lambda d: f"The car (\u27e6{_vin(d)}\u27e7) was totalled.",
        lambda d: f"plate number: \u27e6{d.letters(3)}-{d.digits(4)}\u27e7",
        lambda d: f"Vehicle registration \u27e6{d.letters(2)}{d.digits(2)} {d.letters(3)}\u27e7",
        lambda d: f"Vehicle identification number is \u27e6{_vin(d)}\u27e7.",
        lambda d: f"he drove a truck with tags \u27e6{d.letters(3)} {d.digits(4)}\u27e7",
    ),
    "device": (
        lambda d: f"Pacemaker serial number \u27e6{d.letters(3)}{d.digits(6)}{d.letters(1)}\u27e7.",
        lambda d: f"S/N: \u27e6{d.letters(2)}-{d.digits(7)}\u27e7",
        lambda d: f"UDI \u27e6(01){d.digits(14)}(21){d.digits(6)}\u27e7",
        lambda d: f"Device ID \u27e6{d.digits(4)}-{d.digits(6)}\u27e7 was interrogated.",
        lambda d: f"implant serial no. \u27e6{d.digits(8)}\u27e7",
        lambda d: f"MAC \u27e6{':'.join(d.hexadecimal(2) for _ in range(6))}\u27e7",
        lambda d: f"IMEI: \u27e6{d.digits(15)}\u27e7",
        lambda d: f"the pump (\u27e6{d.letters(2)}{d.digits(8)}\u27e7) alarmed",
    ),
    "url": (
        lambda d: f"See \u27e6https://www.example.com/patients/{d.letters(8).lower()}\u27e7 for pictures.",
        lambda d: f"Her page is \u27e6www.{d.letters(7).lower()}.example.org\u27e7.",
        lambda d: f"blog at \u27e6{d.letters(9).lower()}-family.example.net/story?id={d.digits(4)}\u27e7",
        lambda d: f"(\u27e6http://{d.letters(6).lower()}.example.edu/~{d.letters(4).lower()}/\u27e7)",
        lambda d: f"posted on \u27e6{d.letters(8).lower()}.com\u27e7 last year",
        lambda d: f"HTTP://\u27e6{d.letters(6)}.EXAMPLE.COM/{d.digits(3)}\u27e7",
        lambda d: f"link: \u27e6{d.letters(4).lower()}.ly/{d.letters(6).lower()}\u27e7",
        lambda d: f"type \u27e6example dot com slash {d.letters(6).lower()}\u27e7",
    ),
    "ip": (
        lambda d: f"Logged in from \u27e6203.0.113.{d.below(255)}\u27e7.",
        lambda d: f"IP address: \u27e6198.51.100.{d.below(255)}\u27e7",
        lambda d: f"client \u27e6192.0.2.{d.below(255)}\u27e7:8080 connected",
        lambda d: f"from \u27e62001:db8::{d.hexadecimal(4)}:{d.hexadecimal(3)}\u27e7 today",
        lambda d: f"IPv6 \u27e62001:db8:{':'.join(d.hexadecimal(4) for _ in range(6))}\u27e7",
        lambda d: f"the portal noted \u27e6203-0-113-{d.below(255)}\u27e7",
    ),
    "biometric": (
        lambda d: f"Fingerprint ID \u27e6{d.letters(2)}{d.digits(8)}\u27e7 is on file.",
        lambda d: f"Enrolled file \u27e6left_thumb_{d.digits(4)}.wsq\u27e7.",
        lambda d: f"Iris template: \u27e6{d.digits(2)}{d.hexadecimal(14)}\u27e7",
        lambda d: f"voiceprint sample number \u27e6{d.digits(6)}\u27e7",
        lambda d: "His \u27e6fingerprints are on file\u27e7 with the clinic.",
        lambda d: "See the \u27e6attached retina scan\u27e7.",
        lambda d: f"identified by a tattoo and \u27e6gait pattern {d.letters(1)}{d.digits(2)}\u27e7",
    ),
    "photo": (
        lambda d: f"Picture in \u27e6IMG_{d.digits(4)}.JPG\u27e7.",
        lambda d: f"![portrait](\u27e6uploads/{d.digits(6)}.png\u27e7)",
        lambda d: f"See \u27e6face-{d.letters(6).lower()}.jpeg\u27e7 for the rash.",
        lambda d: "A \u27e6photo of the patient is attached\u27e7.",
        lambda d: "Please see the \u27e6attached selfie\u27e7.",
        lambda d: f"<img src=\"\u27e6scan{d.digits(5)}.gif\u27e7\">",
        lambda d: "We took \u27e6a picture of her face\u27e7 before surgery.",
    ),
    "other": (
        lambda d: f"Study ID \u27e6{d.letters(2)}-{d.digits(5)}\u27e7 was assigned.",
        lambda d: f"Accession number: \u27e6S{d.digits(2)}-{d.digits(5)}\u27e7",
        lambda d: f"Specimen no. \u27e6{d.digits(8)}\u27e7",
        lambda d: f"Employee ID \u27e6{d.letters(1)}{d.digits(6)}\u27e7",
        lambda d: f"token \u27e6{d.hexadecimal(8)}-{d.hexadecimal(4)}-4{d.hexadecimal(3)}-a{d.hexadecimal(3)}-{d.hexadecimal(12)}\u27e7",
        lambda d: f"Twitter: \u27e6@{d.letters(9).lower()}{d.digits(2)}\u27e7",
        lambda d: f"Encounter # \u27e6{d.digits(10)}\u27e7",
        lambda d: f"barcode reads \u27e6{d.digits(12)}\u27e7",
        lambda d: f"username: \u27e6{d.letters(7).lower()}{d.digits(2)}\u27e7",
        lambda d: f"known in the trial as \u27e6{d.letters(2)}{d.digits(4)}\u27e7",
    ),
}


def plant(category: PhiCategory, *key: object) -> Plant:
    """A sentence with a synthetic identifier of a category; the key decides its form and characters."""
    draw = _Draw("plant", category, *key)
    forms = _FORMS[category]
    text = forms[draw.below(len(forms))](draw)
    start, end = text.index(OPEN), text.index(CLOSE) - 1
    return Plant(text.replace(OPEN, "").replace(CLOSE, ""), start, end)


def forms(category: PhiCategory) -> int:
    """In how many forms identifiers of a category are planted."""
    return len(_FORMS[category])


def _area(draw: _Draw) -> str:
    """The first three digits of a social security number: 001 to 899, not 666."""
    return f"{100 + draw.below(500)}"


def _medicare(draw: _Draw, between: str) -> str:
    """The shape of a Medicare beneficiary identifier: 1AA1-AA1-AA11."""
    among = "ACDEFGHJKMNP"
    parts = (f"{draw.digits(1)}{draw.letters(2, among)}{draw.digits(1)}", f"{draw.letters(2, among)}{draw.digits(1)}",
    f"{draw.letters(2, among)}{draw.digits(2)}")
    return between.join(parts)


def _card(draw: _Draw, between: str) -> str:
    """A payment card number with its check digit (ISO/IEC 7812-1)."""
    digits = [4, *(draw.below(10) for _ in range(14))]
    total = sum(sum(divmod(digit * (2 - place % 2), 10)) for place, digit in enumerate(digits))
    whole = "".join(map(str, digits)) + str(-total % 10)
    return between.join(whole[place : place + 4] for place in range(0, 16, 4))


def _iban(draw: _Draw) -> str:
    """A German-shaped IBAN with its check digits (ISO 13616): 98 less the rest modulo 97."""
    account = draw.digits(18)
    check = 98 - int(f"{account}131400") % 97
    whole = f"DE{check:02}{account}"
    return " ".join(whole[place : place + 4] for place in range(0, len(whole), 4))


def _vin(draw: _Draw) -> str:
    """A vehicle identification number with its check digit (49 CFR 565.15)."""
    letters = "ABCDEFGHJKLMNPRSTUVWXYZ"
    value = dict(zip(letters, (1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 7, 9, 2, 3, 4, 5, 6, 7, 8, 9), strict=True))
    given = str(1 + draw.below(5)) + draw.letters(2) + draw.letters(2) + draw.digits(3) + "0" + draw.letters(2) + draw.digits(6)
    weights = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
    rest = sum(weight * (value[letter] if letter.isalpha() else int(letter)) for weight, letter in zip(weights, given, strict=True)) % 11
    return given[:8] + ("X" if rest == 10 else str(rest)) + given[9:]


