"""Recognisers of people's names, by what stands around them: without a model of language the weakest part of the gate."""

from __future__ import annotations

import re

from med42.data.phi.recogniser import Check, Recogniser, Text, listed

# Given names that are no common word, place or month; the surname after one is what makes it a finding.
GIVEN = frozenset(listed("""
Aaron Abdul Abigail Adam Adriana Agnes Ahmed Aisha Alan Albert Alejandro Alexander Alexandra Alfred Alice Alicia Amanda Amelia Amy Ana
Andrea Andrew Angela Ann Anna Anne Anthony Antonio Arthur Ashley Barbara Beatrice Benjamin Bernard Beth Betty Beverly Brandon Brenda Brian
Bruce Bryan Carl Carlos Carmen Carol Caroline Carolyn Catherine Charles Cheryl Christina Christine Christopher Cynthia Daniel David Deborah
Denise Dennis Diana Diane Diego Donald Donna Dorothy Douglas Edward Edwin Elaine Eleanor Elena Elizabeth Ellen Emily Emma Eric Ethan Eugene
Evelyn Fatima Fernando Frances Francis Frank Fred Gabriel Gary George Gerald Gloria Gregory Hannah Harold Heather Helen Henry Howard Ibrahim
Irene Isabella Ivan Jack Jacob Jacqueline James Jane Janet Janice Jason Jean Jeffrey Jennifer Jeremy Jerry Jesse Jessica Joan John Jonathan
Jorge Jose Joseph Joshua Joyce Juan Judith Judy Julia Julie Justin Karen Katherine Kathleen Kathryn Keith Kelly Kenneth Kevin Kimberly Larry
Laura Lauren Lawrence Leonard Linda Lisa Louis Louise Lucas Lucia Luis Manuel Marcus Margaret Maria Marie Marilyn Mario Martha Martin Mary
Matthew Megan Melissa Michael Michelle Miguel Mohamed Mohammed Monica Nancy Natalie Nathan Nicholas Nicole Noah Olga Olivia Omar Oscar
Pamela Patricia Patrick Paul Pauline Pedro Peter Philip Phyllis Priya Rachel Ralph Raymond Rebecca Ricardo Richard Robert Roberto Roger
Ronald Russell Ruth Ryan Samantha Samuel Sandra Sara Sarah Scott Sean Sharon Shirley Simon Sofia Sophia Stephanie Stephen Steven Susan
Teresa Theresa Thomas Timothy Tyler Valerie Vanessa Victor Vincent Walter Wayne Wei Wendy William Yolanda Yusuf Zachary
"""))

# A surname in front of one of these names a disease or a test, not a person.
EPONYMS = frozenset(listed("""
syndrome syndromes disease diseases disorder sign signs test tests score scale index criteria classification stain cell cells law method
procedure operation maneuver manoeuvre reflex palsy anomaly tumor tumour lymphoma sarcoma esophagus phenomenon factor catheter fracture
hospital clinic university institute foundation center centre school college medical questionnaire inventory trial study
"""))
# Placeholders by which published notes were de-identified already, and words that follow a title without being a name.
NO_NAMES = frozenset(listed("""
XYZ ABC ABCD ABCDE XXX XX Sample The This That He She It They Will Please Doctor Patient And Or Imaging Yes No Okay Ok Hi Hello Hey Good
Thank Thanks Oh Well So But Not Unknown None MD RN PHD DO
"""))

WORD = r"[A-Z\u00c0-\u00de](?:'[A-Z])?[a-z\u00df-\u00ff]{1,20}(?:-?[A-Z\u00c0-\u00de][a-z\u00df-\u00ff]{1,20})?"
INITIAL = r"[A-Z]\b\.?"
PARTICLE = r"(?:de|van|der|den|von|la|del|al|bin|da|di|el|dos) "
MORE = rf"(?: {{1,2}}(?:{PARTICLE}){{0,2}}(?:{WORD}|{INITIAL}))"
ANY_NAME = rf"(?P<it>(?:{WORD}|{INITIAL} {{0,1}}{WORD}|[A-Z]{{2,20}}\b){MORE}{{0,3}})"
FULL_NAME = rf"(?P<it>(?:{WORD}|{INITIAL}){MORE}{{1,3}})"
LISTED = rf"(?P<it>(?:{WORD}|[A-Z]{{2,20}}\b)(?:,? {{1,2}}(?:{WORD}|{INITIAL}|[A-Z]{{2,20}}\b)){{0,3}})"


def _is_person(text: Text, start: int, end: int) -> bool:
    found = text.plain[start:end].replace(",", " ").split()
    if found[0] in NO_NAMES or found[-1].lower() in EPONYMS or all(len(word.strip(".")) == 1 for word in found):
        return False
    follows = re.compile(r"(?:'s)?[ -]{1,2}([a-z]{1,20})").match(text.lower, end)
    return follows is None or follows[1] not in EPONYMS


def _is_given(text: Text, start: int, end: int) -> bool:
    given = re.compile(r"[A-Z][a-z]+").match(text.plain, start)
    return given is not None and given[0] in GIVEN and _is_person(text, start, end)


def _name(name: str, score: float, pattern: str, needs: tuple[str, ...] = (), then: str | None = None, cased: bool = True,
          check: Check = _is_person, gate: re.Pattern[str] | None = None) -> Recogniser:
    return Recogniser(name, "name", score, re.compile(pattern), gate, needs, cased, check, re.compile(then) if then else None)


