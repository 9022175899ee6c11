"""One strict reader of YAML that people wrote: a key that occurs twice in one mapping is an error."""

from __future__ import annotations

from typing import Any

import yaml


class _UniqueKeys(yaml.composer.Composer):
    """Refuses a key that occurs twice in one mapping: the second would silently replace the first."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse it by its line, before keys of other mappings are merged in."""
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
        """Merge: a key of the mapping itself counts, then that of the first one named.

        PyYAML's own takes another value where a merged mapping had merged one of its keys, or where several are named.
        """
        for key, _ in node.value:
            key.tag = _STRING if key.tag == _VALUE else key.tag
        named = [value for key, value in node.value if key.tag == _MERGE]
        merged = self._own(node)
        node.value = list(merged.values())  # first, since a mapping may name itself
        for source in (each for value in named for each in _sources(value)):
            self.flatten_mapping(source)
            for key, value in source.value:
                merged.setdefault(self._identity(key), (key, value))
        node.value = list(merged.values())

    def _own(self, node: yaml.MappingNode) -> dict[object, tuple[yaml.Node, yaml.Node]]:
        """Return the pairs that are not merged in. Refuse keys that are the same in two forms, such as 1 and 0x1."""
        own = [pair for pair in node.value if pair[0].tag != _MERGE]
        found = {self._identity(key): (key, value) for key, value in own}
        if len(found) < len(own):
            raise yaml.constructor.ConstructorError(None, None, "a key occurs twice", node.start_mark)
        return found

    def _identity(self, key: yaml.Node) -> object:
        """Return what two ways to write one key have in common."""
        return self.construct_object(key) if isinstance(key, yaml.ScalarNode) else id(key)


_MERGE, _STRING, _VALUE = (f"tag:yaml.org,2002:{name}" for name in ("merge", "str", "value"))  # value: a key '='


def _sources(value: yaml.Node) -> list[yaml.MappingNode]:
    """Return the mappings that a merge names."""
    named = value.value if isinstance(value, yaml.SequenceNode) else [value]
    for each in named:
        if not isinstance(each, yaml.MappingNode):
            said = f"'<<' names mappings, and this is a {each.id}"
            raise yaml.constructor.ConstructorError(None, None, said, each.start_mark)
    return named


class _StringLoader(_UniqueKeys, yaml.BaseLoader):
    """Reads every value as a string, such as 02:00 and 2026-12-01."""


def load_yaml(text: bytes | str, *, strings: bool = False) -> Any:
    """Read one document; with `strings`, every value in it is a string.

    Raises:
        YAMLError: not YAML, a key occurs twice, or a type that is given with '!!' does not fit its value.
        ValueError: an impossible date or number.
        RecursionError: nested too deeply.
    """
    try:
        return yaml.load(text, _StringLoader if strings else _Loader)  # noqa: S506 - both make plain values only
    except (LookupError, AttributeError, TypeError):  # what the reader makes of '!!bool' before what is not one
        said = "a type that is given with '!!' does not fit its value, and no key needs one"
        raise yaml.YAMLError(said) from None
