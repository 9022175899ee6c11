"""The site's own key: Ed25519, made at the first start, in `state_dir/site.key` (0600). It never leaves the machine."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from edge_agent.durable.atomic_files import disk_errors, write_durably
from edge_agent.errors import StoreDamaged


def site_key(path: Path) -> Ed25519PrivateKey:
    """Read the key; make it if there is none.

    Raises:
        StoreDamaged: the file holds no such key. It is left alone: the centre knows the key that was in it.
        StateDirUnwritable, DiskFull: a new one cannot be written.
    """
    with disk_errors(path):
        pem = path.read_bytes() if path.exists() else b""
    if not pem:
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_durably(path, pem)
    try:
        read = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):  # TypeError: it is encrypted
        read = None
    if not isinstance(read, Ed25519PrivateKey):
        remedy = "Put the file back from a copy; or move it away, and have the centre accept the new key."
        raise StoreDamaged(f"{path} holds no Ed25519 key", remedy=remedy, path=path)
    return read
