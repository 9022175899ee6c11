"""Replaces personal data by placeholders or made-up names, and keeps the replaced values in memory.

The same value gets the same placeholder everywhere in the input and the answer: "[CARD_1]" twice is one card. A
placeholder that the text contains already is not used, so the answer of a large model is restored unambiguously. The
mapping is never written.

Made-up names are for a large model that writes better about Maria than about [GIVEN_NAME_1]. Only names and places get
them: an answer that reformats a made-up number would return a number that looks real, so numbers, e-mail addresses and
everything else keep their placeholders. A made-up name does not occur in the text, and none is used twice in one
example.

A site adds patterns of its own, for loyalty cards, file numbers and the like (`compile_site_rules`), and a pipeline
that finds names (`name_detector`). Its patterns run in RE2 (https://github.com/google/re2), which takes time linear in
the text for every pattern it accepts, and refuses the others: look-around, back references, nested repetitions beyond a
size. So no pattern and no text can block the thread that redacts. Longer texts than `input_characters_max` do not get
here.
"""

from __future__ import annotations

import importlib
import itertools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edge_agent.capture.redact import RULES_VERSION, RedactionRule, Span
from edge_agent.capture.redact.builtin_rules import ANNOUNCED_NAME_RULE, GATES, built_in_rules
from edge_agent.capture.redact.indexed_text import IndexedText
from edge_agent.capture.redact.model_findings import MODEL_RULE, FoundValue, ModelFindings, context_of
from edge_agent.errors import ConfigInvalid

_GIVEN_NAMES = (
    *("Maria", "Jonas", "Elena", "Lukas", "Sofia", "Martin", "Clara", "Felix", "Nina", "Oscar", "Julia", "Simon"),
    *("Laura", "David", "Helena", "Victor", "Irene", "Emil", "Teresa", "Anton", "Vera", "Hugo", "Alma", "Leon"),
)
_SURNAMES = (
    *("Fischer", "Moreau", "Rossi", "Lindberg", "Novak", "Jansen", "Costa", "Keller", "Dubois", "Hansen", "Marin"),
    *("Weber", "Ferrari", "Nilsson", "Kowalski", "Bakker", "Silva", "Brandt", "Laurent", "Olsen", "Romano", "Berger"),
)
_CITIES = (
    *("Marburg", "Annecy", "Lucca", "Uppsala", "Zwolle", "Aveiro", "Odense", "Girona", "Linz", "Exeter", "Tours"),
    *("Bergamo", "Leiden", "Passau", "Vigo", "Malmö", "Braga", "Aarhus", "Graz", "Durham", "Nancy", "Siena"),
)
_STREETS = ("Mill Lane", "Park Road", "Station Street", "Garden Row", "Church Walk", "Bridge Street", "Orchard Way")
_BY_WORD: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("GIVEN_NAME", "FIRST_NAME"), _GIVEN_NAMES),
    **dict.fromkeys(("SURNAME", "LAST_NAME"), _SURNAMES),
    "CITY": _CITIES,
    **dict.fromkeys(("STREET_NAME", "STREET"), _STREETS),
}
_FULL_NAMES = frozenset({"NAME", "PERSON"})

Draw = Callable[[int], int]
"""Returns a random number from 0 to below its argument."""


def choose_surrogate(value: str, word: str, text: str, used_surrogates: Collection[str], draw: Draw) -> str:
    """Return a made-up value; empty = the type keeps its placeholder, or all made-up values are in use.

    Args:
        value: the real value, whose case is kept.
        word: the word of its placeholder, such as GIVEN_NAME.
        text: values that occur in it are not returned.
        used_surrogates: the made-up values of the example so far.
        draw: chooses one.
    """
    if any(character.isdecimal() for character in value):
        return ""
    lowered, used = text.lower(), {each.lower() for each in used_surrogates}
    free = [each for each in _choices(value, word) if each.lower() not in lowered and each.lower() not in used]
    return _in_case_of(value, free[draw(len(free))]) if free else ""


def surrogate_pattern(values: Mapping[str, str]) -> re.Pattern[str] | None:
    """Return the pattern that finds made-up values in an answer, as whole words; None without any."""
    longest_first = sorted(values, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)") if values else None


