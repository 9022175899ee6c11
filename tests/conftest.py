"""Settings of the whole test run. Fixtures live beside the tests that use them."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import structlog
from hypothesis import settings

from tests.support import llama_builds

# Read at the import: its thread otherwise looks up its vendor and opens sockets in the midst of some test.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

LONG = (
    *("tests/contract/test_contract_on_", "tests/process/test_cancellation"),
    *("tests/e2e/", "tests/process/", "tests/sim/"),
)
"""Files that take minutes, then folders whose files take seconds, by how paths begin; all other files come behind."""

llama_builds.use_chosen()  # before anything loads llama.cpp

for _signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    # A shell in the background and nohup ignore these, and children inherit that; a handler they do not.
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, lambda *_: None)

# The same examples on every run and machine; a shared core may be slow, so no example has a time limit.
settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.load_profile("fixed")


def _apart(run: Callable[..., Any]) -> Callable[..., Any]:
    """Compute in a thread of its own what is asked for on the main one.

    On a processor with AMX llama.cpp sets the tiles of a thread up once, and onnxruntime, for eight-bit weights,
    another way: what llama.cpp computes on that thread afterwards is wrong. A child of an engine never has both of
    them, and the probes of the factory neither; a run of tests has.
    """
    thread = ThreadPoolExecutor(1, "onnxruntime")

    def apart(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            return run(*arguments, **options)
        return thread.submit(run, *arguments, **options).result()

    return apart


onnxruntime.InferenceSession.run = _apart(onnxruntime.InferenceSession.run)


def _uncached(configure: Callable[..., None]) -> Callable[..., None]:
    """Let no logger keep the configuration it was first used with: a command run in one test writes to a file that is
    closed in the next.
    """
    return lambda **settings: configure(**{**settings, "cache_logger_on_first_use": False})


structlog.configure = _uncached(structlog.configure)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Leave structlog to the next test as it was: commands configure it, and most tests run them in this process."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What collecting makes stays until the end: keep the garbage collector from going through it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    """Let the interpreter end as it does without: it complains of files that are open in what is frozen."""
    gc.unfreeze()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that two workers end together: each takes the next file when it is done. A test
    of the release tier may take as long as it likes.
    """
    for item in items:
        if item.get_closest_marker("release"):
            item.add_marker(pytest.mark.timeout(0))
    items.sort(key=lambda item: next((at for at, path in enumerate(LONG) if item.nodeid.startswith(path)), len(LONG)))
