"""The settings of examples: the site's consent, and the destination that sending requires."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from edge_agent import config
from edge_agent.errors import ConfigInvalid

KEY = "ab" * 32
WHOLE = {"id": "site-1", "recipients": ["age1" + "q" * 58], "receipt_keys": [KEY]}


def load(tmp_path: Path, **sections) -> config.Config:
    path = tmp_path / "agent.yaml"
    path.write_text(sections.pop("text", "") or yaml.safe_dump(sections))
    return config.load(path, environ={})


def refusal(tmp_path: Path, **sections) -> ConfigInvalid:
    with pytest.raises(ConfigInvalid) as caught:
        load(tmp_path, **sections)
    return caught.value


def test_nothing_is_collected_by_default(tmp_path):
    """An empty file keeps nothing and sends nothing."""
    read = load(tmp_path, log={})
    assert ({}, "", ()) == (read.examples.collect, read.site.id, read.site.recipients)


def test_unquoted_off_is_accepted(tmp_path):
    """YAML reads a bare off as false; it counts as the word."""
    read = load(tmp_path, text="examples: {collect: {a: off, b: local}}")
    assert {"a": "off", "b": "local"} == read.examples.collect


@pytest.mark.parametrize("consent", [True, "yes", "upstraem", None, 1])
def test_unknown_consent_is_refused(tmp_path, consent):
    """A misspelled consent is refused instead of becoming one."""
    assert "examples.collect.a" in refusal(tmp_path, examples={"collect": {"a": consent}}, site=WHOLE).message


@pytest.mark.parametrize("missing", list(WHOLE))
def test_upstream_consent_requires_site_recipients_and_receipts(tmp_path, missing):
    """Without one of them segments could not be made or never deleted; the error names the key."""
    site = {key: value for key, value in WHOLE.items() if key != missing}
    error = refusal(tmp_path, examples={"collect": {"a": "upstream"}}, site=site)
    assert f"which needs site.{missing}" in error.message
    assert "local" in error.remedy
    assert load(tmp_path, examples={"collect": {"a": "local"}}, site=site).site.id == site.get("id", "")


def test_exchange_folders_are_below_the_state_directory_by_default(tmp_path):
    """An uplink under another user may need other ones."""
    read = load(tmp_path, state_dir=str(tmp_path))
    assert (tmp_path / "outbox", tmp_path / "receipts") == (read.outbox, read.receipts)
    read = load(tmp_path, site={"outbox_dir": "/a/out", "receipts_dir": "/b/in"})
    assert (Path("/a/out"), Path("/b/in")) == (read.outbox, read.receipts)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("site", "id", "Has Blanks"),
        ("site", "id", "../up"),
        ("site", "receipt_keys", ["short"]),
        ("examples", "routine_share", 1.5),
        ("examples", "site_rules", {"Bad Name": "x"}),
        ("examples", "window_seconds", 0),
        ("examples", "segment_bytes_max", 2**30),
    ],
)
def test_values_out_of_range_are_named(tmp_path, section, key, value):
    """The message has the key."""
    assert f"{section}.{key}" in refusal(tmp_path, **{section: {key: value}}).message