COLON = re.compile("[:=]")
TITLES = ("Dr", "Mr", "Mrs", "Ms", "Mx", "Prof", "Sra", "Srta")
OFFICES = ("Miss", "Professor", "Doctor", "Nurse", "Mister", "Reverend", "Father", "Judge", "Officer", "Sergeant")
KIN = ("husband", "wife", "daughter", "son", "brother", "sister", "roommate", "girlfriend", "boyfriend", "mother", "father")
BETROTHED = ("fianc", "fiance")  # and with an accent, where the run of letters a to z ends before it
ROLES = ("patient", "pt", "client", "nurse", "doctor", "surgeon", "physician")
LABELS = (
    r"\b(?:(?:(?:patient|pt|full|first|last|family|given|maiden|legal|contact|guardian|mother|father|spouse|client|insured|subscriber)"
    r"(?:'s)? )?name|name of (?:the )?patient|next of kin|emergency contact|contact person|attending(?: physician)?|pcp|(?:primary care "
    r"|referring |attending )(?:physician|provider|doctor)|(?:dictated|signed|reviewed|referred|seen) by) ?[:=]\s{0,3}(?:(?:dr|mr|mrs"
    r"|ms)\.? )?"
)
LABELLING = ("name", "patient", "kin", "contact", "person", "attending", "physician", "provider", "doctor", "pcp", "by")
# "Doctor:" opens a turn of a written dialogue far more often than a field of a form: only a full name that ends its line counts.
SPEAKERS = (
    r"\b(?:patient|pt|client|guardian|physician|provider|doctor|surgeon|radiologist|pathologist|nurse|cc) ?[:=] {0,3}(?:(?:dr|mr|mrs"
    r"|ms)\.? )?"
)
CREDENTIALS = (
    r"(?:,? {1,2}(?:M\.?D|R\.?N|Ph\.?D|D\.?D\.?S|D\.O|MBBS|Pharm\.?D|FACS|FACP|PA-C|LPN|CRNA|LCSW)|, {1,2}(?:DO|NP))\b\.?(?! \d{5})"
)

NAMES = (
    _name("name after a title", 0.85, rf"\b(?:(?:{'|'.join(TITLES)})\b\.? {{0,2}}|(?<![Tt]he )(?<![Yy]our )(?<!\ba )"
        rf"(?:{'|'.join(OFFICES)}) {{1,2}}){ANY_NAME}", tuple(title.lower() for title in (*TITLES, *OFFICES))),
    _name("capital name after a title", 0.85, r"\b(?:DR|MR|MRS|MS)\. {0,2}(?P<it>[A-Z]{2,20}(?:[ -][A-Z]{2,20}){0,2})\b", ("dr", "mr",
        "mrs", "ms")),
    _name("name after a label", 0.8, LABELS, LABELLING, LISTED, cased=False, gate=COLON),
    _name("name alone after a role", 0.75, SPEAKERS, ("patient", "pt", "client", "guardian", "physician", "provider", "doctor",
        "surgeon", "radiologist", "pathologist", "nurse", "cc"), rf"{FULL_NAME}(?=\s{{0,4}}(?:[\n,;(|]|$))", cased=False, gate=COLON),
    _name("name as introduced", 0.8, r"\b(?:(?:my|his|her|their|your) (?:full )?name(?: is|'s|, )|i am called|they call me|call me|named"
        r"|i'm|i am|this is|goes by) {1,2}", ("name", "called", "call", "named", "i", "this", "goes"), FULL_NAME, cased=False),
    _name("given name as introduced", 0.8, r"\b(?:my|his|her|their) (?:first |given )?name(?: is|'s) {1,2}", ("name",), ANY_NAME,
        cased=False),
    _name("name before a credential", 0.8, rf"\b{FULL_NAME}{CREDENTIALS}", ("md", " m.d", "rn", " r.n", "phd", " ph.d", "dds", " d.d",
        " d.o", ", do", ",  do", "mbbs", "pharmd", "pharm", "facs", "facp", "pa-c", "lpn", "crna", "lcsw", ", np", ",  np")),
    _name("name of a patient or of someone's kin", 0.65, rf"\b(?:{'|'.join(ROLES + KIN)}|fianc[e\u00e9]e?)(?:,|,? named"
        rf"|,? called)? {FULL_NAME}",
        (*ROLES, *KIN, *BETROTHED, "fiancee")),
    _name("given name of someone's kin", 0.6, rf"(?:\b(?:[Mm]y|[Hh]is|[Hh]er|[Tt]heir)|'s) (?:{'|'.join(KIN)}|fianc[e\u00e9]e?)"
        rf"(?:,|,? named|,? called)? {ANY_NAME}", (*KIN, *BETROTHED, "fiancee")),
    _name("name below a letter", 0.75, rf"\b(?:[Ss]incerely|[Rr]egards|[Yy]ours truly|[Tt]hanks|[Rr]espectfully|[Cc]heers)"
        rf",? ?\r?\n\s{{0,4}}(?:Dr\.? )?{ANY_NAME}", ("sincerely", "regards", "yours", "thanks", "respectfully", "cheers")),
    # Two hundred names as one pattern would be tried at every capital letter; a set is looked up instead.
    _name("known given name and a surname", 0.6, r"(?<!\w)(?<!St\. )(?=[A-Z][a-z]{1,11} {1,2}[A-Zdvlb])",
        then=rf"(?P<it>[A-Z][a-z]{{1,11}}(?: {INITIAL})?(?: (?:{PARTICLE}){{0,2}}{WORD}){{1,2}})", check=_is_given),
)
