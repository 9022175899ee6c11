"""The error tree: documented, stable, and able to cross a pipe."""

from __future__ import annotations

import re

import pytest
from google.rpc import error_details_pb2

from edge_agent import errors
from edge_agent.engine.protocol import FRAME_BYTES_MAX
from edge_agent.engine.runtimes import failure_report
from edge_agent.errors import (
    BY_REASON,
    RETRY_SECONDS_MAX,
    CapacityError,
    DeadlineUnattainable,
    EdgeAgentError,
    InputTooLong,
    ModelFailed,
    QueueFull,
    from_wire,
)
from edge_agent.errors.base import sudo_user
from edge_agent.server.error_status import to_status

LEAVES = sorted(BY_REASON.values(), key=lambda cls: cls.__name__)


def drawn() -> dict[str, str]:
    """Return the family of each leaf, as drawn in the module's docstring."""
    families: dict[str, str] = {}
    family = ""
    for line in (errors.__doc__ or "").splitlines():
        names = re.findall(r"\b[A-Z][A-Za-z]+\b", line)
        head = re.match(r"    [├└]── (\w+)", line)
        if head:
            family = head[1]
        elif re.match(r"    [│ ]   [├└]──", line):
            families.update(dict.fromkeys(names, family))
    return families


def test_every_leaf_is_drawn_under_its_family() -> None:
    """The tree in the docstring names each class once, below its base class."""
    assert {cls.__name__: cls.__bases__[0].__name__ for cls in LEAVES} == drawn()


def test_a_class_without_a_reason_is_a_family() -> None:
    """Only the root and the nine families have no reason of their own."""
    everything = {name for name, value in vars(errors).items() if isinstance(value, type)}
    families = set(drawn().values())
    assert {"EdgeAgentError", "CapacityError"} | families == everything - {cls.__name__ for cls in LEAVES}
    assert 9 == len(families)


def test_reasons_are_unique() -> None:
    """No two classes share a reason."""
    own = [vars(cls)["reason"] for cls in LEAVES]
    assert len(set(own)) == len(own)


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_reason_has_the_form_of_error_info(cls: type[EdgeAgentError]) -> None:
    """ErrorInfo.reason is at most 63 characters of [A-Z][A-Z0-9_]+[A-Z0-9] (google/rpc/error_details.proto)."""
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+[A-Z0-9]", cls.reason)
    assert len(cls.reason) <= 63


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_error_crosses_the_pipe_unchanged(cls: type[EdgeAgentError]) -> None:
    """Class, message, remedy and metadata are the same after the pipe."""
    sent = cls("it broke at 7", remedy="Mend it.", count=7, path="a/b")
    back = from_wire(sent.reason, sent.message, sent.remedy, sent.metadata)
    assert (cls, "it broke at 7", "Mend it.") == (type(back), back.message, back.remedy)
    assert {"count": "7", "path": "a/b"} == back.metadata


def test_an_unknown_reason_becomes_model_failed() -> None:
    """An unknown reason from a child of another version becomes ModelFailed."""
    back = from_wire("NEVER_HEARD_OF", "something", "", {})
    assert (ModelFailed, "something") == (type(back), back.message)


def test_reason_of_the_root_becomes_model_failed() -> None:
    """INTERNAL is never sent by a child, so it becomes ModelFailed."""
    assert ModelFailed is type(from_wire("INTERNAL", "x", "", {}))


def test_the_message_is_the_text_of_the_exception() -> None:
    """str() of an error is its message, so logs and callers see the same sentence."""
    assert "the queue has 64 of 64" == str(QueueFull("the queue has 64 of 64"))


def test_remedy_of_the_class_is_the_default() -> None:
    """An instance without a remedy has the one of its class."""
    assert QueueFull.remedy_default == QueueFull("full").remedy
    assert "Wait." == QueueFull("full", remedy="Wait.").remedy


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_every_error_class_has_a_remedy(cls: type[EdgeAgentError]) -> None:
    """Each class has a remedy, which docs/errors.md shows."""
    assert re.fullmatch(r".+[.?]", cls("x").remedy)


def test_capacity_errors_have_a_retry_delay() -> None:
    """The default delay is one second."""
    assert 1.0 == QueueFull("full").retry_seconds
    assert 2.5 == QueueFull("full", retry_seconds=2.5).retry_seconds
    assert all(issubclass(cls, CapacityError) for cls in LEAVES if drawn()[cls.__name__] == "CapacityError")


@pytest.mark.parametrize("quoted", ["\x1b[2J", "\0", "\ud800", "\u202e", "\x07\x9b"])
def test_message_has_no_control_characters(quoted: str) -> None:
    """Control characters of a quoted file are escaped, the message is one line, and other scripts stay readable."""
    error = QueueFull(f"the file says {quoted!s} and 漢\n  ends", remedy=f"Remove {quoted}.")
    assert f"the file says {ascii(quoted)[1:-1]} and 漢 ends" == error.message == str(error)
    assert f"Remove {ascii(quoted)[1:-1]}." == error.remedy


def test_metadata_of_a_child_may_have_any_key() -> None:
    """Keys that are also parameters of the error's constructor are kept as metadata."""
    error = from_wire("QUEUE_FULL", "full", "wait", {"message": "m", "remedy": "r", "retry_seconds": "s"})
    assert {"message": "m", "remedy": "r", "retry_seconds": "s"} == error.metadata


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("0.25", 0.25), ("0", 0.0), ("-3", 0.0), ("1e9", RETRY_SECONDS_MAX), ("nan", 1.0), ("inf", 1.0), ("soon", 1.0)],
)
def test_retry_delay_of_a_child_is_limited(told: str, seconds: float) -> None:
    """A child's delay is limited; one that is not a number becomes the default second."""
    error = from_wire("DEADLINE_UNATTAINABLE", "too slow", "", {"retry_seconds": told})
    assert isinstance(error, CapacityError)
    assert seconds == error.retry_seconds


def test_the_delay_of_a_child_reaches_the_caller() -> None:
    """The delay of a child's error passes through the pipe into RetryInfo."""
    sent = failure_report("job", DeadlineUnattainable("too slow", retry_seconds=0.75, tokens=30))
    back = from_wire(sent.reason, sent.message, sent.remedy, sent.metadata)
    (_, retry) = to_status(back).details
    delay = error_details_pb2.RetryInfo()
    assert retry.Unpack(delay)
    assert (750, "30") == (delay.retry_delay.ToMilliseconds(), back.metadata["tokens"])


def test_input_too_long_documents_both_limits() -> None:
    """The docstring, which docs/errors.md shows, names the limit in tokens and that of a frame."""
    said = InputTooLong.__doc__ or ""
    assert ("tokens" in said, f"{FRAME_BYTES_MAX >> 20} MiB" in said) == (True, True)


@pytest.mark.parametrize(
    ("environment", "user_id", "name"),
    [
        ({"SUDO_UID": "1000", "SUDO_USER": "anna"}, 0, "anna"),
        ({"SUDO_UID": "0", "SUDO_USER": "root"}, 0, ""),
        ({"SUDO_UID": "1000", "SUDO_USER": "anna"}, 1001, ""),
        ({}, 0, ""),
    ],
)
def test_sudo_user_is_named(environment: dict[str, str], user_id: int, name: str) -> None:
    """Under sudo the calling user is named; a user who is not root is named whatever the environment says."""
    assert name == sudo_user(environment, user_id)
