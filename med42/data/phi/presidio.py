"""Presidio beside our recognisers: its pattern recognisers for English, and what a spaCy model finds, without a network.

Presidio is not in the default installation: `pip install med42-pipeline[presidio]`. It asks for a spaCy pipeline; without a model it
gets a blank one. Its e-mail recogniser would fetch a list of domain suffixes; it is given the one that tldextract ships.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from med42.data.phi.detector import Further
from med42.errors import Med42Error
from med42.recipe.schema import Phi, PhiCategory

ENTITIES: dict[str, PhiCategory] = {
    "PERSON": "name", "LOCATION": "place", "DATE_TIME": "date", "PHONE_NUMBER": "phone", "EMAIL_ADDRESS": "email",
    "US_SSN": "ssn", "US_ITIN": "ssn", "UK_NHS": "record", "CREDIT_CARD": "account", "IBAN_CODE": "account", "US_BANK_NUMBER": "account",
    "CRYPTO": "account", "US_DRIVER_LICENSE": "licence", "US_PASSPORT": "licence", "MEDICAL_LICENSE": "licence", "URL": "url",
    "IP_ADDRESS": "ip", "MAC_ADDRESS": "device", "UUID": "other",
}

PACKAGES = ("presidio-analyzer", "spacy", "tldextract")


def presidio_packages() -> tuple[str, ...]:
    """The distributions whose versions decide what is found.

    Raises:
        Med42Error: one of them is not installed.
    """
    try:
        for package in PACKAGES:
            version(package)
    except PackageNotFoundError as error:
        raise Med42Error("phi.detector", f"presidio, for which {error.name} is not installed", "an installed detector",
                         "Install med42-pipeline[presidio], or set phi.detector to patterns.") from error
    return PACKAGES


def presidio_findings(settings: Phi) -> tuple[Further, str]:
    """What Presidio finds in a text, and which Presidio and model it is.

    Raises:
        Med42Error: Presidio or the model is not installed.
    """
    presidio_packages()
    import presidio_analyzer
    import spacy
    import tldextract
    from presidio_analyzer.nlp_engine import SpacyNlpEngine
    from presidio_analyzer.predefined_recognizers import EmailRecognizer

    try:
        language = spacy.load(settings.model) if settings.model else spacy.blank("en")
    except OSError as error:
        raise Med42Error("phi.model", f"'{settings.model}', which is no installed spaCy pipeline", "an installed pipeline, or its folder",
                         "Install the pipeline's package, or leave phi.model out.") from error

    class Engine(SpacyNlpEngine):
        """The pipeline as it was loaded; Presidio's own would look for its package and download it."""

        def __init__(self) -> None:
            super().__init__()
            self.nlp: Any = {"en": language}

        def load(self) -> None:
            """It is loaded."""

    suffixes = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    class Mailboxes(EmailRecognizer):
        """Presidio's, with the suffixes that are there."""

        def validate_result(self, pattern_text: str) -> bool:
            """Whether the domain has a known suffix."""
            return bool(suffixes(pattern_text).fqdn)

    registry = presidio_analyzer.RecognizerRegistry()
    registry.load_predefined_recognizers(languages=["en"])
    registry.remove_recognizer("EmailRecognizer")
    registry.add_recognizer(Mailboxes())
    analyzer = presidio_analyzer.AnalyzerEngine(registry=registry, nlp_engine=Engine(), supported_languages=["en"])
    entities = sorted(ENTITIES.keys() & set(analyzer.get_supported_entities("en")))
    # spaCy refuses longer texts; with a model it needs about a gigabyte for each 100,000 characters.
    longest = 100_000

    def find(text: str) -> list[tuple[PhiCategory, int, int, float, str]]:
        found: list[Any] = []
        for start in range(0, len(text), longest):
            part = text[start : start + longest]
            found += [(ENTITIES[one.entity_type], start + one.start, start + one.end, one.score, f"Presidio's {one.entity_type}")
                      for one in analyzer.analyze(part, "en", entities=entities, score_threshold=settings.least_score)]
        return found

    model = f" with {language.meta['name']} {language.meta['version']}" if settings.model else ""
    return find, f"presidio-analyzer {version('presidio-analyzer')}{model}"
