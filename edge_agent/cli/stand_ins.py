"""Stand-ins for modules that libraries import at once, and that our processes do not use.

A stand-in has the attributes that are used; when anything else of the module is used, the module itself is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType

PROTOBUF_IN_PYTHON = "google.protobuf.internal.python_message"
"""protobuf's implementation without the C extension, with a parser of text."""
PYDANTIC_PLUGINS = "pydantic.plugin._loader"
"""Reads what every installed package declares, in search of plugins. A package has no other way into our processes."""
SECRETS = "secrets"
"""pydantic compares values of type SecretStr with it; it loads OpenSSL by way of hashlib."""


def install_stand_ins() -> None:
    """Put the stand-ins where the import system finds them."""
    stand_in(PROTOBUF_IN_PYTHON)
    stand_in(PYDANTIC_PLUGINS, get_plugins=_no_plugins)
    stand_in(SECRETS)


def stand_in(name: str, **attributes: object) -> None:
    """Put one stand-in with these attributes, unless the module is loaded already."""
    if name in sys.modules:
        return
    module = ModuleType(name)

    def load(attribute: str) -> object:
        if attribute.startswith("__"):
            raise AttributeError(attribute)  # the import system looks for __path__ and the like
        if sys.modules.get(name) is module:
            del sys.modules[name]
        try:
            loaded = import_module(name)
        except ImportError:
            sys.modules[name] = module
            raise
        return getattr(loaded, attribute)

    # Called for an attribute that the stand-in lacks (PEP 562).
    module.__dict__.update(attributes, __getattr__=load)
    sys.modules[name] = module


def _no_plugins() -> Iterable[object]:
    return ()
