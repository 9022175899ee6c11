"""Names of people and places, found by presidio (https://microsoft.github.io/presidio/) with a spaCy pipeline.

An extra: `pip install '.[presidio]'`. The pipeline is a directory on this machine, as spaCy's `to_disk` writes
it; nothing is fetched. Presidio's own patterns for addresses of mail and links are left out: they would ask the network
for a list of suffixes, and the rules that are always there find these.

Costs milliseconds a text and some 120 MB; the rules need neither.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edge_agent.capture.redact.rules import Span
from edge_agent.errors import ConfigInvalid

ENTITIES = ("PERSON", "LOCATION", "NRP", "MEDICAL_LICENSE", "IP_ADDRESS", "CRYPTO")
NEEDS_NETWORK = ("EmailRecognizer", "UrlRecognizer")
SCORE_MIN = 0.5


def name_detector(pipeline: Path, language: str = "en") -> Callable[[str], Iterator[Span]]:
    """Load a pipeline; return a finder of names.

    Raises:
        ConfigInvalid: presidio is not installed, or the directory holds no pipeline.
    """
    try:
        # Only where the site asks for it: it takes a second and 120 MB.
        presidio: Any = importlib.import_module("presidio_analyzer")
        engines: Any = importlib.import_module("presidio_analyzer.nlp_engine")
        spacy: Any = importlib.import_module("spacy")
    except ImportError as error:
        remedy = "Install it, in your clone: pip install '.[presidio]'; or remove examples.presidio_pipeline."
        raise ConfigInvalid(f"examples.presidio_pipeline needs {error.name}", remedy=remedy) from None
    try:
        loaded = spacy.load(pipeline)
    except (OSError, ValueError) as error:
        raise ConfigInvalid(
            f"examples.presidio_pipeline: {pipeline} holds no spaCy pipeline: {error}",
            remedy="Give a directory that spaCy's nlp.to_disk() wrote, with the same version of spaCy.",
        ) from None
    engine = engines.SpacyNlpEngine(models=[{"lang_code": language, "model_name": str(pipeline)}])
    engine.nlp = {language: loaded}
    registry = presidio.RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language], nlp_engine=engine)
    for recognizer in NEEDS_NETWORK:
        registry.remove_recognizer(recognizer)
    analyzer = presidio.AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[language])

    def find(text: str) -> Iterator[Span]:
        results = analyzer.analyze(text, language=language, entities=list(ENTITIES), score_threshold=SCORE_MIN)
        for result in sorted(results, key=lambda found: found.start):
            yield result.start, result.end

    return find
