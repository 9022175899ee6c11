"""The central team's keys: one that opens segments of sites, and one that signs receipts.

A folder holds, readable by its owner alone:

    identity.txt    age identities (X25519), the newest first; or identity.age, the same under a passphrase
    receipts.pem    Ed25519 private key (PKCS 8), under the same passphrase if there is one
    recipient.txt   what sites seal to; 'age -R recipient.txt' accepts it
    receipts.pub    what sites verify receipts with, in hexadecimal

The first two never leave the central team: with them one can read every example, or make sites delete examples that
have not arrived. The age command opens a segment with them: 'age -d -i identity.txt NAME.age'.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyrage
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.durable import atomic_files
from edge_agent.errors import FileMissing, InvalidRequest

IDENTITY_PLAIN, IDENTITY_SEALED = "identity.txt", "identity.age"
RECEIPTS_PRIVATE, RECEIPTS_PUBLIC = "receipts.pem", "receipts.pub"
RECIPIENT = "recipient.txt"
PASSPHRASE_CHARACTERS_MIN = 10
_PRIVATE_MODE, _FOLDER_MODE = 0o600, 0o700

Ask = Callable[[], str]
"""Returns the passphrase; called only if one is needed."""


@dataclass(frozen=True)
class CentralPublicKeys:
    """The public keys that a site needs."""

    recipient: str
    """age public key, `age1…`."""
    receipts: str
    """Ed25519 public key, 64 hexadecimal digits."""


@dataclass(frozen=True)
class CentralKeys:
    """Unlocked keys."""

    identities: tuple[pyrage.x25519.Identity, ...]
    receipts: Ed25519PrivateKey


def create(folder: Path, passphrase: str = "") -> CentralPublicKeys:
    """Create a folder of new keys; with a passphrase the private keys are encrypted.

    Raises:
        InvalidRequest: the folder exists, or the passphrase is too short.
        OSError: the folder cannot be written.
    """
    with new_key_folder(folder, passphrase, "'edge-convert keys rotate' renews the keys in this one") as staging:
        identity, receipts = pyrage.x25519.Identity.generate(), Ed25519PrivateKey.generate()
        _write_identities(staging, [str(identity)], passphrase)
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            encryption = serialization.BestAvailableEncryption(passphrase.encode())
        pem = receipts.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        _write(staging / RECEIPTS_PRIVATE, pem)
        _write(staging / RECEIPTS_PUBLIC, receipts.public_key().public_bytes_raw().hex().encode() + b"\n")
    return read_public(folder)


@contextmanager
def new_key_folder(folder: Path, passphrase: str, alternative: str) -> Iterator[Path]:
    """Yield an empty folder for new keys, which gets its name after the block; nothing stays if the block raises.

    Args:
        folder: its name; it must not exist.
        passphrase: of the keys; empty = none.
        alternative: what can be done with the keys of a folder that exists, for the error.

    Raises:
        InvalidRequest: the folder exists, or the passphrase is too short.
        OSError: the folder cannot be written.
    """
    check_passphrase(passphrase)
    if folder.exists():
        message = f"{folder} exists, and keys are never overwritten"
        raise InvalidRequest(message, remedy=f"Name another folder; {alternative}.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        staging.chmod(_FOLDER_MODE)
        yield staging
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    atomic_files.sync_directory(folder.parent)


def read_public(folder: Path) -> CentralPublicKeys:
    """Read the public halves; needs no passphrase. Raises FileMissing."""
    return CentralPublicKeys(
        _read(folder, RECIPIENT).decode().split()[0], _read(folder, RECEIPTS_PUBLIC).decode().strip()
    )


def unlock(folder: Path, ask: Ask) -> CentralKeys:
    """Read the private keys.

    Raises:
        FileMissing: a file is missing.
        InvalidRequest: wrong passphrase, or a file without a key.
    """
    passphrase = ask() if is_encrypted(folder) else ""
    try:
        identities = tuple(map(pyrage.x25519.Identity.from_str, _read_identities(folder, passphrase)))
        pem = _read(folder, RECEIPTS_PRIVATE)
        receipts = serialization.load_pem_private_key(pem, passphrase.encode() or None)
    except (pyrage.DecryptError, pyrage.IdentityError, ValueError, TypeError) as error:
        message = f"the keys in {folder} cannot be opened: {error}"
        raise InvalidRequest(message, remedy="Check the passphrase, or restore the folder from its backup.") from None
    if not isinstance(receipts, Ed25519PrivateKey) or not identities:
        raise InvalidRequest(f"{folder} has no Ed25519 key, or no identity", remedy="Restore it from its backup.")
    return CentralKeys(identities, receipts)


def is_encrypted(folder: Path) -> bool:
    """Return whether the private keys have a passphrase. Raises FileMissing."""
    if atomic_files.is_file(folder / IDENTITY_SEALED):
        return True
    if atomic_files.is_file(folder / IDENTITY_PLAIN):
        return False
    raise FileMissing(f"{folder} has no keys", remedy=f"Create keys: edge-convert keys create {folder}")


def rotate(folder: Path, ask: Ask) -> CentralPublicKeys:
    """Add a new identity, and return the public keys for sites. Segments sealed to an old one stay readable.

    Raises:
        FileMissing, InvalidRequest: as `unlock`.
    """
    passphrase = ask() if is_encrypted(folder) else ""
    keys = unlock(folder, lambda: passphrase)
    new_identity = str(pyrage.x25519.Identity.generate())
    _write_identities(folder, [new_identity, *map(str, keys.identities)], passphrase)
    return read_public(folder)


def _read_identities(folder: Path, passphrase: str) -> list[str]:
    if passphrase:
        text = pyrage.passphrase.decrypt(_read(folder, IDENTITY_SEALED), passphrase).decode()
    else:
        text = _read(folder, IDENTITY_PLAIN).decode()
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def _write_identities(folder: Path, identities: list[str], passphrase: str) -> None:
    """Write the private file before the public one, so that no site seals to a key without a private half."""
    recipients = [str(pyrage.x25519.Identity.from_str(identity).to_public()) for identity in identities]
    pairs = zip(recipients, identities, strict=True)
    text = "".join(f"# public key: {recipient}\n{identity}\n" for recipient, identity in pairs).encode()
    if passphrase:
        _write(folder / IDENTITY_SEALED, pyrage.passphrase.encrypt(text, passphrase))
    else:
        _write(folder / IDENTITY_PLAIN, text)
    _write(folder / RECIPIENT, f"{recipients[0]}\n".encode())


def _write(path: Path, content: bytes) -> None:
    atomic_files.write_atomically(path, content, mode=_PRIVATE_MODE)


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        remedy = f"Create keys with 'edge-convert keys create {folder}', or restore the folder from its backup."
        raise FileMissing(f"{folder / name} does not exist", remedy=remedy) from None


def check_passphrase(passphrase: str) -> None:
    """Raise InvalidRequest if it is too short; empty = none."""
    if passphrase and len(passphrase) < PASSPHRASE_CHARACTERS_MIN:
        message = f"the passphrase has {len(passphrase)} characters; at least {PASSPHRASE_CHARACTERS_MIN} are needed"
        raise InvalidRequest(message, remedy="Use several random words, or leave it out and encrypt the disk.")


def read_passphrase(path: Path) -> str:
    """Return the first line of a file, without its end. Raises FileMissing, InvalidRequest."""
    try:
        text = atomic_files.read_small(path).decode()
    except FileNotFoundError:
        raise FileMissing(f"{path} does not exist", remedy="Check --passphrase-file.") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path} is not text in UTF-8", remedy="Save it as UTF-8.") from None
    passphrase = text.split("\n", 1)[0].removesuffix("\r")
    if not passphrase:
        raise InvalidRequest(f"the first line of {path} is empty", remedy="Write the passphrase to its first line.")
    if os.name == "posix" and path.stat().st_mode & 0o004:
        raise InvalidRequest(f"every user can read {path}", remedy=f"chmod 600 {path}")
    return passphrase
