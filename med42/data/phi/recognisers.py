"""Our recognisers of the Safe Harbor categories.

A form that is nothing else (an e-mail address) is found wherever it stands; one that a dose or a count could have as well (a record
number) is found behind its label alone. Traps of medical text are kept out by arithmetic where there is some: enzyme numbers
(EC 3.4.21.4) begin with 1 to 7 and are no IP addresses, cards and vehicles have check digits, a month has at most 31 days.
"""

from __future__ import annotations

import ipaddress
import re

from med42.data.phi.names import NAMES
from med42.data.phi.places import PLACES
from med42.data.phi.recogniser import Check, Recogniser, Text, both, digits, iban, listed, luhn, vin
from med42.recipe.schema import PhiCategory

NUMBER = r"(?: {1,2}(?:number|no\b\.?|num\b\.?|nr\b\.?|id\b|i\.d\.|identifier|code)| {0,2}#)"
GLUE = r"(?![a-z])\s{0,3}(?:(?:is|was|are|reads|of|[:=#(-])\s{0,3}){0,2}"
PREFIX = r"(?:[a-z]{1,6}[-/]?)?"
ID = rf"(?P<it>{PREFIX}\d[a-z\d/-]{{1,30}}(?:[ .]\d{{2,8}}){{0,4}})"
LOCAL = r"\(?\d{3,4}\)?[-. ]{0,2}\d{3,4}(?:[-. ]?\d{4})?"
EXTENSION = r"(?:,? {0,2}(?:x|ext\.?|extension) {0,2}\d{1,6})?"
PHONE = rf"(?P<it>(?:\+?\d{{1,3}}[-. ]?)?{LOCAL}{EXTENSION})(?!\w)"

MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
# In the cased text, where "may" and "march" are words: "may 10 times" is no date.
CASED_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)"
)
YEAR = r"(?:19|20)\d\d"
DAY = r"(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?"
IMAGE = r"(?:jpe?g|png|gif|bmp|tiff?|heic|webp|dcm)"
TRIAL = re.compile(r"nct\d|isrctn|chictr|umin|eudract|actrn|drks|ctri")

# What must stand in a text before the recognisers behind it are tried.
DIGIT = re.compile(r"\d")
NUMBERED = re.compile(rf"(?:number|no\.?|num\.?|nr\.?|id|i\.d\.|identifier|code|#){GLUE}{PREFIX}\d[a-z\d/-]")
SEVEN_DIGITS = re.compile(r"\d{3}\)?[-. ]{0,2}\d{3}")
NINE_DIGITS = re.compile(r"\d{3}(?:[-. /()]{0,3}\d{2,4}){2,3}")
PARTED = re.compile(r"\d[/.-]\d{1,2}[/.-]\d")
DATED = re.compile(rf"{MONTH}\.?,?[ -]{{0,2}}(?:of )?'?\d|\d(?:st|nd|rd|th)?[ -]?(?:day )?(?:of )?{MONTH}")
COLONS = re.compile(r":[\da-f]{0,4}:")
HYPHENED = re.compile(r"[:-][\da-f]{2}[:-][\da-f]{2}[:-]")
MIXED = re.compile(r"\d(?:[a-z\d-]{9}|\d ?[a-z\d]{4} ?[a-z\d]{4})")
MONTHS = listed("""
jan january feb february mar march apr april may jun june jul july aug august sep sept september oct october nov november dec december
""")
OLD = re.compile(r"(?:9|1[012])\d[- ]{0,2}y")


def _calendar(text: Text, start: int, end: int) -> bool:
    """Numbers that can be a day and a month, in either order; the year, if any, is last."""
    one, two = [int(part) for part in re.findall(r"\d+", text.lower[start:end])[:2]]
    return 1 <= min(one, two) <= 12 and 1 <= max(one, two) <= 31


def _no_dose(text: Text, start: int, end: int) -> bool:
    after = text.lower[end : end + 12]
    return re.match(r" ?(?:%|mg|ml|mcg|g\b|kg|times|days|weeks|months|years|hours|patients|percent|[-/.:,]\d)", after) is None