def count_unfinished(text: str, values: Collection[str]) -> int:
    """Return how many characters at the end of a text may be a made-up value or the beginning of one."""
    longest = max(map(len, values), default=0)
    for length in range(min(longest, len(text)), 0, -1):
        if any(each.startswith(text[-length:]) for each in values):
            return length
    return 0


def _choices(value: str, word: str) -> tuple[str, ...]:
    if word not in _FULL_NAMES:
        return _BY_WORD.get(word, ())
    if len(value.split()) < 2:
        return _GIVEN_NAMES
    return tuple(f"{given} {surname}" for given, surname in zip(_GIVEN_NAMES, _SURNAMES, strict=False))


def _in_case_of(value: str, surrogate: str) -> str:
    if value.isupper() and len(value) > 1:
        return surrogate.upper()
    return surrogate.lower() if value.islower() else surrogate


PLACEHOLDER = re.compile(r"\[(?P<word>[A-Z][A-Z0-9_]{0,40})_\d{1,6}\]")
PLACEHOLDER_CHARACTERS_MAX = 64
FIELD_RULE = "schema_field"
"""Rule name of the values of fields that the schema marks."""
NAME_RULE, NAME_WORD = "presidio", "NAME"
"""Rule name and placeholder word of the pipeline that finds names."""


def placeholders(text: str) -> list[str]:
    """Return the placeholders in a text, in order."""
    return [match[0] for match in PLACEHOLDER.finditer(text)] if "[" in text else []


@dataclass(frozen=True)
class ReplacedValue:
    """A value of a text that was replaced: [start, end) in code points."""

    start: int
    end: int
    placeholder: str
    rule: str
    """The rule that gave the placeholder its word, or "model:" with a type."""
    by_rules: bool
    by_model: bool
    score: float
    """The model's probability that the value is personal; 0 = the model did not find it."""


