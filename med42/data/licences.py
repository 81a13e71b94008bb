"""What the licences of the data and of the base model allow and ask for. No legal advice: the plain reading of each text.

A source is trained on, so a licence that forbids commercial use, or a publisher that names none, narrows what the model may be
used for; the recipe says what it is meant for (`use`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from med42.errors import Med42Error
from med42.recipe import Recipe

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Licence:
    """The plain reading of a licence.

    Attributes:
        commercial: whether commercial use is allowed.
        attribution: whether the author must be named.
        share_alike: whether what is made of it must be given under the same licence.
        name_begins: how the name of a model made from this base must begin, in letters alone.
        notice: what must be shown with such a model.
    """

    commercial: bool = True
    attribution: bool = True
    share_alike: bool = False
    name_begins: str = ""
    notice: str = ""


# By SPDX id; the Llama licences have none and go by the names that a hub gives them.
LICENCES: dict[str, Licence] = {
    "CC0-1.0": Licence(attribution=False), "Unlicense": Licence(attribution=False),
    "MIT": Licence(), "Apache-2.0": Licence(), "BSD-2-Clause": Licence(), "BSD-3-Clause": Licence(),
    **{f"CC-BY-{version}": Licence() for version in ("2.0", "2.5", "3.0", "4.0")},
    **{f"CC-BY-SA-{version}": Licence(share_alike=True) for version in ("2.5", "3.0", "4.0")},
    **{f"CC-BY-NC-{version}": Licence(commercial=False) for version in ("2.0", "3.0", "4.0")},
    **{f"CC-BY-NC-SA-{version}": Licence(commercial=False, share_alike=True) for version in ("3.0", "4.0")},
    "GPL-3.0-only": Licence(share_alike=True), "GPL-3.0-or-later": Licence(share_alike=True),
    "ODC-By-1.0": Licence(), "ODbL-1.0": Licence(share_alike=True),
    "llama3": Licence(name_begins="llama3", notice="Built with Meta Llama 3"),
    "llama3.1": Licence(name_begins="llama", notice="Built with Llama"),
    UNKNOWN: Licence(commercial=False),
}


@dataclass(frozen=True)
class Licensed:
    """Something that is trained on, and its licence."""

    key: str
    name: str
    licence: Licence
    terms: str


def licensed(recipe: Recipe) -> Iterator[Licensed]:
    """The base, every source, and every preference set that a round trains on.

    Raises:
        Med42Error: a licence that is not known here, or none named and no link to the publisher's terms.
    """
    parts = [("base", recipe.base.license, "")]
    parts += [(f"sources.{name}", source.license, source.terms) for name, source in sorted(recipe.sources.items())]
    for name in sorted({name for names in recipe.dpo.rounds for name in names}):
        parts.append((f"preferences.{name}", recipe.preferences[name].license, recipe.preferences[name].terms))
    for key, name, terms in parts:
        licence = find_licence(name, key)
        if name == UNKNOWN and not terms:
            raise Med42Error(f"{key}.terms", f"no link, with the licence '{UNKNOWN}'", "where the publisher's terms can be read", "Add it.")
        yield Licensed(key, name, licence, terms)


def find_licence(name: str, key: str) -> Licence:
    """A licence by its id.

    Raises:
        Med42Error: the id is not known here.
    """
    if name not in LICENCES:
        near = ", ".join(difflib.get_close_matches(name, LICENCES, n=3, cutoff=0.0))
        raise Med42Error(f"{key}.license", f"'{name}'", f"a licence that is known here; the nearest are {near}",
                         f"Give the SPDX id, or '{UNKNOWN}' where the publisher names none, with a link in 'terms'.")
    return LICENCES[name]


def check_licences(recipe: Recipe, pushed_to: str) -> str:
    """Whether the licences allow what the recipe is for, and the base the name that is pushed to.

    Args:
        recipe: the resolved recipe.
        pushed_to: the repository on a hub, as `owner/name`; empty where none is pushed to.

    Returns:
        One line for people.

    Raises:
        Med42Error: naming every conflict.
    """
    parts = list(licensed(recipe))
    narrow = [f"{part.key} ({part.name})" for part in parts if not part.licence.commercial]
    if recipe.use == "commercial" and narrow:
        raise Med42Error("use", f"commercial, with {', '.join(narrow)}", "licences that allow commercial use",
                         "Leave these out, or set use=research.")
    begins = LICENCES[recipe.base.license].name_begins
    plain = "".join(letter for letter in pushed_to.partition("/")[2].lower() if letter.isalnum())
    if pushed_to and not plain.startswith(begins):
        raise Med42Error("push.repo", f"'{pushed_to}'", f"a name that begins with '{begins}', as {recipe.base.license} asks", "Rename it.")
    alike = sorted({part.name for part in parts if part.licence.share_alike})
    return (f"{len(parts)} allow {recipe.use} use"
            + (f"; no commercial use: {', '.join(narrow)}" if narrow else "") + (f"; share alike: {', '.join(alike)}" if alike else ""))


def terms_of(licences: dict[str, str]) -> dict[str, Any]:
    """What the licences of a mix come to: by source, an id.

    Returns:
        `commercial`, and the sources that ask for attribution, ask to share alike, forbid commercial use, or name no licence.
    """
    read = {name: find_licence(licence, f"sources.{name}") for name, licence in sorted(licences.items())}
    return {
        "commercial": all(licence.commercial for licence in read.values()),
        "attribution": [name for name, licence in read.items() if licence.attribution],
        "share_alike": [name for name, licence in read.items() if licence.share_alike],
        "non_commercial": [name for name, licence in read.items() if not licence.commercial and licences[name] != UNKNOWN],
        "unknown": [name for name in read if licences[name] == UNKNOWN],
    }
