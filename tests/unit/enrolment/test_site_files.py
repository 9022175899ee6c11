"""How the uplink's credentials are stored if systemd-creds fails or a write is interrupted."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from edge_agent.enrolment.site_files import (
    SiteFile,
    SystemPaths,
    encrypt,
    files_of,
    plain_credentials,
    put,
    secrecy_of,
    secrets_of,
    stage,
)
from tests.support.enrolment_files import LARGE_MODEL, a_enrolment

# Encrypts, in its way, every secret but the key of the large model.
SYSTEMD_CREDS = """\
#!/bin/sh
case "$1 $2" in
  *=escalation) exit 1 ;;
  encrypt*) exec base64 -w0 ;;
  decrypt*) exec base64 -d ;;
esac
"""


def test_failed_encryption_of_one_secret_keeps_the_others_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """If systemd-creds encrypts one secret and fails at the next, the unit reads each as it is stored."""
    program = tmp_path / "systemd-creds"
    program.write_text(SYSTEMD_CREDS)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    enrolment, places = a_enrolment(escalation=LARGE_MODEL), SystemPaths(tmp_path / "etc")
    secrets = secrets_of(enrolment)
    sealed = {name: encrypt(name, secret) for name, secret in secrets.items()}
    files = {file.path: file.content for file in files_of(enrolment, places, sealed)}
    uplink, key = (places.credential(name, encrypted=name == "uplink") for name in ("uplink", "escalation"))
    assert (secrets["uplink"], b"sk-s3cr3t\n") == (base64.b64decode(files[uplink]), files[key])
    lines = files[places.drop_in].decode().splitlines()
    assert [f"LoadCredentialEncrypted=uplink:{uplink}", f"LoadCredential=escalation:{key}"] == lines[2:]
    assert ("plain", [str(key)]) == (secrecy_of(sealed), plain_credentials(map(str, files)))


def test_record_is_written_last(tmp_path: Path):
    """If old files cannot be removed, there is no new record, so the same enrolment file completes it."""
    settings, record = (SiteFile(tmp_path / name, b"new") for name in ("site.yaml", "enrolment.json"))
    record.path.write_bytes(b"old")
    stage([settings, record])
    (stuck := tmp_path / "old.cred").mkdir()  # cannot be unlinked
    with pytest.raises(OSError, match=r"old\.cred"):
        put([settings, record], [tmp_path / "gone.cred", stuck])
    assert (b"new", b"old") == (settings.path.read_bytes(), record.path.read_bytes())
    stuck.rmdir()
    put([record], [stuck])
    assert b"new" == record.path.read_bytes()
