"""Folders of signing keys: the public keys by role, and the available private halves.

    root.json       trusted by every site: 'update.root_file' in agent.yaml; the publisher starts from it too
    targets.json    the first, empty list of signed bundles
    seen.json       the newest versions that these keys have signed or built on
    NAME.pub        a public key as JSON, with the role it was made for and where its private half is
    NAME.pem        the private half (PKCS 8); or, under a passphrase:
    NAME.age        the same, sealed to the age identity in
    unlock.age      opened by the passphrase; needed next to every NAME.age: 'age -d -i unlock.age NAME.age'

The private half of a `.pub` can be elsewhere: on a USB drive, on another machine, or behind a URI of securesystemslib
(`awskms:…`, `hsm:…`), which is under `uri` in the `.pub`. Keys are found by their content, never by file name, so that
files can be moved and renamed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyrage
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.exceptions import KeyMismatchError
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root

from convert.publish.layout import KEY_NAME, decode
from edge_agent.durable import atomic_files
from edge_agent.errors import FileMissing, InvalidRequest, UpdateOutdated
from edge_agent.formats import strict_json

ANCHOR, FIRST_TARGETS = "root.json", "targets.json"
PUBLIC, PLAIN, SEALED = ".pub", ".pem", ".age"
UNLOCK = "unlock.age"
SEEN = "seen.json"
_RECIPIENT = "unlock.recipient"
_PRIVATE_MODE = 0o600

Ask = Callable[[Path], str]
"""Returns the passphrase of a folder; called only if one is needed."""


@dataclass(frozen=True)
class PublicKeyFile:
    """A public key in a folder."""

    name: str
    role: str
    """The role it was made for: root, targets, plan or online. Metadata decide what it can sign."""
    key: Key
    uri: str
    folder: Path

    @property
    def private(self) -> Path | None:
        """The file of the private half, if there is one."""
        files = (self.folder / (self.name + suffix) for suffix in (SEALED, PLAIN))
        return next((file for file in files if file.is_file()), None)

    @property
    def available(self) -> bool:
        """Whether it can sign on this machine."""
        return bool(self.uri) or self.private is not None


class Keyring:
    """The keys of one or more folders. A passphrase is prompted for when it is needed, once per folder."""

    def __init__(self, folders: Sequence[Path], ask: Ask) -> None:
        """Read the public halves.

        Raises:
            FileMissing: no such folder.
            InvalidRequest: a file without a public key.
        """
        self.folders = tuple(folders)
        self.keys = tuple(key_file for folder in folders for key_file in read_folder(folder))
        self._ask = ask
        self._names = {key_file.key.keyid: key_file.name for key_file in self.keys}
        self._identities: dict[Path, pyrage.x25519.Identity] = {}
        self._signers: dict[str, Signer] = {}

    def anchor(self) -> bytes:
        """Return the root of trust. Raises FileMissing."""
        return self.file(ANCHOR)

    def file(self, name: str) -> bytes:
        """Return a file of the first folder that has it. Raises FileMissing."""
        for folder in self.folders:
            if (folder / name).is_file():
                return (folder / name).read_bytes()
        message = f"none of the key folders has {name}: {', '.join(map(str, self.folders)) or 'there are none'}"
        remedy = (
            f"Copy the fleet's {name} into the folder of the keys; for a new fleet: edge-convert keys signing FOLDER"
        )
        raise FileMissing(message, remedy=remedy)

    def store_root(self, root: bytes) -> None:
        """Store a newer root in place of the root of trust: new sites and the next command start from it."""
        for folder in filter(_keeps_trust, self.folders):
            atomic_files.write_atomically(folder / ANCHOR, root)

    def require_newest(self, versions: Mapping[str, int]) -> None:
        """Refuse versions older than those that these keys have signed or seen: an old copy could undo a revocation.

        Raises:
            UpdateOutdated: a role's version is lower.
        """
        for role, newest in self._newest_versions().items():
            if versions.get(role, newest) < newest:
                message = f"'{role}' is at version {versions[role]}; these keys have seen version {newest}"
                remedy = (
                    "An old copy of the repository was restored. Restore the newer one, and find out who can write"
                    " there."
                )
                raise UpdateOutdated(message, remedy=remedy)

    def remember_versions(self, versions: Mapping[str, int]) -> None:
        """Store versions next to the root of trust, if that folder is writable."""
        seen = self._newest_versions()
        newest = {role: max(version, seen.get(role, 0)) for role, version in versions.items()}
        if newest != seen:
            for folder in filter(_keeps_trust, self.folders):
                atomic_files.write_atomically(folder / SEEN, json.dumps(newest, sort_keys=True).encode() + b"\n")

    def _newest_versions(self) -> dict[str, int]:
        seen: dict[str, int] = {}
        for folder in self.folders:
            if (folder / SEEN).is_file():
                for role, version in json.loads((folder / SEEN).read_bytes()).items():
                    seen[role] = max(int(version), seen.get(role, 0))
        return seen

    def add_key(self, key_file: PublicKeyFile) -> None:
        """Add a key that was created or copied after the folders were read."""
        self.keys = (*self.keys, key_file)
        self._names[key_file.key.keyid] = key_file.name

    def add_names(self, keys: Mapping[str, Key]) -> None:
        """Store the names of keys that metadata list."""
        for keyid, key in keys.items():
            if isinstance(name := key.unrecognized_fields.get(KEY_NAME), str):
                self._names.setdefault(keyid, name[:80])

    def available(self, keyids: Iterable[str]) -> list[str]:
        """Return which of these keys can sign here, in order."""
        available_keyids = {key_file.key.keyid for key_file in self.keys if key_file.available}
        return list(filter(available_keyids.__contains__, keyids))

    def name_of(self, keyid: str) -> str:
        """Return the name of a key."""
        return self._names.get(keyid, f"{keyid[:12]}…")

    def sign(self, metadata: Metadata[Any], keyids: Iterable[str]) -> None:
        """Add the signatures of these keys, which must be available.

        Raises:
            InvalidRequest: wrong passphrase, or a signer that does not work, which the message names.
        """
        for keyid in keyids:
            try:
                metadata.sign(self._signer(keyid), append=True)
            except UnsignedMetadataError as error:
                message = f"the key {self.name_of(keyid)} failed to sign: {error}"
                raise InvalidRequest(message, remedy="Check that its device or service is reachable.") from None

    def _signer(self, keyid: str) -> Signer:
        if keyid not in self._signers:
            key_file = next(each for each in self.keys if each.key.keyid == keyid and each.available)
            self._signers[keyid] = self._open_signer(key_file)
        return self._signers[keyid]

    def _open_signer(self, key_file: PublicKeyFile) -> Signer:
        file, key = key_file.private, key_file.key
        if file is None:
            return _external_signer(key_file)
        try:
            content = file.read_bytes()
            if file.suffix == SEALED:
                content = pyrage.decrypt(content, [self._identity(file.parent)])
            private: Any = serialization.load_pem_private_key(content, None)
            if not isinstance(key, SSlibKey):
                raise ValueError(f"a private key in a file must be Ed25519, but the public key has type {key.keytype}")
            return CryptoSigner(private, key)
        except (ValueError, TypeError, KeyMismatchError, UnsupportedAlgorithm, pyrage.DecryptError) as error:
            message = f"the key {key_file.name} in {key_file.folder} cannot be opened: {error}"
            raise InvalidRequest(message, remedy="Check the passphrase, or restore the file from its backup.") from None

    def _identity(self, folder: Path) -> pyrage.x25519.Identity:
        if folder not in self._identities:
            if not (folder / UNLOCK).is_file():
                message = f"{folder} has keys with a passphrase, but not the file {UNLOCK} that the passphrase opens"
                raise FileMissing(message, remedy=f"Copy {UNLOCK} from the folder where the keys were created.")
            text = pyrage.passphrase.decrypt((folder / UNLOCK).read_bytes(), self._ask(folder)).decode()
            self._identities[folder] = pyrage.x25519.Identity.from_str(text.split()[-1])
        return self._identities[folder]

    def make(self, name: str, role: str) -> PublicKeyFile:
        """Create a key in the first folder, with its passphrase if it has one. Raises InvalidRequest, OSError."""
        folder = self.folders[0]
        if (folder / UNLOCK).is_file() and not (folder / _RECIPIENT).is_file():
            try:
                _write_recipient(folder, self._identity(folder))
            except pyrage.DecryptError as error:
                message = f"{folder / UNLOCK} cannot be opened: {error}"
                raise InvalidRequest(message, remedy="Check the passphrase.") from None
        return make(folder, name, role)


def _keeps_trust(folder: Path) -> bool:
    """Return whether a folder has the root of trust and is writable; offline keys can be on read-only media."""
    return (folder / ANCHOR).is_file() and os.access(folder, os.W_OK)


def _external_signer(key_file: PublicKeyFile) -> Signer:
    try:
        return Signer.from_priv_key_uri(key_file.uri, key_file.key)
    except Exception as error:  # noqa: BLE001 - each signer of securesystemslib has its own library, and its own errors
        message = f"the key {key_file.name} cannot be used through {key_file.uri}: {error}"
        raise InvalidRequest(message, remedy="Correct the URI; docs/publishing.md explains it.") from None


def register_external(folder: Path, name: str, role: str, uri: str, pem: bytes) -> PublicKeyFile:
    """Write the public half of a key whose private half is behind a URI of securesystemslib.

    Raises:
        InvalidRequest: there is a key of that name, or `pem` has no public key that sites can verify.
        OSError: the folder cannot be written.
    """
    try:
        key = SSlibKey.from_crypto(serialization.load_pem_public_key(pem))
    except (ValueError, UnsupportedAlgorithm) as error:
        message = f"no public key for '{name}': {error}"
        raise InvalidRequest(
            message, remedy="Name a PEM file with an Ed25519, ECDSA or RSA key: --public FILE."
        ) from None
    key.unrecognized_fields[KEY_NAME] = name
    key_file = PublicKeyFile(name, role, key, uri, folder)
    write_public(key_file)
    return key_file


def root_of(folder: Path) -> Metadata[Root]:
    """Return the root of trust in a folder. Raises FileMissing, UpdateUntrusted."""
    return decode(Root, Keyring([folder], lambda _: "").anchor(), str(folder / ANCHOR))


def read_folder(folder: Path) -> Iterator[PublicKeyFile]:
    """Yield the public keys in a folder, by name.

    Raises:
        FileMissing: no such folder.
        InvalidRequest: a file without a public key.
    """
    if not atomic_files.is_dir(folder):
        remedy = f"Create keys: edge-convert keys signing {folder}"
        raise FileMissing(f"there is no key folder {folder}", remedy=remedy)
    yield from (read_public(path) for path in sorted(folder.glob(f"*{PUBLIC}")) if path.read_bytes()[:1] == b"{")


def read_public(path: Path) -> PublicKeyFile:
    """Read a `.pub` file.

    Raises:
        FileMissing: it does not exist.
        InvalidRequest: it has no public key.
    """
    try:
        plain = strict_json.decode(path.read_bytes())
        key = Key.from_dict(plain["keyid"], dict(plain["key"]))
        return PublicKeyFile(path.stem, str(plain["role"]), key, str(plain.get("uri", "")), path.parent)
    except FileNotFoundError:
        raise FileMissing(f"{path} does not exist", remedy="Name the .pub file of a signing key.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        remedy = "Restore it from its backup, or create it again: 'edge-convert keys signer'."
        raise InvalidRequest(f"{path} has no public signing key", remedy=remedy) from None


def lock(folder: Path, passphrase: str) -> None:
    """Encrypt private keys that are created in a folder from now on.

    Raises:
        InvalidRequest: the folder has a passphrase already; a second one would lock out the first.
        OSError: the folder cannot be written.
    """
    if (folder / UNLOCK).is_file():
        raise InvalidRequest(f"{folder} has a passphrase already", remedy="Name another folder, or leave it out.")
    identity = pyrage.x25519.Identity.generate()
    text = f"# public key: {identity.to_public()}\n{identity}\n"
    atomic_files.write_atomically(
        folder / UNLOCK, pyrage.passphrase.encrypt(text.encode(), passphrase), mode=_PRIVATE_MODE
    )
    _write_recipient(folder, identity)


def _write_recipient(folder: Path, identity: pyrage.x25519.Identity) -> None:
    atomic_files.write_atomically(folder / _RECIPIENT, f"{identity.to_public()}\n".encode())


def make(folder: Path, name: str, role: str) -> PublicKeyFile:
    """Create an Ed25519 key in an existing folder, with the folder's passphrase if it has one.

    Raises:
        InvalidRequest: there is a key of that name.
        OSError: the folder cannot be written.
    """
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key_file = PublicKeyFile(name, role, SSlibKey.from_crypto(private.public_key()), "", folder)
    key_file.key.unrecognized_fields[KEY_NAME] = name
    _require_free(key_file)
    if (folder / _RECIPIENT).is_file():
        recipient = pyrage.x25519.Recipient.from_str((folder / _RECIPIENT).read_text(encoding="ascii").strip())
        atomic_files.write_atomically(folder / (name + SEALED), pyrage.encrypt(pem, [recipient]), mode=_PRIVATE_MODE)
    else:
        atomic_files.write_atomically(folder / (name + PLAIN), pem, mode=_PRIVATE_MODE)
    write_public(key_file)
    return key_file


def write_public(key_file: PublicKeyFile) -> None:
    """Write a `.pub` file.

    Raises:
        InvalidRequest: there is a key of that name.
        OSError: the folder cannot be written.
    """
    _require_free(key_file, PUBLIC)
    plain = {"role": key_file.role, "keyid": key_file.key.keyid, "key": key_file.key.to_dict(), "uri": key_file.uri}
    atomic_files.write_atomically(
        key_file.folder / (key_file.name + PUBLIC), json.dumps(plain, indent=1, sort_keys=True).encode() + b"\n"
    )


def _require_free(key_file: PublicKeyFile, *suffixes: str) -> None:
    for suffix in suffixes or (PUBLIC, PLAIN, SEALED):
        if (key_file.folder / (key_file.name + suffix)).exists():
            message = f"there is a key '{key_file.name}' in {key_file.folder}, and keys are never overwritten"
            raise InvalidRequest(message, remedy="Use another name.")
