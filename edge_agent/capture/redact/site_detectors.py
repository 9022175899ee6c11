"""Rules of the site: its own patterns for loyalty cards, file numbers and the like.

They run in RE2 (https://github.com/google/re2), which takes time linear in the text for every pattern it accepts, and
refuses what it could not bound: look-around, back references, repetitions of repetitions beyond a size. So no pattern
and no text can stop the thread that redacts. Texts are cut off above `input_characters_max` before they come here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import re2

from edge_agent.capture.redact import RedactionRule, Span
from edge_agent.errors import ConfigInvalid

PATTERN_BYTES_MAX = 64 * 1024
"""Memory of one compiled pattern; RE2 derives its bound on time per character from it."""
PATTERN_CHARACTERS_MAX = 1000
ENTITIES = ("PERSON", "LOCATION", "NRP", "MEDICAL_LICENSE", "IP_ADDRESS", "CRYPTO")
NEEDS_NETWORK = ("EmailRecognizer", "UrlRecognizer")
SCORE_MIN = 0.5
LANGUAGE = "en"
"""As presidio names it: a pipeline of any language runs under it."""


def site_rules(patterns: Mapping[str, str]) -> list[RedactionRule]:
    """Compile the site's patterns, by name.

    Raises:
        ConfigInvalid: a pattern is none, is too large, or matches the empty text.
    """
    return [_rule(name, pattern) for name, pattern in patterns.items()]


def _rule(name: str, pattern: str) -> RedactionRule:
    compiled = _compiled(name, pattern)

    def find(text: str) -> Iterator[Span]:
        for match in compiled.finditer(text):
            if match.end() > match.start():
                yield match.span()

    return RedactionRule(name, name.upper(), find)


def _compiled(name: str, pattern: str) -> Any:
    where = f"examples.site_rules.{name}"
    if len(pattern) > PATTERN_CHARACTERS_MAX:
        raise ConfigInvalid(f"{where} has {len(pattern)} characters; the limit is {PATTERN_CHARACTERS_MAX}")
    options = re2.Options()
    options.max_mem, options.log_errors = PATTERN_BYTES_MAX, False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        remedy = (
            "Use the syntax of RE2 (https://github.com/google/re2/wiki/Syntax): no look-around, no back references."
        )
        raise ConfigInvalid(f"{where} is no pattern: {said}", remedy=remedy) from None
    if compiled.fullmatch(""):
        raise ConfigInvalid(f"{where} matches the empty text", remedy="Let it match at least one character.")
    return compiled


def name_detector(pipeline: Path) -> Callable[[str], Iterator[Span]]:
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
    engine = engines.SpacyNlpEngine(models=[{"lang_code": LANGUAGE, "model_name": str(pipeline)}])
    engine.nlp = {LANGUAGE: loaded}
    registry = presidio.RecognizerRegistry(supported_languages=[LANGUAGE])
    registry.load_predefined_recognizers(languages=[LANGUAGE], nlp_engine=engine)
    for recognizer in NEEDS_NETWORK:
        registry.remove_recognizer(recognizer)
    analyzer = presidio.AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[LANGUAGE])

    def find(text: str) -> Iterator[Span]:
        results = analyzer.analyze(text, language=LANGUAGE, entities=list(ENTITIES), score_threshold=SCORE_MIN)
        for result in sorted(results, key=lambda found: found.start):
            yield result.start, result.end

    return find