@dataclass
class RedactionSession:
    """What was replaced in the texts of one example. Make one with `Redactor.start`."""

    rules: tuple[RedactionRule, ...]
    reserved: set[str] = field(default_factory=set)
    """Placeholders that are not used, because the texts contain them already."""
    counts: Counter[str] = field(default_factory=Counter)
    """Replacements by the name of the rule."""
    _placeholders: dict[str, str] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    _known_values: dict[str, str] = field(default_factory=dict)
    findings: ModelFindings | None = None
    """What a redaction model found in the texts of the example; None = rules alone."""
    draw: Draw | None = None
    """Chooses made-up names in place of real ones; None = placeholders only."""
    _surrogates: dict[str, str] = field(default_factory=dict)
    _texts: list[str] = field(default_factory=list)

    def text(self, text: str, context: str = "") -> str:
        """Replace what the rules find, and whatever was replaced in an earlier text of the example.

        `context` is read before the text and not replaced: the key of a value may identify its digits.
        """
        self.reserved.update(placeholders(text))
        if self.draw is not None:
            self._texts.append(text)
        spans = self.find_values(text, context)
        for start, stop, rule, _ in spans:  # another text may contain the value without what identifies it
            self._known_values.setdefault(text[start:stop], FIELD_RULE if context else rule)
        return self._replace_spans(text, spans)

    def again(self, value: Any) -> Any:
        """Redact a JSON value again, with the values found in later texts of the example."""
        return _map_texts(value, "", lambda text, _: self._replace_spans(text, _unite(self._find_known(text))))

    def trace(self, text: str) -> tuple[str, list[ReplacedValue]]:
        """Replace as `text` does; also return the replaced values, and whether rules or model found them."""
        rule_spans = replace(self, findings=None).find_values(text)
        model_values = self.findings.of(text) if self.findings is not None and text.strip() else ()
        spans, redacted = self.find_values(text), self.text(text)
        replaced = []
        for start, end, rule, word in spans:
            scores = [each.score for each in model_values if each.start < end and start < each.end]
            by_rules = any(first < end and start < last for first, last, *_ in rule_spans)
            placeholder = self._placeholder(text[start:end], word)
            replaced.append(
                ReplacedValue(start, end, placeholder, rule, by_rules, bool(scores), max(scores, default=0.0))
            )
        return redacted, replaced

    def fields(self, record: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """Replace the values of fields in a record, and remember them so that `text` finds them in the input."""
        return {key: self._redact_field(value, key) if key in names else value for key, value in record.items()}

    def value(self, value: Any, key: str = "") -> Any:
        """Replace what the rules find in a JSON value: in strings, numbers and keys, at any depth.

        A number in which something is found becomes the placeholder, a string. `key` is the key of the value.
        """
        return _map_texts(value, key, lambda text, key: self.text(text, context_of(key)))

    @property
    def replaced(self) -> Mapping[str, str]:
        """The replaced values with their placeholders. In memory only; never written."""
        return self._placeholders

    def restore(self, text: str) -> str:
        """Put the values back into a text that holds placeholders, or made-up names, of this example."""
        values = {placeholder: value for value, placeholder in self._placeholders.items()}
        if pattern := surrogate_pattern(self._surrogates):
            text = pattern.sub(lambda match: self._surrogates[match[0]], text)
        return PLACEHOLDER.sub(lambda match: values.get(match[0], match[0]), text)

    def split(self, text: str) -> tuple[str, str]:
        """Split a streamed answer before an end that may be an incomplete placeholder or made-up name."""
        at = text.rfind("[")
        open_ = at >= 0 and len(text) - at <= PLACEHOLDER_CHARACTERS_MAX and "]" not in text[at:]
        end = min(at if open_ else len(text), len(text) - count_unfinished(text, self._surrogates))
        return text[:end], text[end:]

    def _redact_field(self, value: Any, name: str) -> Any:
        if isinstance(value, list):
            return [self._redact_field(each, name) for each in value]
        if value in (None, "", True, False) or (isinstance(value, str) and value in self.reserved):
            return value
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        self.counts[FIELD_RULE] += 1
        self._known_values[text] = FIELD_RULE
        return self._placeholder(text, _placeholder_word(name))

    def find_values(self, text: str, context: str = "") -> list[tuple[int, int, str, str]]:
        """Return start, end, rule and placeholder of each value to be replaced, in the order of the text.

        `context` is read before the text; a match that begins in it counts from the start of the text.
        """
        spans = self._find(text)
        if context:
            spans = itertools.chain(spans, self._find_with_context(context, text))
        if self.findings is not None:
            spans = itertools.chain(spans, self._find_by_model(self.findings, text, context))
        return [(start, _word_end(text, end), rule, word) for start, end, rule, word in _unite(spans)]

    def _find_by_model(self, findings: ModelFindings, text: str, context: str) -> Iterator[tuple[int, int, str, str]]:
        """Yield what the model found in a text, and values it found in other texts that occur in this one."""
        placeholder_spans = [match.span() for match in PLACEHOLDER.finditer(text)] if "[" in text else []
        values = list(_find_echoes(findings.echoes(), text))
        if _without_spans(text, placeholder_spans).strip():
            offset = len(context)
            text_values = findings.of(context + text)
            values += [each._replace(start=max(each.start - offset, 0), end=each.end - offset) for each in text_values]
        for start, end, label, _ in values:
            in_placeholder = any(begin <= start and end <= stop for begin, stop in placeholder_spans)
            if end > start and not in_placeholder:
                yield start, end, MODEL_RULE + label.lower(), _placeholder_word(label)

    def _find_with_context(self, context: str, text: str) -> Iterator[tuple[int, int, str, str]]:
        offset = len(context)
        for start, end, rule, word in self._find(context + text):
            # A key such as "name" does not announce a person's name: the field settings decide whether it is redacted.
            if end > offset and rule != ANNOUNCED_NAME_RULE:
                yield max(start - offset, 0), end - offset, rule, word

    def _find(self, text: str) -> Iterator[tuple[int, int, str, str]]:
        yield from self._find_known(text)
        indexed_text = IndexedText(text)
        windows = {gate: gate.windows(indexed_text) for gate in GATES}
        for rule in self.rules:
            for begin, stop in windows[rule.gate] if rule.gate else ((0, len(text)),):
                # The whole text keeps its index of words.
                for start, end in rule.find(indexed_text if begin == 0 and stop >= len(text) else text[begin:stop]):
                    yield begin + start, begin + end, rule.name, rule.placeholder

    def _find_known(self, text: str) -> Iterator[tuple[int, int, str, str]]:
        """Yield values of earlier texts: as whole words, those of redacted fields also within words."""
        for value in sorted(self._known_values, key=len, reverse=True):
            if value in text:
                rule, escaped = self._known_values[value], re.escape(value)
                pattern = escaped if rule == FIELD_RULE else rf"(?<!\w){escaped}(?!\w)"
                yield from ((*match.span(), rule, "") for match in re.finditer(pattern, text))

    def _replace_spans(self, text: str, spans: Sequence[tuple[int, int, str, str]]) -> str:
        parts, end = [], 0
        for start, stop, rule, word in spans:
            parts += [text[end:start], self._placeholder(text[start:stop], word)]
            self.counts[rule] += 1
            end = stop
        return "".join([*parts, text[end:]])

    def _placeholder(self, value: str, word: str) -> str:
        if value not in self._placeholders and self.draw is not None:
            surrogate = choose_surrogate(value, word, "\n".join(self._texts), self._surrogates, self.draw)
            if surrogate:
                self._surrogates[surrogate] = value
                self._placeholders[value] = surrogate
        if value not in self._placeholders:
            number = self._numbers.get(word, 0) + 1
            while (placeholder := f"[{word}_{number}]") in self.reserved:
                number += 1
            self._numbers[word], self._placeholders[value] = number, placeholder
        return self._placeholders[value]


def _map_texts(value: Any, key: str, redact: Callable[[str, str], str]) -> Any:
    """Redact the strings, numbers and keys of a JSON value; `redact` gets each with its key."""
    if isinstance(value, dict):
        return {redact(name, ""): _map_texts(each, name, redact) for name, each in value.items()}
    if isinstance(value, list):
        return [_map_texts(each, key, redact) for each in value]
    if value is None or isinstance(value, bool):
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    redacted = redact(text, key)
    return value if redacted == text else redacted


def _placeholder_word(name: str) -> str:
    """Make the word of a placeholder from the name of a field."""
    return re.sub(r"\W", "_", name, flags=re.ASCII).upper()[:40] or "FIELD"


class Redactor:
    """The rules of one site."""

    def __init__(
        self,
        site_rules: Sequence[RedactionRule] = (),
        detector: Callable[[str], Iterator[Span]] | None = None,
        phone_regions: Sequence[str] = (),
    ) -> None:
        """Put the site's rules before the built-in ones, and the detector of names after them.

        `phone_regions`: the regions of telephone numbers without a prefix (ISO 3166-1 codes).
        """
        names = [RedactionRule(NAME_RULE, NAME_WORD, detector)] if detector else []
        self._rules = (*site_rules, *built_in_rules(phone_regions), *names)
        self.rule_names = tuple(rule.name for rule in self._rules)
        self.version = RULES_VERSION

    def start(
        self, stored: str = "", findings: ModelFindings | None = None, draw: Draw | None = None
    ) -> RedactionSession:
        """Begin with an example; placeholders in a stored text of it are not used again.

        The findings of a model are replaced along with those of the rules. With `draw`, made-up names replace real
        ones.
        """
        return RedactionSession(self._rules, set(placeholders(stored)), findings=findings, draw=draw)


def _unite(spans: Iterator[tuple[int, int, str, str]]) -> list[tuple[int, int, str, str]]:
    """Join overlapping finds, so that no part of a value is left; the longest gives the name, the first of equal ones.

    A value known from another text has no placeholder word, so a larger union takes that of the other find.
    """
    united: list[tuple[int, int, str, str]] = []
    longest = 0
    for start, end, rule, word in sorted(spans, key=lambda each: each[0]):  # stable: equal starts keep the rules' order
        if not united or start >= united[-1][1]:
            united.append((start, end, rule, word))
            longest = end - start
            continue
        first, last, *name = united[-1]
        other_name, stop = [rule, word], max(last, end)
        if end - start > longest:
            longest, name, other_name = end - start, other_name, name
        if not name[1] and stop - first > longest:
            name = [other_name[0], other_name[1] or "FIELD"]
        united[-1] = (first, stop, name[0], name[1])
    return united


def _word_end(text: str, end: int) -> int:
    """Return the end of the word if a combining character continues it, since patterns stop before one."""
    if text[end : end + 1] and unicodedata.combining(text[end]):
        while end < len(text) and (text[end].isalnum() or unicodedata.combining(text[end])):
            end += 1
    return end


def _find_echoes(echoes: Mapping[str, str], text: str) -> Iterator[FoundValue]:
    """Yield the values that the model found in any text of the example, where they occur here as whole words."""
    for value, label in echoes.items():
        if value in text:
            pattern = rf"(?<!\w){re.escape(value)}(?!\w)"
            yield from (FoundValue(*match.span(), label) for match in re.finditer(pattern, text))


def _without_spans(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Return a text without these spans."""
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(text)]
    return "".join(text[begin:stop] for begin, stop in zip(ends, starts, strict=True))


PATTERN_BYTES_MAX = 64 * 1024
"""Memory limit of one compiled pattern; RE2 also derives its time limit per character from it."""
PATTERN_CHARACTERS_MAX = 1000
PIPELINE_ENTITIES = ("PERSON", "LOCATION", "NRP", "MEDICAL_LICENSE", "IP_ADDRESS", "CRYPTO")
NEEDS_NETWORK = ("EmailRecognizer", "UrlRecognizer")
NAME_SCORE_MIN = 0.5
PIPELINE_LANGUAGE = "en"
"""The language code for presidio; a pipeline of any language runs under it."""


def compile_site_rules(patterns: Mapping[str, str]) -> list[RedactionRule]:
    """Compile the site's patterns, by name.

    Raises:
        ConfigInvalid: a pattern is not one, is too long, or matches the empty text.
    """
    return [_site_rule(name, pattern) for name, pattern in patterns.items()]


def _site_rule(name: str, pattern: str) -> RedactionRule:
    compiled = _compile_site_pattern(name, pattern)

    def find(text: str) -> Iterator[Span]:
        for match in compiled.finditer(text):
            if match.end() > match.start():
                yield match.span()

    return RedactionRule(name, name.upper(), find)


def _compile_site_pattern(name: str, pattern: str) -> Any:
    where = f"examples.site_rules.{name}"
    if len(pattern) > PATTERN_CHARACTERS_MAX:
        raise ConfigInvalid(f"{where} has {len(pattern)} characters; the limit is {PATTERN_CHARACTERS_MAX}")
    # Loaded only at a site with patterns of its own.
    import re2  # noqa: PLC0415

    options = re2.Options()
    options.max_mem, options.log_errors = PATTERN_BYTES_MAX, False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        remedy = (
            "Use the syntax of RE2 (https://github.com/google/re2/wiki/Syntax): no look-around, no back references."
        )
        raise ConfigInvalid(f"{where} is not a regular expression: {reason}", remedy=remedy) from None
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
        nlp = spacy.load(pipeline)
    except (OSError, ValueError) as error:
        raise ConfigInvalid(
            f"examples.presidio_pipeline: {pipeline} holds no spaCy pipeline: {error}",
            remedy="Give a directory that spaCy's nlp.to_disk() wrote, with the same version of spaCy.",
        ) from None
    engine = engines.SpacyNlpEngine(models=[{"lang_code": PIPELINE_LANGUAGE, "model_name": str(pipeline)}])
    engine.nlp = {PIPELINE_LANGUAGE: nlp}
    registry = presidio.RecognizerRegistry(supported_languages=[PIPELINE_LANGUAGE])
    registry.load_predefined_recognizers(languages=[PIPELINE_LANGUAGE], nlp_engine=engine)
    for recognizer in NEEDS_NETWORK:
        registry.remove_recognizer(recognizer)
    analyzer = presidio.AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[PIPELINE_LANGUAGE])

    def find(text: str) -> Iterator[Span]:
        results = analyzer.analyze(
            text, language=PIPELINE_LANGUAGE, entities=list(PIPELINE_ENTITIES), score_threshold=NAME_SCORE_MIN
        )
        for result in sorted(results, key=lambda result: result.start):
            yield result.start, result.end

    return find
