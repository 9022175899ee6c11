"""The corpus: small files of each kind, valid ones and those that once revealed a defect.

    python -m tests.support.fuzz.corpus          write the sound ones again, after a format has changed

tests/corpus/TARGET/sound*   what the writers of this version make; every other file is kept for what it once did.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

PASSPHRASE = "correct horse battery staple"
FOLDER = Path(__file__).parents[2] / "corpus"


def files(target: str) -> dict[str, bytes]:
    """Return the files of a target by their names."""
    return {path.name: path.read_bytes() for path in sorted((FOLDER / target).glob("*"))}


def sound(target: str) -> bytes:
    """Return a valid file."""
    return min((FOLDER / target).glob("sound*")).read_bytes()


def write_sound(folder: Path) -> None:
    """Write the valid files of each target that stores them, in a folder per target."""
    for target, sound_files in (_documents() | _archives() | _models()).items():
        _write(folder / target, sound_files)


def _write(folder: Path, sound_files: Sequence[bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("sound*"):
        old.unlink()
    for number, raw in enumerate(sound_files, 1):
        (folder / f"sound-{number}").write_bytes(raw)


def _documents() -> dict[str, Sequence[bytes]]:
    # Imported here: whoever only reads the corpus needs none of it.
    from edge_agent.formats import enrolment_file, golden_cases  # noqa: PLC0415
    from edge_agent.formats.signed_document import sign  # noqa: PLC0415
    from tests.support.enrolment_files import a_enrolment  # noqa: PLC0415
    from tests.support.examples import CENTRAL_KEY, SITE_KEY, segment_manifest  # noqa: PLC0415
    from tests.support.fleet_cases import CentralTeam  # noqa: PLC0415
    from tests.support.hostile_files import a_plan, manifests, some_receipts  # noqa: PLC0415

    cases = (
        golden_cases.GoldenCase(input="a refund", answer="refund", scores=(0.9, 0.1), tolerance=0.1, report_only=True),
        golden_cases.GoldenCase(input="the price", answer="price", scores=(0.2, 0.8)),
    )
    enrolment = enrolment_file.encode(a_enrolment())
    with tempfile.TemporaryDirectory() as path:
        root = CentralTeam(Path(path) / "central").root_bytes
    return {
        "manifest": [json.dumps(each).encode() for each in manifests()],
        "golden": [golden_cases.encode(cases)],
        "plan": [json.dumps(a_plan()).encode()],
        "receipts": [sign(some_receipts(), CENTRAL_KEY)],
        "segment": [sign(segment_manifest(), SITE_KEY)],
        "kit": [enrolment],
        "root": [root],
        "sealed-kit": [sealed_quickly(enrolment)],
    }


def sealed_quickly(raw: bytes) -> bytes:
    """Seal an enrolment file in the age format (age-encryption.org/v1) with the least work: each case opens it."""
    from cryptography.hazmat.primitives import hashes, hmac  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305  # noqa: PLC0415
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt  # noqa: PLC0415

    def derived(salt: bytes, info: bytes) -> bytes:
        return HKDF(hashes.SHA256(), 32, salt, info).derive(file_key)

    def text(binary: bytes) -> bytes:
        return base64.b64encode(binary).rstrip(b"=")

    salt, file_key, nonce = b"s" * 16, b"k" * 16, b"n" * 16
    wrapping = Scrypt(b"age-encryption.org/v1/scrypt" + salt, 32, n=2, r=8, p=1).derive(PASSPHRASE.encode())
    wrapped = text(ChaCha20Poly1305(wrapping).encrypt(bytes(12), file_key, None))
    head = b"age-encryption.org/v1\n-> scrypt " + text(salt) + b" 1\n" + wrapped + b"\n---"
    mac = hmac.HMAC(derived(b"", b"header"), hashes.SHA256())
    mac.update(head)
    payload = ChaCha20Poly1305(derived(nonce, b"payload")).encrypt(bytes(11) + b"\1", raw, None)
    return head + b" " + text(mac.finalize()) + b"\n" + nonce + payload


def _archives() -> dict[str, Sequence[bytes]]:
    from tests.support.store_cases import bundle, tar_of  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as path:
        folder = bundle(Path(path) / "bundle", weights=b"w" * 600, golden=b'{"input": "a refund"}\n')
        return {"bundle-tar": [tar_of(folder, Path(path) / "bundle.tar").read_bytes()]}


def _models() -> dict[str, Sequence[bytes]]:
    from convert.encoder import bert_graph  # noqa: PLC0415
    from tests.support import bert_onnx, tiny_decoder, tiny_gguf  # noqa: PLC0415
    from tests.support.fuzz.engines import gguf_heads  # noqa: PLC0415

    shape = bert_graph.BertConfig(bert_onnx.TINY.vocabulary, hidden=8, layers=1, heads=2, intermediate=8, positions=64)
    graph = bert_onnx.build(shape, bert_onnx.random_weights(shape, outputs=2), "classify")
    with tempfile.TemporaryDirectory() as path:
        model = tiny_decoder.model(layers=1, hidden=8, heads=1, shared=1)
        decoder = tiny_gguf.write_model(Path(path) / "tiny.gguf", model).read_bytes()
    return {
        "gguf-head": gguf_heads(),
        "gguf-engine": [decoder],
        "onnx-graph": [graph],
        "onnx-engine": [graph],
        "tokenizer": [bert_onnx.tiny_tokenizer()],
    }


if __name__ == "__main__":
    write_sound(FOLDER)
