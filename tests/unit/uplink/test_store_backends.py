"""Errors of object stores: a folder that is missing, closed, read-only or not a folder, and the refusals of a
bucket."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_agent.config.sections import UplinkConfig
from edge_agent.errors import ConfigInvalid, EdgeAgentError, UpstreamMissing, UpstreamRefused
from edge_agent.uplink.store_backends import FolderStore, open_updates_store
from tests.support.answering_server import AnsweringServer

NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    """Run as a user without rights, if this one is root."""
    before = os.geteuid()
    try:
        if before == 0:
            os.seteuid(NOBODY)
        yield
    finally:
        os.seteuid(before)


def fault(folder: Path) -> EdgeAgentError:
    """Return the error of a write to a folder."""
    with pytest.raises(EdgeAgentError) as caught:
        asyncio.run(FolderStore(folder).put("site=a/status.json", b"{}"))
    return caught.value


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_missing_folder_suggests_mounting(shared: Path):
    """A missing folder, or a file in its place, is an error of the whole store whose remedy is to mount it."""
    (shared / "file").write_text("")
    for path in (shared / "none", shared / "file", shared / "file" / "below"):
        error = fault(path)
        assert (UpstreamMissing, f"the folder {path} does not exist") == (type(error), error.message)
        assert ("Mount" in error.remedy, str(path)) == (True, error.metadata["folder"])


@pytest.mark.parametrize("closed", ["fleet", "."])
def test_closed_folder_is_an_error_of_rights(shared: Path, closed: str):
    """The error names the user and suggests rights instead of credentials, also for a closed parent folder."""
    folder = shared / "fleet"
    folder.mkdir()
    (shared / closed).chmod(0)
    with as_nobody():
        error = fault(folder)
    shared.chmod(0o755)
    assert (UpstreamRefused, str(folder)) == (type(error), error.metadata["folder"])
    assert "may not read the folder" in error.message
    assert ("doctor" in error.remedy, "credential" in error.remedy, "login" in error.remedy) == (True, False, False)


def test_read_only_folder_is_an_error_of_rights(shared: Path):
    """Writes fail with an error of rights, while objects in the folder can be read."""
    folder = shared / "fleet"
    folder.mkdir()
    folder.chmod(0o555)
    with as_nobody():
        error = fault(folder)
        assert asyncio.run(FolderStore(folder).head("site=a/status.json")) is None
    assert (UpstreamRefused, False, True) == (type(error), "folder" in error.metadata, "drop-in" in error.remedy)


S3_KEYS = {"access_key_id": "a", "secret_access_key": "b", "region": "us-east-1", "allow_http": "true"}


def read_again(way: str) -> str:
    """Return how a read of an S3 bucket ends that first succeeded and then fails in the given way."""
    with AnsweringServer() as server:
        options = {"endpoint": server.address, **S3_KEYS}
        store = open_updates_store(UplinkConfig(updates_url="s3://fleet/updates", updates_options=options))
        assert store is not None
        asyncio.run(store.put("metadata/timestamp.json", b"{}"))
        assert asyncio.run(store.get("metadata/timestamp.json", 100)) is not None
        server.answer(way)
        try:
            found = asyncio.run(store.get("metadata/timestamp.json", 100))
        except EdgeAgentError as error:
            return f"{error.reason} {error.message.partition('timestamp.json ')[2]}"
        return "absent" if found is None else "there"


@pytest.mark.parametrize("way", ["403 AccessDenied", "404 NoSuchKey"])
def test_an_object_that_a_site_may_not_list_is_absent(way: str):
    """S3 answers 403 for a missing object to a site that may not list the bucket; it counts as absent."""
    assert read_again(way) == "absent"


@pytest.mark.parametrize(
    "answer",
    [
        "403 RequestTimeTooSkewed",
        "403 InvalidAccessKeyId",
        "403 SignatureDoesNotMatch",
        "400 ExpiredToken",
    ],
)
def test_rejected_credential_does_not_make_an_object_absent(answer: str):
    """A wrong clock, a withdrawn key and an expired token raise UPSTREAM_REFUSED."""
    assert read_again(answer) == f"UPSTREAM_REFUSED was answered with {answer}"


@pytest.mark.parametrize("host", ["[fd00::5]:8443", "[fd00::5]", "store.example", "store.example:8443"])
def test_store_name_has_no_user_info(host: str):
    """The user info of an address is removed from the store's name."""
    store = open_updates_store(UplinkConfig(updates_url=f"https://kim:SECRET@{host}/updates"))
    assert f"https://{host}/updates" == getattr(store, "name", "")


def test_store_is_reached_through_the_proxy():
    """The proxy resolves the store's name."""
    with AnsweringServer() as proxy:
        options = {"allow_http": "true", "proxy_url": proxy.address}
        store = open_updates_store(UplinkConfig(updates_url="http://nowhere.invalid/x", updates_options=options))
        assert store is not None
        assert asyncio.run(store.get("metadata/timestamp.json", 100)) is None
        assert [("GET", "http://nowhere.invalid/x/metadata/timestamp.json")] == proxy.requests[:1]


def test_a_setting_of_the_connection_in_the_credential_is_refused(tmp_path: Path):
    """A connection setting in the credential is refused by name, because the library would panic; a proxy with a
    password is accepted."""
    (path := tmp_path / "credential").touch(0o600)
    config = UplinkConfig(updates_url="s3://fleet", updates_credentials_file=str(path))
    path.write_text("timeout: 30s\nsecret_access_key: hunter2\n")
    with pytest.raises(ConfigInvalid, match=r"'timeout' in .*credentials_file .* a setting of the") as refused:
        open_updates_store(config)
    assert "hunter2" not in str(refused.value)
    path.write_text("proxy_url: http://kim:hunter2@127.0.0.1:9\n")
    assert open_updates_store(config) is not None


def test_a_bucket_of_another_region_is_named():
    """The redirect that S3 sends without an address is reported as another region."""
    said = "was redirected without an address, as S3 does for another region: correct 'region' under 'options'"
    assert read_again("301 PermanentRedirect") == f"UPSTREAM_FAILED {said}"
