"""Rules of the site: its own patterns for loyalty cards, file numbers and the like.

They run in RE2 (https://github.com/google/re2), which takes time linear in the text for every pattern it accepts, and
refuses what it could not bound: look-around, back references, repetitions of repetitions beyond a size. So no pattern
and no text can stop the thread that redacts. Texts are cut off above `input_characters_max` before they come here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import re2

from edge_agent.capture.redact.rules import Rule, Span
from edge_agent.errors import ConfigInvalid

PATTERN_BYTES_MAX = 64 * 1024
"""Memory of one compiled pattern; RE2 derives its bound on time per character from it."""
PATTERN_CHARACTERS_MAX = 1000


def site_rules(patterns: Mapping[str, str]) -> list[Rule]:
    """Compile the site's patterns, by name.

    Raises:
        ConfigInvalid: a pattern is none, is too large, or matches the empty text.
    """
    return [_rule(name, pattern) for name, pattern in patterns.items()]


def _rule(name: str, pattern: str) -> Rule:
    compiled = _compiled(name, pattern)

    def find(text: str) -> Iterator[Span]:
        for match in compiled.finditer(text):
            if match.end() > match.start():
                yield match.span()

    return Rule(name, name.upper(), find)


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
