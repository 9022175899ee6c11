"""A hostile repository and a hostile link: each attack has a reason, nothing is trusted, and everything is bounded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.answering_server import DOWNLOAD_WAYS, WAYS, AnsweringServer
from tests.support.update_cases import ADAPTER, WEIGHTS, Repository, everything, failure, published, sha256, site_of


@pytest.fixture
def repository() -> Repository:
    """Return a repository with two blobs."""
    return published()


@pytest.fixture
def server() -> Iterator[AnsweringServer]:
    """Yield a server that holds no objects yet."""
    with AnsweringServer() as started:
        yield started


BAD_METADATA = {
    "a page": b"<html>Please log in. SECRET-OF-THE-SERVER</html>",
    "nothing": b"",
    "endless lists": b"[" * 10_000,
    "too large": b" " * 6_000_000,
    "a number for a name": json.dumps({"signed": {"_type": "timestamp", "meta": {"snapshot.json": 1}}}).encode(),
}


@pytest.mark.slow
@pytest.mark.parametrize("role", ["timestamp.json", "1.snapshot.json", "1.targets.json", "1.plan.json", "2.root.json"])
@pytest.mark.parametrize("bad", BAD_METADATA)
def test_hostile_metadata_is_rejected(
    role: str, bad: str, server: AnsweringServer, repository: Repository, tmp_path: Path
):
    """Hostile metadata in any role is rejected with a reason and a remedy, and the previous set stays unchanged."""
    case = site_of(server, repository, tmp_path)
    case.want()
    assert failure(case) is None
    before = case.arrived()
    repository.publish(hashed=True)
    repository.serve(server.objects)
    server.objects[f"/fleet/metadata/{role.replace('1.', '2.', 1)}"] = BAD_METADATA[bad]
    error = failure(case)
    assert error is not None
    assert error.reason in ("DOCUMENT_INVALID", "UPDATE_INCOMPLETE")
    assert error.remedy
    assert before == case.arrived()
    assert "SECRET" not in error.message + (case.notes / "uplink.json").read_text()
    repository.serve(server.objects)
    server.objects.pop("/fleet/metadata/2.root.json", None)
    assert failure(case) is None
    assert everything(repository).keys() - case.arrived().keys() == {
        f"blobs/{sha256(blob)}" for blob in (WEIGHTS, ADAPTER)
    }


@pytest.mark.parametrize("gone", ["timestamp.json", "1.snapshot.json", "1.targets.json", "1.plan.json", "plan"])
def test_incomplete_repository_is_rejected(gone: str, server: AnsweringServer, repository: Repository, tmp_path: Path):
    """If a file of the repository is missing, the error names it and no metadata is stored; blobs are still
    downloaded."""
    key = f"blobs/{sha256(repository.plan)}" if gone == "plan" else f"metadata/{gone}"
    del repository.objects[key]
    case = site_of(server, repository, tmp_path)
    error = failure(case)
    assert error is not None
    assert ("UPDATE_INCOMPLETE", True) == (error.reason, key in error.message)
    assert not (case.incoming / "metadata" / "timestamp.json").exists()
    assert WEIGHTS == case.arrived()[f"blobs/{sha256(WEIGHTS)}"]
    assert {"": "UPDATE_INCOMPLETE"} == case.problems()


REASONS = {
    "flipped": "HASH_MISMATCH",
    "overlong": "HASH_MISMATCH",
    "short": "HASH_MISMATCH",
    "416": "HASH_MISMATCH",
    "endless": "UPSTREAM_FAILED",
    "trickling": "UPSTREAM_UNREACHABLE",
    "cut": "UPSTREAM_UNREACHABLE",
    "without-ranges": "UPSTREAM_FAILED",
    "other-range": "UPSTREAM_FAILED",
    "429": "UPSTREAM_BUSY",
    "503": "UPSTREAM_BUSY",
    "500": "UPSTREAM_FAILED",
    "301": "UPSTREAM_FAILED",
    "html": "UPSTREAM_FAILED",
    "truncated": "UPSTREAM_FAILED",
}
OF_A_BLOB = {**REASONS, "401": "UPDATE_INCOMPLETE", "403": "UPDATE_INCOMPLETE"}
OF_THE_FIRST = {**REASONS, "401": "UPSTREAM_REFUSED", "403": "UPSTREAM_REFUSED", "html": "DOCUMENT_INVALID"}


@pytest.mark.slow
@pytest.mark.parametrize("way", sorted({*DOWNLOAD_WAYS, *WAYS}))
def test_bad_blob_transfer_is_reported_and_bounded(
    way: str, server: AnsweringServer, repository: Repository, tmp_path: Path
):
    """A blob that is too long, endless, too slow, short, cut or wrong has a reason; no file exceeds its size, and the
    other blobs are downloaded."""
    case = site_of(server, repository, tmp_path, bytes_per_second_min=64 * 1024)
    name = f"blobs/{sha256(WEIGHTS)}"
    server.answer(way, lambda _, path: path.endswith(name))
    error = failure(case)
    assert error is not None
    assert OF_A_BLOB.get(way, "UPSTREAM_UNREACHABLE") == error.reason, error.message
    assert error.remedy
    assert name not in case.arrived()
    assert all(len(raw) <= len(WEIGHTS) for raw in case.arrived().values())
    assert ADAPTER == case.arrived()[f"blobs/{sha256(ADAPTER)}"]
    assert error.reason in case.problems().values()
    server.answer("well")
    server.objects[f"/fleet/{name}"] = WEIGHTS
    assert failure(case) is None
    assert everything(repository) == case.arrived()


@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way in WAYS if way != "truncated"])
def test_bad_answers_of_a_repository_have_a_reason_and_a_remedy(
    way: str, server: AnsweringServer, repository: Repository, tmp_path: Path
):
    """Each kind of bad answer to all requests has a reason and a remedy without secrets; once the server recovers,
    everything is downloaded."""
    case = site_of(server, repository, tmp_path)
    server.answer(way)
    error = failure(case)
    assert error is not None
    assert error.remedy
    assert OF_THE_FIRST.get(way, "UPSTREAM_UNREACHABLE") == error.reason
    assert "SECRET" not in error.message + error.remedy + (case.notes / "uplink.json").read_text()
    server.answer("well")
    assert failure(case) is None
    assert everything(repository) == case.arrived()


def test_new_metadata_without_end_does_not_fill_the_disk(
    server: AnsweringServer, repository: Repository, tmp_path: Path
):
    """A repository that publishes new metadata before every check, with or without its plan, leaves at most the files
    of two sets on the disk."""
    case = site_of(server, repository, tmp_path)
    case.want()
    for _ in range(10):
        repository.publish()
        repository.serve(server.objects)
        assert failure(case) is None
    assert len(case.arrived()) <= 1 + 2 * 3 + 1 + 2
    for _ in range(5):
        repository.publish()
        del repository.objects[f"blobs/{sha256(repository.plan)}"]
        server.objects.clear()
        repository.serve(server.objects)
        assert failure(case) is not None
    assert len(case.arrived()) <= 1 + 2 * 3 + 1 + 2


def test_number_of_downloaded_roots_is_limited(server: AnsweringServer, repository: Repository, tmp_path: Path):
    """With 200 new roots the uplink downloads at most 64, counted from the daemon's root version."""
    for _ in range(200):
        repository.rotate()
    case = site_of(server, repository, tmp_path)
    case.want(root_version=1)
    for _ in range(3):
        assert failure(case) is None
    assert 64 == sum("root" in key for key in case.arrived())