def _one_person(text: Text, start: int, end: int) -> bool:
    """Not a group that Safe Harbor itself makes: 'over 90 years old', '90 years or older'."""
    before, after = text.lower[max(0, start - 16) : start], text.lower[end : end + 30]
    grouped = re.search(r"(?:over|above|older than|least|beyond|[<>\u2265\u2264]=?) ?(?:the )?$", before)
    return grouped is None and re.match(r"(?:[- ]?years?)?(?: old| of age)?,? ?(?:(?:or|and) (?:older|above|over|more)|\+)", after) is None


def _internet_address(text: Text, start: int, end: int) -> bool:
    found = text.lower[start:end]
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return False
    # A version or an enzyme number has small parts; an enzyme's first is its class, 1 to 7.
    labelled = re.search(r"\b(?:ip|ipv4|ipv6|address|host|server)\b[^\d\n]{0,12}$", text.lower[max(0, start - 24) : start])
    version = re.search(r"(?:\bv|version|release|\bec|section)\.? ?$", text.lower[max(0, start - 10) : start])
    return labelled is not None or address.version == 6 or (version is None and int(found.split(".")[0]) > 7)


def _no_trial(text: Text, start: int, end: int) -> bool:
    """A registered trial's number, or a bare year, is about no person."""
    found = text.lower[start:end]
    return TRIAL.match(found) is None and re.fullmatch(YEAR, found) is None


def _mailbox(text: Text, start: int, end: int) -> bool:
    return re.search(r"\.[a-z][a-z-]{1,20}$", text.lower[max(start, end - 30) : end].rstrip("-")) is not None


def _form(category: PhiCategory, score: float, name: str, pattern: str, gate: re.Pattern[str] | None = DIGIT, needs: tuple[str, ...] = (),
          check: Check | None = None, cased: bool = False) -> Recogniser:
    return Recogniser(name, category, score, re.compile(pattern), gate, needs, cased, check)


def _label(category: PhiCategory, score: float, name: str, label: str, needs: tuple[str, ...], least: int = 4, value: str = ID,
           check: Check = _no_trial, gate: re.Pattern[str] = DIGIT) -> Recogniser:
    """An identifier of at least so many digits behind its label."""
    return Recogniser(name, category, score, re.compile(rf"(?<!\w)(?:{label}){GLUE}{value}"), gate, needs, check=both(digits(least), check))


def _numbered(category: PhiCategory, score: float, name: str, nouns: str, least: int = 4) -> Recogniser:
    """An identifier behind its noun and 'number', 'no.', 'ID' or '#'."""
    return _label(category, score, name, rf"(?:{nouns}){NUMBER}{{1,2}}", (), least, gate=NUMBERED)


