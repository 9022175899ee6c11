"""A folder as an object store: what is said when it is missing, closed, read-only or no folder; what a bucket's refusal
means."""

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
    """Be a user without rights, if this one could do everything."""
    before = os.geteuid()
    try:
        if before == 0:
            os.seteuid(NOBODY)
        yield
    finally:
        os.seteuid(before)


def fault(folder: Path) -> EdgeAgentError:
    """Return how a write to a folder fails."""
    with pytest.raises(EdgeAgentError) as caught:
        asyncio.run(FolderStore(folder).put("site=a/status.json", b"{}"))
    return caught.value


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_missing_folder_is_one_to_mount(shared: Path):
    """A fault of the whole store, which the metadata tells; so is a file in its place."""
    (shared / "file").write_text("")
    for path in (shared / "none", shared / "file", shared / "file" / "below"):
        error = fault(path)
        assert (UpstreamMissing, f"the folder {path} does not exist") == (type(error), error.message)
        assert ("Mount" in error.remedy, str(path)) == (True, error.metadata["folder"])


@pytest.mark.parametrize("closed", ["fleet", "."])
def test_a_folder_that_is_closed_is_a_matter_of_rights(shared: Path, closed: str):
    """Its own mode, or that of a folder above it: an error that names the user, and no credential or login page."""
    folder = shared / "fleet"
    folder.mkdir()
    (shared / closed).chmod(0)
    with as_nobody():
        error = fault(folder)
    shared.chmod(0o755)
    assert (UpstreamRefused, str(folder)) == (type(error), error.metadata["folder"])
    assert "may not read the folder" in error.message
    assert ("doctor" in error.remedy, "credential" in error.remedy, "login" in error.remedy) == (True, False, False)


def test_a_folder_that_may_only_be_read_is_a_matter_of_rights(shared: Path):
    """The store itself answers: other objects in it can be used."""
    folder = shared / "fleet"
    folder.mkdir()
    folder.chmod(0o555)
    with as_nobody():
        error = fault(folder)
        assert asyncio.run(FolderStore(folder).head("site=a/status.json")) is None
    assert (UpstreamRefused, False, True) == (type(error), "folder" in error.metadata, "drop-in" in error.remedy)


S3_KEYS = {"access_key_id": "a", "secret_access_key": "b", "region": "us-east-1", "allow_http": "true"}


def read_again(way: str) -> str:
    """Return how a read of a bucket on S3 ends that answered well before, and then in that way."""
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
    """S3 says "forbidden" of what is not there to a site that may not list the bucket."""
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
def test_a_credential_that_is_not_accepted_any_more_is_refused(answer: str):
    """A clock that goes wrong, a key that is withdrawn, a token that expires: that does not make the object absent."""
    assert read_again(answer) == f"UPSTREAM_REFUSED was answered with {answer}"


@pytest.mark.parametrize("host", ["[fd00::5]:8443", "[fd00::5]", "store.example", "store.example:8443"])
def test_a_store_is_named_by_an_address_that_can_be_opened(host: str):
    """Without the user that an address can hold."""
    store = open_updates_store(UplinkConfig(updates_url=f"https://kim:SECRET@{host}/updates"))
    assert f"https://{host}/updates" == getattr(store, "name", "")


def test_a_store_behind_a_proxy_is_asked_through_it():
    """The proxy looks the store's name up: this machine does not."""
    with AnsweringServer() as proxy:
        options = {"allow_http": "true", "proxy_url": proxy.address}
        store = open_updates_store(UplinkConfig(updates_url="http://nowhere.invalid/x", updates_options=options))
        assert store is not None
        assert asyncio.run(store.get("metadata/timestamp.json", 100)) is None
        assert [("GET", "http://nowhere.invalid/x/metadata/timestamp.json")] == proxy.requests[:1]


def test_a_setting_of_the_connection_in_the_credential_is_refused(tmp_path: Path):
    """By its name, as under 'options': the library would end the uplink in a panic. A proxy with a password is used."""
    (path := tmp_path / "credential").touch(0o600)
    config = UplinkConfig(updates_url="s3://fleet", updates_credentials_file=str(path))
    path.write_text("timeout: 30s\nsecret_access_key: hunter2\n")
    with pytest.raises(ConfigInvalid, match=r"'timeout' in .*credentials_file .* a setting of the") as refused:
        open_updates_store(config)
    assert "hunter2" not in str(refused.value)
    path.write_text("proxy_url: http://kim:hunter2@127.0.0.1:9\n")
    assert open_updates_store(config) is not None


def test_a_bucket_of_another_region_is_named():
    """S3 redirects without an address where the region is another."""
    said = "was redirected without an address, as S3 does for another region: correct 'region' under 'options'"
    assert read_again("301 PermanentRedirect") == f"UPSTREAM_FAILED {said}"
