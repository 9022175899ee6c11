"""The registry of sites: keys are added one by one, never lost, and a spoilt file is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from convert.cli import app
from convert.collect.trust import Trust
from convert.sites import Sites
from edge_agent.errors import InvalidRequest, ManifestInvalid

ONE, TWO = "1a" * 32, "2b" * 32


def test_keys_add_up(tmp_path: Path):
    """Each accepted key stays, once; another site has its own."""
    path = tmp_path / "sites.json"
    for key in (ONE, TWO, ONE):
        Sites(path).accept("shop-1", key)
    assert ([ONE, TWO], []) == (Sites(path).keys("shop-1"), Sites(path).keys("shop-2"))


@pytest.mark.parametrize(("site", "key"), [("Shop 1", ONE), ("", ONE), ("shop-1", "1a"), ("shop-1", ONE.upper())])
def test_what_is_no_site_and_no_key_is_refused(tmp_path: Path, site: str, key: str):
    """Nothing is written down."""
    with pytest.raises(InvalidRequest):
        Sites(tmp_path / "sites.json").accept(site, key)
    assert not (tmp_path / "sites.json").exists()


@pytest.mark.parametrize("content", ["", "{", '{"schema": "edge-agent/sites/v2"}', '{"sites": {"a": {"keys": []}}}'])
def test_a_spoilt_registry_is_an_error(tmp_path: Path, content: str):
    """It is not taken for an empty one, which would trust anybody."""
    (tmp_path / "sites.json").write_text(content)
    with pytest.raises(ManifestInvalid, match=r"sites\.json"):
        Sites(tmp_path / "sites.json")


def test_the_first_key_is_written_down_at_once(tmp_path: Path):
    """A crash after the first segment leaves no second chance to another key."""
    trust = Trust(Sites(tmp_path / "sites.json"), registered_only=False)
    assert "" == trust.objection("shop-1", ONE)
    again = Trust(Sites(tmp_path / "sites.json"), registered_only=False)
    assert ("", True) == (again.objection("shop-1", ONE), "another key" in again.objection("shop-1", TWO))


def test_the_command_accepts(tmp_path: Path):
    """By the folder of collect or by the file; both or neither is an error."""

    def invoke(*arguments: str) -> int:
        return CliRunner().invoke(app, ["sites", "accept", "shop-1", *arguments]).exit_code

    assert 0 == invoke(ONE, "--collected", str(tmp_path))
    assert 0 == invoke(TWO, "--sites", str(tmp_path / "sites.json"))
    assert [ONE, TWO] == Sites(tmp_path / "sites.json").keys("shop-1")
    assert 2 == invoke(ONE)
    assert 2 == invoke("1a", "--collected", str(tmp_path))