DATES = (
    _form("date", 0.85, "numeric date", rf"(?<![\w./-])\d{{1,2}}([/.-])\d{{1,2}}\1{YEAR}(?![\w/-]|\.\d)", PARTED, check=_calendar),
    _form("date", 0.85, "numeric date, year first", rf"(?<![\w./-]){YEAR}([-/.])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01])(?![\d/-]"
        rf"|\.\d)", PARTED),
    _form("date", 0.65, "numeric date, short year", r"(?<![\w./-])\d{1,2}/\d{1,2}/\d\d(?![\w/-]|\.\d)", PARTED, check=_calendar),
    _form("date", 0.85, "month, day and year", rf"\b{MONTH}\b\.?[ -]?{DAY},?[ -]{{0,2}}(?:of )?{YEAR}\b", DATED, MONTHS),
    _form("date", 0.85, "day, month and year", rf"(?<![\w.])(?:the )?{DAY}[ -]?(?:day )?(?:of )?(?<![a-z]){MONTH}\.?,?[ -]?(?:{YEAR}"
        rf"|'?\d\d)(?!\w|[.,]\d|[%/-])", DATED, MONTHS),
    _form("date", 0.8, "year, month and day", rf"(?<![\w.]){YEAR}[ -]{MONTH}\.?[ -]{DAY}\b", DATED, MONTHS),
    _form("date", 0.65, "month and year", rf"\b{MONTH}\b\.?,? {{0,2}}(?:of )?{YEAR}\b", DATED, MONTHS),
    _form("date", 0.55, "month and day", rf"\b{CASED_MONTH}\b\.? {{1,2}}{DAY}\b", DATED, MONTHS, check=_no_dose, cased=True),
    _form("date", 0.55, "day and month", rf"(?<![\w.,/-]){DAY} (?:of )?{CASED_MONTH}\b(?! [A-Z])", DATED, MONTHS, cased=True),
    _label("date", 0.85, "date after a label", r"dob|d\.o\.b\.?|date of birth|birth ?date|birthday|born(?: on)?|(?:re)?admitted(?: on)?"
        r"|admission(?: date)?|discharged?(?: on| date)?|date of (?:admission|discharge|death|service|surgery|visit|injury|onset)|dos|dod"
        r"|seen on|deceased|died(?: on)?|visit date|date", ("dob", "d.o.b", "birth", "birthdate", "birthday", "born", "admitted",
        "readmitted", "admission", "discharge", "discharged", "date", "dos", "dod", "seen", "deceased", "died"), 2,
        r"(?P<it>\d{1,2}([/.-])\d{1,2}(?:\2\d{2,4})?)(?![\w/-]|\.\d)", _calendar),
    _label("date", 0.85, "compact birth date", r"dob|d\.o\.b\.?|date of birth", ("dob", "d.o.b", "date"), 8,
        rf"(?P<it>{YEAR}[01]\d[0-3]\d|[01]\d[0-3]\d{YEAR})\b"),
    _form("date", 0.8, "age", r"(?<![\w.,-])(?P<it>9\d|1[01]\d|12[0-5])(?:[- ]{0,2}(?:years?|yrs?)[- ]{0,2}(?:old|of age)"
        r"|[- ]?y[./]?o\b)", OLD, check=_one_person),
    _form("date", 0.7, "age", r"\b(?:aged?[:=]?|age (?:of|is|was)|turn(?:ed|ing)) {0,2}(?P<it>9\d|1[01]\d|12[0-5])\b(?![-.%/]\d| ?"
        r"(?:minutes|hours|days|weeks|months|%|mg))", needs=("age", "aged", "turned", "turning"), check=_one_person),
    _form("date", 0.8, "age", r"\b(?P<it>ninety(?:[- ](?:one|two|three|four|five|six|seven|eight|nine))?|(?:a |one )?hundred(?:[- ]"
        r"(?:and[- ])?[a-z]{3,9})?)[- ]years?[- ](?:old|of age)", None, ("ninety", "hundred"), _one_person),
    _form("date", 0.65, "age", r"\b(?:aged?|turned) (?P<it>ninety(?:[- ](?:one|two|three|four|five|six|seven|eight|nine))?)\b", None,
        ("ninety",), _one_person),
    _form("date", 0.6, "age", r"(?<![\w.,(-])(?P<it>9\d|10\d) ?yo?[mf]\b(?! ?[/\d])", OLD, check=_one_person),
)

