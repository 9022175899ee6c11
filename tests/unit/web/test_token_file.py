"""The console's token file."""

import os
import stat

import pytest

from edge_agent.config import WebConfig
from edge_agent.config.web_section import token_path
from edge_agent.errors import WebTokenUnusable
from edge_agent.web import token_file

CERTIFICATES = {"certificate_file": "a.crt", "key_file": "a.key", "client_ca_file": "ca.crt"}


def test_token_is_created_once(tmp_path):
    """The first start makes the file, for its user alone; later ones read what is there."""
    path = tmp_path / "new" / "folder" / "web-token"
    made = token_file.read_or_create_token(path)
    assert (made, made, True) == (token_file.read_or_create_token(path), path.read_text().strip(), len(made) >= 43)
    assert (0o600, 0o700) == tuple(stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent))
    assert [path] == list(path.parent.iterdir())
    assert made != token_file.read_or_create_token(tmp_path / "another")


@pytest.mark.parametrize("content", ["", "short", "x" * 31, "ä" * 40, "x" * 20 + "\n" + "y" * 20])
def test_file_without_a_token_is_refused(tmp_path, content):
    """What could be guessed, or is no line of text, is no token."""
    path = tmp_path / "web-token"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(WebTokenUnusable, match="does not hold a token"):
        token_file.read_token(path)


def test_token_that_other_users_may_read_is_refused(tmp_path):
    """A file open to others, a link and a pipe are refused by name, and never waited for."""
    path = tmp_path / "web-token"
    token_file.read_or_create_token(path)
    path.chmod(0o640)
    with pytest.raises(WebTokenUnusable, match="other users may read"):
        token_file.read_or_create_token(path)
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "pipe"):
        with pytest.raises(WebTokenUnusable, match=name):
            token_file.read_or_create_token(tmp_path / name)
    with pytest.raises(WebTokenUnusable, match="Not a directory"):
        token_file.read_or_create_token(path / "below" / "a-file")


def test_token_belongs_to_the_owner_of_its_folder():
    """Without a name in agent.yaml the token is in the state directory of whoever starts the console."""
    assert "/var/lib/x/token" == str(token_path(WebConfig(token_file="/var/lib/x/token"), {}))
    assert "/home/a/.st/edge-agent/web-token" == str(token_path(WebConfig(), {"XDG_STATE_HOME": "/home/a/.st"}))
    assert str(token_path(WebConfig(), {})).endswith("/.local/state/edge-agent/web-token")
