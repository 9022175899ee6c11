"""Modules that commands and the daemon import, which decide their start time and most of the daemon's memory."""

import os
import re
import subprocess
import sys
from importlib import import_module

import pytest
import typer

from edge_agent import client
from edge_agent.cli import COMMANDS, app
from edge_agent.cli.services import hide_modules
from tests.support.daemon import RunningDaemon
from tests.support.fake_daemon import FakeDaemon

LOADED = re.compile(r"(?m)^import time: +\d+ \| +\d+ \| +(\S+)$")
SCREEN = {"rich.console", "rich.text", "pygments", "edge_agent.client"}
SPOOL = {
    "edge_agent.capture.spool",
    "edge_agent.capture.redact.builtin_rules",
    "edge_agent.capture.redaction_audit",
    "edge_agent.capture.person_erasure",
    "edge_agent.monitoring",
}
"""What a site needs that captures answers, or lets texts leave; the rules of redaction are 100 patterns."""
NEVER = {"importlib.metadata", "google.protobuf.text_format", "google.protobuf.internal.decoder"}
"""What libraries load for plugins and implementations that our processes do not have: cli/__init__.py."""
OTHER_CALLS = {
    "edge_agent.client.results",
    "edge_agent.client.inference_client",
    "edge_agent.client.review_client",
    "edge_agent.client.operator_reports",
}
"""Of the client, what other commands call."""
SELDOM = {"google.rpc", "grpc_status", "grpc_health.v1", "secrets", "hashlib"}
"""Of the client, what reads failed calls and asks for health; and what a library compares secrets with."""
SECURITY = {"cryptography", "tuf", "securesystemslib", "boto3", "pyrage", "urllib3"}
LARGE_MODEL = {"openai", "httpx2", "jsonschema", "referencing"}
OTHERS = {"obstore", "starlette", "uvicorn", "numpy", "re2", "zstandard", "edge_agent.doctor", "edge_agent.report"}
DAEMON = {"edge_agent.daemon", "edge_agent.server", "edge_agent.store", "structlog", "uvloop", "sqlite3"}
CLIENT = {"grpc", "google", "edge_agent.client", "edge_agent.v1"}
HELP_MODULES_MAX, STATUS_MODULES_MAX, DAEMON_MODULES_MAX = 370, 480, 630
"""A tenth more than there are with Python 3.11; before each command was loaded alone there were 900 and more."""
COMMAND = [sys.executable, "-X", "importtime", "-m", "edge_agent.cli"]


def loaded(log: str) -> list[str]:
    """Return the modules that `python -X importtime` lists."""
    return LOADED.findall(log)


def unwanted(modules: list[str], names: set[str]) -> set[str]:
    return {name for name in names for module in modules if module == name or module.startswith(f"{name}.")}


def test_help_imports_no_command():
    """`edge-agent --help` imports neither a client, the configuration nor the daemon."""
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
    modules = loaded(done.stderr)
    names = SECURITY | LARGE_MODEL | OTHERS | DAEMON | CLIENT | {"asyncio", "pydantic", "yaml"}
    assert set() == unwanted(modules, names)
    assert len(modules) <= HELP_MODULES_MAX, len(modules)


def test_status_imports_only_client_and_output(tmp_path):
    """`edge-agent status` loads neither the daemon nor what other commands need."""
    with FakeDaemon(f"unix:{tmp_path}/admin.sock"):
        command = [*COMMAND, "--run-dir", str(tmp_path), "status"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = loaded(done.stderr)
    assert set() == unwanted(modules, SECURITY | LARGE_MODEL | OTHERS | DAEMON | NEVER | OTHER_CALLS | SELDOM)
    assert len(modules) <= STATUS_MODULES_MAX, len(modules)


def test_daemon_imports_only_what_its_configuration_needs(tmp_path):
    """Without root of trust, certificates, collected tasks and large model, the daemon imports nothing for them."""
    daemon = RunningDaemon(tmp_path)
    daemon.environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    with daemon:
        modules = loaded(daemon.log.read_text())
    assert set() == unwanted(modules, SCREEN | SECURITY | LARGE_MODEL | OTHERS | NEVER | SPOOL)
    assert len(modules) <= DAEMON_MODULES_MAX, len(modules)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_s_summary_is_the_first_line_of_its_help(name):
    """The list of commands, which imports none of them, has the first line of each command's help."""
    root = typer.main.get_command(app)
    assert COMMANDS[name].summary == root.commands[name].help.split("\n", 1)[0]


def test_hidden_module_cannot_be_imported_inside_the_block():
    """It can be imported afterwards, and modules that are already imported stay."""
    sys.modules.pop("colorsys", None)
    with hide_modules("colorsys", "sys"):
        with pytest.raises(ImportError):
            import_module("colorsys")
        assert import_module("sys") is sys
    assert "colorsys" == import_module("colorsys").__name__


def test_client_exports_every_listed_name():
    """Names that are imported lazily exist too; any other name raises AttributeError."""
    assert client.__all__ == [name for name in client.__all__ if hasattr(client, name)]
    assert set(client.__all__) <= set(dir(client))
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = client.Nothing


@pytest.mark.parametrize("name", ["edge_agent.config", "edge_agent.errors", "edge_agent.store.bundle_store"])
def test_every_name_in_all_exists(name):
    """A name that a refactoring left in __all__ would break `from MODULE import *`."""
    module = import_module(name)
    assert [] == [each for each in module.__all__ if not hasattr(module, each)]