CONTACTS = (
    _form("phone", 0.75, "telephone number", r"(?<![\w+-])(?<!\d\.)(?:\+?1[-. ]?)?(?:\([2-9]\d\d\)[-. ]{0,2}"
        r"|[2-9]\d\d[-. /])[2-9]\d\d[-. ]\d{4}" + EXTENSION + r"(?!\w|[-.]\d)", NINE_DIGITS),
    _form("phone", 0.75, "international telephone number", r"(?<!\w)\+[1-9]\d{0,2}(?:[- ]{1,2}\(?\d{1,4}\)?(?:[- ]\d{2,4}){1,4}"
        r"|[- ]?\d{7,12})(?!\w|[.-]\d)", needs=("+",), check=digits(8, 15)),
    _form("phone", 0.6, "national telephone number", r"(?<![\w.,/-])\(?0\d{2,4}\)? \d{3,4} \d{3,4}(?!\w|[.,]\d)", NINE_DIGITS),
    _form("phone", 0.75, "telephone number in letters", r"(?<![\w-])(?:1[- ]?)?8(?:00|33|44|55|66|77|88)-(?=[\d-]{0,8}[a-z])[\da-z]{1,9}"
        r"(?:-[\da-z]{1,9}){0,2}(?!\w)", needs=tuple(f"8{code}-" for code in ("00", "33", "44", "55", "66", "77", "88")),
          check=lambda text, start, end: sum(map(str.isalnum, text.lower[start:end])) >= 9 and not text.lower.startswith("calorie", start
          + 5)),
    _label("phone", 0.75, "telephone number after a label", rf"(?:(?:tele)?phone|tel|mobile|cell ?phone|pager|voice ?mail|beeper|whatsapp"
        rf"|landline|cell)(?:[:.]|{NUMBER}){{0,2}}|cell:" r"|(?:call|text|reach|ring|dial|contact)(?: (?:me|us|him|her|them|back))?(?: "
        r"(?:at|on))?", ("phone", "telephone", "tel", "mobile", "cell", "cellphone", "pager", "voice", "voicemail", "beeper", "whatsapp",
        "landline", "call", "text",
            "reach", "ring", "dial", "contact"),
           7, PHONE, gate=SEVEN_DIGITS),
    _label("fax", 0.85, "fax number", rf"(?:tele)?fax(?:ed)?(?: {{1,2}}(?:line|at|to|it|on|me|us|the|results|records|them)){{0,4}}(?:[:.]"
        rf"|{NUMBER}){{0,2}}|facsimile{NUMBER}?", ("fax", "faxed", "telefax", "telefaxed", "facsimile"), 7, PHONE),
    _form("fax", 0.85, "fax number", rf"(?<![\w-])(?P<it>(?:\+?\d{{1,3}}[-. ]?)?{LOCAL}) {{0,2}}\(?(?:(?:fax|facsimile)\b|f\))",
        needs=("fax", "facsimile", "(f)"), check=digits(7)),
    _form("email", 0.9, "e-mail address", r"(?<![\w.+%-])[\w.+%'-]++ ?@ ?[\w-]++(?:\.[\w-]++)+", None, ("@",), _mailbox),
    _form("email", 0.75, "spelled e-mail address", r"(?<![\w.+-])[\w.+-]++ ?(?:[\[({] ?at ?[\])}]| at ) ?[\w-]++(?: ?(?:[\["
        r"({] ?dot ?[\])}]| dot |\.) ?[\w-]{2,63}){0,3} ?(?:[\[({] ?dot ?[\])}]| dot ) ?(?:com|org|net|edu|gov|uk|ca|de|io)\b", None,
        ("dot",)),
    _form("url", 0.85, "web address", r"\b(?:https?|ftp)://[^\s<>\"]{0,2000}[^\s<>\".,;:!?)\]}'*]"
        r"|\bwww\d?\.[^\s<>\"]{0,500}[^\s<>\".,;:!?)\]}'*]", None, ("://", "www")),
    _form("url", 0.7, "web address without a scheme", r"(?<![\w@.+-])(?:[a-z\d][a-z\d-]{0,62}+\.){1,5}(?:com|org|net|edu|gov|mil|info|io"
        r"|co\.uk|nhs\.uk|int)(?![\w-]|\.\w)(?:/(?:[^\s<>\"]{0,500}[^\s<>\".,;:!?)\]}'*])?)?", None, (".com", ".org", ".net", ".edu",
        ".gov", ".mil", ".info", ".io", ".co.uk", ".nhs.uk", ".int")),
    # Shortened addresses; with any ending, "patients.We/they" and "1995.HIV/STD" would be some.
    _form("url", 0.7, "short web address", r"(?<![\w@./+-])[a-z\d][a-z\d-]{0,62}+\.(?:ly|gl|be|me|co|us|gd|page"
        r"|link)/[a-z\d][\w-]{2,60}", None,
        (".ly/", ".gl/", ".be/", ".me/", ".co/", ".us/", ".gd/", ".page/", ".link/")),
    _form("ip", 0.8, "IPv4 address", r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)", re.compile(r"\.\d{1,3}\.\d{1,3}\."),
        check=_internet_address),
    _form("ip", 0.85, "IPv6 address", r"(?<![\w:.])(?:[\da-f]{1,4}:){7}[\da-f]{1,4}(?![\w:])|(?<![\w:.])(?:[\da-f]{1,4}:){1,7}"
        r"(?::[\da-f]{1,4}){1,6}(?![\w:])", COLONS, check=_internet_address),
)

