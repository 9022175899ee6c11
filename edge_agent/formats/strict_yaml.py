"""One strict reader of YAML that people wrote: a key that occurs twice in one mapping is an error."""

from __future__ import annotations

import itertools
import re
from typing import Any

import yaml

_SURROGATE = re.compile("[\ud800-\udfff]")


class _UniqueKeys(yaml.composer.Composer):
    """Refuses a key that occurs twice in one mapping, where the second would silently replace the first.

    Also refuses half a character, which cannot be encoded. The errors have the line.
    """

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """Refuse half a character."""
        node = super().compose_scalar_node(anchor)
        if _SURROGATE.search(node.value):
            message = "a text holds half a character (a lone surrogate)"
            raise yaml.composer.ComposerError(None, None, message, node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a key that occurs twice, before keys of other mappings are merged in."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"'{key.value}' occurs twice", key.start_mark)
            seen.add(key.value)
        return node


class _Loader(_UniqueKeys, yaml.SafeLoader):
    """Reads numbers, dates and true or false as such, and merges mappings ('<<') as https://yaml.org/type/merge.html."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge: the mapping's own keys take precedence, then those of the first mapping named.

        PyYAML itself chooses another value if a merged mapping has merged one of its keys, or if several are named.
        """
        for key, _ in node.value:
            key.tag = _STRING if key.tag == _VALUE else key.tag
        merge_values = [value for key, value in node.value if key.tag == _MERGE]
        own_pairs = [pair for pair in node.value if pair[0].tag != _MERGE]
        merged = {self._identity(key): (key, value) for key, value in own_pairs}
        if len(merged) < len(own_pairs):  # keys that are equal in two forms, such as 1 and 0x1
            raise yaml.constructor.ConstructorError(None, None, "a key occurs twice", node.start_mark)
        node.value = list(merged.values())  # first, since a mapping may name itself
        for source in itertools.chain.from_iterable(map(_sources, merge_values)):
            self.flatten_mapping(source)
            for key, value in source.value:
                merged.setdefault(self._identity(key), (key, value))
        node.value = list(merged.values())

    def _identity(self, key: yaml.Node) -> object:
        """Return a value that is equal for two ways to write one key."""
        return self.construct_object(key) if isinstance(key, yaml.ScalarNode) else id(key)


_MERGE, _STRING, _VALUE = (f"tag:yaml.org,2002:{name}" for name in ("merge", "str", "value"))  # value: a key '='


def _sources(value: yaml.Node) -> list[yaml.MappingNode]:
    """Return the mappings that a merge names."""
    sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
    for source in sources:
        if not isinstance(source, yaml.MappingNode):
            message = f"'<<' names mappings, and this is a {source.id}"
            raise yaml.constructor.ConstructorError(None, None, message, source.start_mark)
    return sources


class _StringLoader(_UniqueKeys, yaml.BaseLoader):
    """Reads every value as a string, such as 02:00 and 2026-12-01."""


_REPEATED_MAX = 100_000
"""Values that aliases may repeat, in addition to one per character: a few lines could repeat more than memory holds."""


def _expanded_values(plain: Any) -> int:
    """Return how many values there are with each alias expanded. Raises YAMLError if there is no end."""
    sizes: dict[int, int] = {}

    def size(value: Any) -> int:
        if not isinstance(value, dict | list | tuple | set):
            return 1
        if id(value) not in sizes:
            sizes[id(value)] = 0
            parts = itertools.chain(value, value.values()) if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(map(size, parts))
        elif not sizes[id(value)]:
            raise yaml.YAMLError("an alias is inside the value that it repeats")
        return sizes[id(value)]

    return size(plain)


def load_yaml(text: bytes | str, *, strings: bool = False) -> Any:
    """Read one document; with `strings`, every value in it is a string.

    Raises:
        YAMLError: not YAML, a key occurs twice, a type given with '!!' does not fit its value, aliases repeat too much,
            or a text holds half a character.
        ValueError: an impossible date or number.
        RecursionError: nested too deeply.
    """
    try:
        plain = yaml.load(text, _StringLoader if strings else _Loader)  # noqa: S506 - both make plain values only
    except (LookupError, AttributeError, TypeError):  # PyYAML's reaction to, for example, '!!bool' before a number
        raise yaml.YAMLError("a type given with '!!' does not fit its value, and no key needs one") from None
    if _expanded_values(plain) > len(text) + _REPEATED_MAX:
        raise yaml.YAMLError(f"its aliases repeat more than {_REPEATED_MAX} values")
    return plain
