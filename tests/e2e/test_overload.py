"""Callers that overload a listener do not disturb a well-behaved caller."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.attacking import crowding
from benchmarks.attacking.assault import CALL, KINDS, PREFACE, frame, literal
from tests.support.bundles import echo_bundle
from tests.support.callers import Callers
from tests.support.daemon import RunningDaemon


@pytest.mark.release
@pytest.mark.parametrize("kind", KINDS)
def test_overload_by_others_fails_no_call_of_good_client(tmp_path: Path, kind: str) -> None:
    """While other callers overload the socket, no call of a well-behaved client fails, and the daemon's file
    descriptors are released afterwards."""
    crowded = crowding.AssaultResults()
    with RunningDaemon(tmp_path) as daemon, daemon.client() as client:
        daemon.install(echo_bundle(tmp_path / "a", "intent", labels=crowding.LABELS))
        before = crowding.settled(daemon)
        crowding.assaulted(crowding.EntryPoint("socket", daemon.inference, (), client), kind, 1.0, crowded)
        after = crowding.settled(daemon, before)
    assert ([], True) == (crowded.failed, crowded.calls > 0)
    assert after.descriptors <= before.descriptors + crowding.DESCRIPTORS_MAX


def test_load_generator_records_refused_inputs(tmp_path: Path) -> None:
    """A caller of the load generator that gets an error in place of an answer records its reason and does not count an
    answer."""
    with RunningDaemon(tmp_path) as daemon:
        limits = {"limits": {"input_tokens_max": 8}}
        daemon.install(echo_bundle(tmp_path / "a", "intent", labels=crowding.LABELS, task=limits))
        with Callers(daemon, "intent", 1, text="word " * 100) as callers:
            callers.wait_for_answers(1)
        assert 0 == callers.answers
        assert callers.lost
        assert "INPUT" in callers.lost[0]


def test_http2_frames_follow_rfc() -> None:
    """The overload helper writes HTTP/2 frames (RFC 9113, 4.1) and header literals (RFC 7541, 6.2.2) in the standard
    format."""
    assert b"\x00\x00\x08\x06\x00\x00\x00\x00\x018 bytes!" == frame(6, 0, 1, b"8 bytes!")
    assert b"\x00\x02te\x08trailers" == literal("te", "trailers")
    assert CALL.endswith(literal("te", "trailers"))
    assert PREFACE.startswith(b"PRI * HTTP/2.0")