NUMBERS = (
    _form("ssn", 0.85, "social security number", r"(?<![\w.-])(?!000|666|9\d\d)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-]|\.\d)", NINE_DIGITS),
    _label("ssn", 0.85, "social security number after a label", rf"ssn|s\.s\.n\.|ss ?#|soc(?:ial)?\.? ?sec(?:urity)?\.?{NUMBER}?",
        ("ssn", "s.s.n", "ss#", "ss #", "soc", "social", "socsec", "socialsecurity"), 4, r"(?:ending (?:in|with) |ends (?:in|with) |last "
        r"(?:four|4)(?: digits)?(?: are| is|:)? ?)?(?P<it>(?:\d{3}[- .]?\d\d[- .]?|(?:[x*]{3}[- ]?[x*]{2}[- ]?))?\d{4})(?!\w)"),
    _numbered("record", 0.85, "medical record number", r"(?:(?:medical|health|hospital|patient|clinic|clinical) {0,2}){0,2}(?:record|chart"
        r"|file|unit|folder|history)|med(?:ical)? rec(?:ord)?s?\.?|patient|pt|hospital|nhs"),
    _label("record", 0.85, "medical record number by its short name", rf"(?:e?mrn|m\.r\.n\.?|mr ?#){NUMBER}{{0,2}}", ("mrn", "m.r.n",
        "mr#", "mr #")),
    _numbered("health_plan", 0.8, "health plan number", r"(?:member|subscriber|policy(?: ?holder)?|beneficiary|insur(?:ance|ed)|group|plan"
        r"|medicare|medicaid|payer|enrollee|coverage|hicn?|mbi|claim)(?: {1,2}(?:policy|beneficiary|member|card|plan|claim|group|insurance"
        r"|identification)){0,2}", 5),
    _label("health_plan", 0.7, "health plan number by its short name", r"(?:medicare|medicaid|mbi|hicn)", ("medicare", "medicaid", "mbi",
        "hicn"), 5),
    _form("health_plan", 0.8, "Medicare beneficiary identifier",
        r"(?<![\w-])[1-9][ac-hj-kmnp-rt-y][\dac-hj-kmnp-rt-y]\d-?[ac-hj-kmnp-rt-y][\dac-hj-kmnp-rt-y]\d-?[ac-hj-kmnp-rt-y]{2}\d\d"
        r"(?![\w-])", MIXED),
    _numbered("account", 0.8, "account number", r"(?:(?:bank|billing|patient|hospital|checking|savings|credit card|debit card) ){0,2}"
        r"(?:account|acct\.?|acc\.?|a/c|invoice|card|iban|sort|routing|aba|bill)"),
    _label("account", 0.8, "account number by its short name", r"acct\.?|a/c|account(?=\s?[:#]| is \d)", ("acct", "a/c", "account")),
    _form("account", 0.85, "payment card", r"(?<![\w.-])[3-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{1,7}(?![\w-]|\.\d)|"
        r"(?<![\w.-])3[47]\d\d[ -]?\d{6}[ -]?\d{5}(?![\w-]|\.\d)", NINE_DIGITS, check=both(digits(13, 19), lambda text, start,
        end: luhn(text.lower[start:end]))),
    _form("account", 0.9, "IBAN", r"(?<!\w)[a-z]{2}\d\d(?: ?[a-z\d]{4}){2,7}(?: ?[a-z\d]{1,3})?(?!\w)", MIXED, check=lambda text, start,
        end: iban(text.lower[start:end])),
    _numbered("licence", 0.8, "licence or certificate number", r"(?:(?:driver'?s?'?|driving|medical|nursing|state|professional|pharmacy"
        r"|pilot) ){0,2}licen[cs]e|(?:birth |death |board )?certificat(?:e|ion)|cert\.?|permit|passport|dl|dea|npi|lic\.?"),
    _label("licence", 0.8, "licence number by its short name", r"(?:driver'?s?'?|driving|medical|nursing) licen[cs]e|lic\.?|passport|dl"
        r"|dea|npi", ("license", "licence", "lic", "passport", "dl", "dea", "npi"), 5),
    _label("vehicle", 0.85, "vehicle identification number after a label", rf"(?:vin|vehicle (?:identification|id)"
        rf"|chassis){NUMBER}{{0,2}}", ("vin", "vehicle", "chassis"), 4, r"(?P<it>[a-z\d][a-z\d-]{5,19})\b"),
    _form("vehicle", 0.8, "vehicle identification number", r"(?<!\w)(?=[a-z]{0,7}\d)[a-hj-npr-z\d]{17}(?!\w)", MIXED,
        check=both(digits(4, 16), lambda text, start, end: vin(text.lower[start:end]))),
    _label("vehicle", 0.8, "licence plate", rf"(?:licen[cs]e|number|registration|vehicle|car) (?:plates?|tag|registration){NUMBER}?"
        rf"|plate{NUMBER}|plates?(?=:)", ("plate", "plates", "tag", "registration"), 1, r"(?P<it>(?=[a-z -]{0,9}\d)[a-z\d]{1,8}"
        r"(?:[ -][a-z\d]{2,6}){0,2})\b"),
    _label("device", 0.8, "device or serial number", r"(?:(?:device|implant|pacemaker|icd|pump|generator|lead|valve|stent|equipment"
        r"|instrument|machine|monitor) ){0,2}" rf"serial{NUMBER}{{0,2}}|s/n|ser\.? ?no\.?", ("serial", "s/n", "ser")),
    _label("device", 0.87, "device number by its short name", r"udi(?:-di)?|imei|meid", ("udi", "imei", "meid")),
    _numbered("device", 0.8, "device number", r"device|implant|pacemaker|pump|generator|equipment"),
    _form("device", 0.8, "unique device identifier", r"\(01\) ?\d{14}(?: ?\((?:10|11|17|21)\) ?[a-z\d-]{1,20}){0,4}", needs=("(01)",)),
    _form("device", 0.85, "network hardware address", r"(?<![\w:-])[\da-f]{2}([:-])(?:[\da-f]{2}\1){4}[\da-f]{2}(?![\w:-])", HYPHENED),
)

