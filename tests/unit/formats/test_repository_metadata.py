"""The metadata that a mirror reads: which files belong together, and the limits."""

from __future__ import annotations

import json
from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import DocumentInvalid
from edge_agent.formats import repository_metadata
from edge_agent.formats.repository_metadata import MetadataFile, MetadataSet, follow_metadata
from tests.support.update_cases import Repository, sha256


def walk(
    following: Generator[MetadataFile, bytes, MetadataSet], objects: dict[str, bytes]
) -> tuple[list[str], MetadataSet]:
    """Hand in what is asked for; return the keys in order, and what came of it."""
    keys = []
    try:
        named = next(following)
        while True:
            keys.append(named.key)
            named = following.send(objects[named.key])
    except StopIteration as end:
        return keys, end.value


def published(*, hashed: bool = True) -> dict[str, bytes]:
    """Return the objects of a repository."""
    made = Repository()
    made.publish(hashed=hashed)
    return made.objects


@pytest.mark.parametrize("hashed", [True, False])
def test_timestamp_leads_to_all_metadata(hashed: bool):
    """Snapshot, targets, the role of the plan and its blob follow in this order; only the plan's hash is required."""
    objects = published(hashed=hashed)
    keys, release = walk(follow_metadata(objects["metadata/timestamp.json"]), objects)
    assert [f"metadata/1.{role}.json" for role in ("snapshot", "targets", "plan")] == keys[:3]
    assert [f"blobs/{release.plan_sha256}"] == keys[3:]
    assert release.plan == objects[f"blobs/{sha256(release.plan)}"]
    assert release.metadata == {key.removeprefix("metadata/"): objects[key] for key in keys[:3]}


def test_repository_without_a_plan_is_valid():
    """The role of the plan may be absent or name no plan yet."""
    objects = published()
    snapshot = json.loads(objects["metadata/1.snapshot.json"])
    role = objects["metadata/1.plan.json"].replace(b'"plan.json"', b'"other.json"')
    timestamp = json.dumps({"signed": {"_type": "timestamp", "meta": {"snapshot.json": {"version": 1}}}}).encode()
    snapshot["signed"]["meta"]["plan.json"] = {"version": 1}
    objects |= {"metadata/1.plan.json": role, "metadata/1.snapshot.json": json.dumps(snapshot).encode()}
    assert "" == walk(follow_metadata(timestamp), objects)[1].plan_sha256
    del snapshot["signed"]["meta"]["plan.json"]
    objects["metadata/1.snapshot.json"] = json.dumps(snapshot).encode()
    assert ["1.snapshot.json", "1.targets.json"] == list(walk(follow_metadata(timestamp), objects)[1].metadata)


HOSTILE = [
    b"",
    b"\x00\xff",
    b"<html>Please log in</html>",
    b"[" * 100_000,
    b'{"signed": ' * 10_000,
    b'{"signed": null}',
    b'{"signed": {"_type": "timestamp"}}',
    b'{"signed": {"_type": "root", "version": 1, "meta": {"snapshot.json": {"version": 1}}}}',
    *(
        b'{"signed": {"_type": "timestamp", "meta": {"snapshot.json": %s}}}' % entry
        for entry in (
            b"1",
            b"{}",
            b'{"version": 0}',
            b'{"version": -1}',
            b'{"version": 1.0}',
            b'{"version": true}',
            b'{"version": "1"}',
            b'{"version": "../../../etc/passwd"}',
            b'{"version": 99999999999}',
            b'{"version": 1%s}' % (b"0" * 10_000),
            b'{"version": NaN}',
            b'{"version": 1, "length": -5}',
            b'{"version": 1, "hashes": {"sha256": "../x"}}',
        )
    ),
]


@pytest.mark.parametrize("raw", HOSTILE)
def test_a_hostile_timestamp_is_refused_by_name(raw: bytes):
    """The error names the file and repeats nothing of its content."""
    with pytest.raises(DocumentInvalid, match=r"^timestamp\.json: ") as caught:
        next(follow_metadata(raw))
    assert len(caught.value.message) < 600


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_invalid_metadata_is_refused_at_every_step(raw: bytes):
    """Invalid content of any file raises only DocumentInvalid."""
    objects = published(hashed=False)
    for key in ("metadata/timestamp.json", "metadata/1.snapshot.json", "metadata/1.plan.json"):
        spoilt = {**objects, key: raw}
        with pytest.raises(DocumentInvalid):
            walk(follow_metadata(spoilt["metadata/timestamp.json"]), spoilt)


def test_a_plan_without_hash_or_too_large_is_refused():
    """Without a hash the blob could not be named, and a too large one would fill the disk."""
    objects = published(hashed=False)
    for entry in ({"length": 5, "hashes": {}}, {"length": 2**40, "hashes": {"sha256": "0" * 64}}):
        signed = {"_type": "targets", "targets": {"plan.json": entry}}
        objects["metadata/1.plan.json"] = json.dumps({"signed": signed}).encode()
        with pytest.raises(DocumentInvalid, match=r"^1\.plan\.json: "):
            walk(follow_metadata(objects["metadata/timestamp.json"]), objects)


def test_root_must_match_its_name():
    """Another version, another role and invalid content are refused."""
    objects = published()
    repository_metadata.check_root(objects["metadata/1.root.json"], 1)
    for raw in (objects["metadata/1.root.json"].replace(b"1", b"2"), objects["metadata/timestamp.json"], b"{"):
        with pytest.raises(DocumentInvalid, match=r"^1\.root\.json"):
            repository_metadata.check_root(raw, 1)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("1.root.json", 1),
        ("12.root.json", 12),
        ("root.json", 0),
        (".root.json", 0),
        ("-1.root.json", 0),
        ("1.snapshot.json", 0),
        (f"{'9' * 5000}.root.json", 0),
        (".1.root.json.partial", 0),
    ],
)
def test_version_of_a_root_is_read_from_its_name(name: str, version: int):
    """Any name that is not a root's has version 0."""
    assert version == repository_metadata.root_version(name)


def test_file_must_match_length_hash_and_limit():
    """Length, hash and limit are each checked if they are known."""
    assert MetadataFile("x", 5).is_this(b"12345")
    assert not MetadataFile("x", 4).is_this(b"12345")
    assert not MetadataFile("x", 9, length=4).is_this(b"12345")
    assert MetadataFile("x", 9, length=5, sha256=sha256(b"12345")).is_this(b"12345")
    assert not MetadataFile("x", 9, sha256=sha256(b"1234x")).is_this(b"12345")
