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
    """Reads numbers, dates and true or false as such."""


class _StringLoader(_UniqueKeys, yaml.BaseLoader):
    """Reads every value as a string, such as 02:00 and 2026-12-01."""


def load_yaml(text: bytes | str, *, strings: bool = False) -> Any:
    """Read one document; with `strings`, every value in it is a string.

    Raises:
        YAMLError: not YAML, or a key occurs twice.
        ValueError: an impossible date or number.
        RecursionError: nested too deeply.
    """
    return yaml.load(text, _StringLoader if strings else _Loader)  # noqa: S506 - both make plain values only
