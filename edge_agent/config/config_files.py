"""The files of the configuration: agent.yaml, which the technician writes, over those beside it that others write.

    agent.yaml        the technician's; need not be there
    site.yaml         enrolment's: which site this is, what it trusts, where its files go
    appliance.yaml    the installer's: the places and groups of an installed appliance

The upper one wins key by key: a key that stands in two of them has its value from the upper one alone, lists and maps
included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edge_agent.errors import ConfigInvalid

SITE_FILE, APPLIANCE_FILE = "site.yaml", "appliance.yaml"
CONFIG_BYTES_MAX = 1024 * 1024
Plain = dict[str, Any]


@dataclass(frozen=True)
class ConfigFiles:
    """What was read of them."""

    agent: tuple[Path, Plain]
    beneath: tuple[tuple[Path, Plain], ...] = ()
    """Those that are there, the one that wins first."""

    def merged(self) -> Plain:
        """Return one configuration."""
        made: Plain = {}
        for _, plain in (*reversed(self.beneath), self.agent):
            made |= {key: _over(made.get(key), value) for key, value in plain.items()}
        return made

    def source_of(self, *keys: str | int) -> Path:
        """Return the file that a key has its value from."""
        found = (path for path, plain in (self.agent, *self.beneath) if _names(plain, keys))
        return next(found, self.agent[0])

    def overruled(self) -> list[str]:
        """Return the keys of the files beneath that agent.yaml says otherwise."""
        theirs = {keys: value for _, plain in reversed(self.beneath) for keys, value in _leaves(plain)}
        ours = dict(_leaves(self.agent[1]))
        return sorted(".".join(keys) for keys, value in theirs.items() if ours.get(keys, value) != value)


def read(path: Path, *, optional: bool) -> ConfigFiles:
    """Read agent.yaml, which may be missing if it is `optional`, and the files beside it, which always may.

    Raises:
        ConfigInvalid: a file cannot be read, is not YAML, too large, or holds no keys.
    """
    return ConfigFiles((path, _read(path, optional=optional)), read_lower_files(path))


def read_lower_files(path: Path) -> tuple[tuple[Path, Plain], ...]:
    """Read the files beside agent.yaml that are there, the one that wins first. Raises ConfigInvalid."""
    beneath = ((each, _sections(each, _read(each, optional=True))) for each in lower_file_paths(path))
    return tuple(one for one in beneath if one[1])


def lower_file_paths(path: Path) -> list[Path]:
    """Return where the files beside agent.yaml are, or would be."""
    return [path.with_name(name) for name in (SITE_FILE, APPLIANCE_FILE) if name != path.name]


def render_sections(sections: Mapping[str, Any], head: str) -> bytes:
    """Return a file of sections; each line of `head` becomes a comment."""
    comment = "".join(f"# {line}\n" for line in head.splitlines())
    return (comment + yaml.safe_dump(dict(sections), sort_keys=False, allow_unicode=True)).encode()


def _names(plain: Plain, keys: tuple[str | int, ...]) -> bool:
    """Tell whether a file says something of a key."""
    section, key = (*keys, "", "")[:2]
    found = plain.get(str(section), {})
    return key in found if isinstance(found, dict) and key else section in plain


def _leaves(plain: Plain) -> Iterator[tuple[tuple[str, str], Any]]:
    for section, found in plain.items():
        for key, value in found.items() if isinstance(found, dict) else ():
            yield (str(section), str(key)), value


def _over(under: object, over: Any) -> Any:
    """Lay a section over the same of the other file; None is a section whose keys are all commented out."""
    if isinstance(under, dict) and over is None:
        return under
    return {**under, **over} if isinstance(under, dict) and isinstance(over, dict) else over


def _sections(path: Path, plain: Plain) -> Plain:
    if not all(isinstance(keys, dict) for keys in plain.values()):
        raise ConfigInvalid(
            f"{path} must hold sections with keys",
            remedy="It is written by 'edge-agent enrol', or came with the program: do so again.",
        )
    return plain


def _read(path: Path, *, optional: bool) -> Plain:
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES_MAX + 1)
        plain = yaml.safe_load(text) if len(text) <= CONFIG_BYTES_MAX else "too large"
    except OSError as error:
        if optional and isinstance(error, FileNotFoundError | NotADirectoryError):
            return {}
        raise ConfigInvalid(f"cannot read {path}: {error.strerror}", remedy="Check --config.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or number that is none
        raise ConfigInvalid(f"{path} is not valid YAML: {error}", remedy="Correct the line that it names.") from None
    except (LookupError, AttributeError, TypeError):  # what the reader makes of '!!int' before what is no number
        said = f"{path} is not valid YAML: a type that is given with '!!' does not fit its value"
        raise ConfigInvalid(said, remedy="Remove the '!!': no key needs one.") from None
    if plain is None:
        return {}
    if not isinstance(plain, dict):
        raise ConfigInvalid(f"{path} must hold keys and values, and at most {CONFIG_BYTES_MAX} bytes")
    return plain