BODY = (
    r"(?:finger ?print|thumb ?print|palm ?print|foot ?print|hand geometry|iris|retinal?|voice ?print|face ?print|facial|face|biometric|dna"
    r"|gait)"
)
PRINTS = r"(?:finger ?prints?|thumb ?prints?|palm ?prints?|iris scan|retinal? scan|voice ?print|face scan)"
PICTURE = r"(?<!\[)(?:photo(?:graph)?s?|selfie|portrait|head ?shot|mug ?shot)"
THERE = r"(?: is| are| was| were)? (?:attached|enclosed|on file|enrolled|captured|uploaded|included)\b"
BODIES = listed("""
fingerprint finger thumbprint thumb palmprint palm footprint foot hand iris retina retinal voiceprint voice faceprint face facial biometric
dna gait
""")
OTHER = (
    _label("biometric", 0.75, "biometric record", rf"{BODY}(?: (?:scan|template|hash|record|profile|recognition|signature|sample|image"
        rf"|data|enrol?ment|recording|file|sequence)){{0,2}}{NUMBER}{{1,2}}|{BODY} (?:template|hash|enrol?ment|scan|signature|recognition"
        rf"|profile)(?=\s?[:#=])", BODIES),
    _form("biometric", 0.75, "file of a biometric record", r"(?<![\w-])[\w-]{0,40}(?:finger|thumb|iris|retina|voiceprint|palm|face ?id"
        r"|biometric)[\w-]{0,40}\.(?:wsq|png|jpe?g|bmp|tiff?|iso|ansi|wav|mp3|bin|dat|fmr)\b", None, (".wsq", ".png", ".jp", ".bmp",
        ".tif", ".iso", ".ansi", ".wav", ".mp3", ".bin", ".dat", ".fmr")),
    _form("biometric", 0.6, "a biometric record as attached", rf"\b(?:attached|enclosed|scanned|enrolled|captured|uploaded"
        rf"|on file)[^.\n]{{0,20}}\b{PRINTS}\b|\b{PRINTS}{THERE}", None, ("attached", "enclosed", "scanned", "enrolled", "captured",
        "uploaded", "file", "included")),
    _form("photo", 0.7, "image file", rf"(?<![\w/.-])[\w-]{{1,80}}\.{IMAGE}\b(?!\.\w)", None, (".jp", ".png", ".gif", ".bmp", ".tif",
        ".heic", ".webp", ".dcm")),
    _form("photo", 0.75, "image in the text", r"!\[[^\]\n]{0,200}\]\([^)\s]{1,2000}\)|<img\b[^>]{0,2000}>"
        r"|data:image/[a-z+]{2,10};base64,[a-z\d+/=]{8}[a-z\d+/=]*+", None, ("![", "<img", "data:image")),
    _form("photo", 0.6, "a photograph as attached", rf"\b(?:attached|enclosed|see|uploaded|included)\b[^.\n]{{0,20}}\b(?:full[- ]face "
        rf"|facial |face |id |passport )?{PICTURE}\b|\b{PICTURE}(?: of (?:the |his |her |my |this )?(?:patient|face|child|man"
        rf"|woman))?{THERE}", None, ("photo", "photos", "photograph", "photographs", "selfie", "portrait", "headshot", "head", "mugshot",
        "mug")),
    _numbered("other", 0.7, "other identifying code", r"(?:subject|participant|study|enrol?lment|accession|specimen|sample|case|visit"
        r"|encounter|employee|student|badge|user|login|ticket|confirmation|reference|ref|order|requisition|prescription|rx|barcode|donor"
        r"|registry|respondent|military|service|tracking|appointment|admission|randomi[sz]ation|screening)(?: (?:subject|participant"
        r"|patient|study))?"),
    _label("other", 0.7, "barcode", r"barcode", ("barcode",), 6),
    _form("other", 0.7, "user name", r"\b(?:user ?name|screen ?name|login|handle|skype|twitter|instagram|facebook|snapchat|telegram)(?: "
        r"(?:id|name|handle))?(?: is |: ?| ?= ?|: {1,2}| )(?P<it>@[\w.]{2,30}|(?<=[:=] )[\w.-]{3,30}|"
        r"(?<=is )[\w.-]{0,20}[\d_][\w.-]{0,20})", None, ("user", "username", "screen", "screenname", "login", "handle", "skype",
        "twitter", "instagram", "facebook", "snapchat", "telegram")),
    _form("other", 0.75, "universally unique identifier", r"(?<![\w-])[\da-f]{8}-[\da-f]{4}-[0-8][\da-f]{3}-[\da-f]{4}-[\da-f]{12}"
        r"(?![\w-])", MIXED),
)

RECOGNISERS: tuple[Recogniser, ...] = (*NAMES, *PLACES, *DATES, *CONTACTS, *NUMBERS, *OTHER)
