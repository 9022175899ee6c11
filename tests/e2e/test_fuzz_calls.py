"""Hostile requests to every call of a real daemon: each is answered or refused with a documented reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from tests.support.api_page import documented
from tests.support.fuzzed_daemon import FuzzedDaemon, FuzzResults, fuzz, fuzzed, methods
from tests.support.hostile_calls import CallEnd, call
from tests.support.rpcs import METHODS, path_of

SAMPLE, QUICK, ALL = 4, 12, 300
BEGIN = 20  # the bench begins at 0: these are others
RESIDENT_GROWTH_MAX = 32 * 2**20
REFLECTION = next(method for method in METHODS if method.name == "ServerReflectionInfo")


@pytest.fixture
def at(tmp_path: Path) -> Iterator[FuzzedDaemon]:
    """A daemon on which every call can succeed, Drain included."""
    with fuzzed(tmp_path) as running:
        yield running


def test_malformed_reflection_request_is_invalid_argument(at: FuzzedDaemon) -> None:
    """A malformed reflection request fails with INVALID_ARGUMENT and ends only its own stream; valid requests are
    answered."""
    with grpc.insecure_channel(at.daemon.admin_target) as channel:
        assert ("INVALID_ARGUMENT", "REQUEST_INVALID") == _code(call(channel, REFLECTION, b"\xff"))
        ask = channel.stream_stream(
            path_of(REFLECTION), ServerReflectionRequest.SerializeToString, ServerReflectionResponse.FromString
        )
        questions = [ServerReflectionRequest(list_services="*"), ServerReflectionRequest(file_by_filename="none")]
        listed, missing = ask(iter(questions), timeout=10)
    assert "edge_agent.v1.AdminService" in {each.name for each in listed.list_services_response.service}
    assert grpc.StatusCode.NOT_FOUND.value[0] == missing.error_response.error_code


@pytest.mark.parametrize(
    ("ended", "defect"),
    [
        (CallEnd("OK"), False),
        (CallEnd("INVALID_ARGUMENT", "REQUEST_INVALID"), False),
        (CallEnd("INVALID_ARGUMENT", "NO_SUCH_REASON"), True),
        (CallEnd("INTERNAL", "MODEL_FAILED"), True),
        (CallEnd("UNKNOWN", "", "Unexpected <class 'KeyError'>"), True),
        (CallEnd("NOT_FOUND", "TASK_UNKNOWN", "<class 'KeyError'>"), True),
        (CallEnd("DEADLINE_EXCEEDED"), True),
    ],
)
def test_fuzzer_counts_undocumented_errors_as_defects(ended: CallEnd, defect: bool) -> None:
    """The fuzzer accepts answers and errors with a documented reason, and counts everything else as a defect."""
    assert defect == bool(ended.defect(METHODS[0]))


def undocumented(found: FuzzResults) -> list[str]:
    """Return the outcomes of calls that docs/api.md does not document."""
    reasons = {path.rpartition("/")[2]: reasons for path, reasons in documented().items()}
    ended = [words for words in map(str.split, found.ended) if len(words) == 3 and words[0] in reasons]
    return [f"{call} {reason}" for call, _, reason in ended if reason not in reasons[call]]


def _code(ended: CallEnd) -> tuple[str, str]:
    return ended.code, ended.reason


@pytest.mark.parametrize(
    "cases", [SAMPLE, pytest.param(QUICK, marks=pytest.mark.slow), pytest.param(ALL, marks=pytest.mark.release)]
)
def test_hostile_requests_are_answered_or_refused(at: FuzzedDaemon, cases: int) -> None:
    """Fuzzed requests to every call cause no undocumented error, hang, engine restart or memory growth, and the other
    task still answers."""
    found, before = FuzzResults(), at.resident_bytes()
    *first, last = methods()
    for method in first:
        fuzz(at, method, cases, BEGIN, found)
    assert "" == at.well()
    fuzz(at, last, cases, BEGIN, found)
    assert [] == found.defects
    assert [] == undocumented(found)
    assert {method.name for method in METHODS} == {ended.split()[0] for ended in found.ended}
    assert at.resident_bytes() - before < RESIDENT_GROWTH_MAX
