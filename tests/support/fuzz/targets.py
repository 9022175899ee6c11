"""The fuzz targets: each kind of file that a site reads, with its mutation and the checks of its reader.

target = TARGETS["manifest"]
read = target.make(folder)
read(target.mutate(rng, corpus.files("manifest")[0]))   # returns, or raises an EdgeAgentError

`read` raises AssertionError where a file was accepted and what came of it is not consistent. Engines are in engines.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from edge_agent.engine.runtimes.llama import gguf_header
from edge_agent.errors import EdgeAgentError
from edge_agent.formats import enrolment_file, golden_cases, manifest, plan, record_schema, segment
from edge_agent.formats.signed_document import sign
from edge_agent.store.bundle_store import Store
from tests.support import hostile_state, repository_attacks
from tests.support.bundles import echo_bundle
from tests.support.examples import CENTRAL_KEY, EPOCH
from tests.support.fleet_cases import CentralTeam
from tests.support.fuzz import engines, mutations
from tests.support.fuzz.corpus import PASSPHRASE
from tests.support.fuzz.mutations import Mutation
from tests.support.hostile_bytes import spoilt
from tests.support.hostile_carried import with_its_sha256
from tests.support.hostile_files import KEYS, signed_by_the_central_team
from tests.support.store_cases import LIMITS, require_whole

Read = Callable[[bytes], object]
MEGABYTE = 2**20
READER_BYTES_MAX = 64 * MEGABYTE
"""What reading one small file may add to the memory of the process."""
SCRYPT_BYTES_MAX = 128 * 8 * 2**enrolment_file.SCRYPT_WORK_MAX + READER_BYTES_MAX
SEGMENT = segment.name_of(EPOCH, 1)


@dataclass(frozen=True)
class Target:
    """A kind of file."""

    name: str
    mutate: Mutation
    make: Callable[[Path], Read]
    """Takes an empty folder, and returns what reads a file; nothing outside the folder may be written."""
    memory_bytes_max: int = READER_BYTES_MAX
    seconds_max: float = 5.0
    """Of the processor, for one file."""
    share: int = 2
    """Of the time that there is."""
    runs: int = 200
    """New cases in the slow tier."""
    guided: bool = True
    """The reader is Python, so that its coverage can guide the cases."""
    child: bool = False
    """The reader starts an engine's child for each case."""
    seeds: Callable[[Path], list[bytes]] = lambda _: []
    """More to begin with than the corpus: what can only be made anew, from the folder of the reader."""
    settle: Callable[[Path, bytes], object] | None = None
    """Reads a file as the daemon does, with an engine's child: where a library reads it here, and may die of it."""


# --- documents --------------------------------------------------------------------------------------------------------


def _manifest(_: Path) -> Read:
    def read(raw: bytes) -> None:
        found = manifest.parse(raw)
        assert found == manifest.parse(manifest.encode(found))
        assert len(found.task.record_fields) <= len(raw)
        if found.task.record_schema is not None:
            record_schema.check(found.task.record_schema)

    return read


def _golden(_: Path) -> Read:
    def read(raw: bytes) -> None:
        cases = golden_cases.parse(raw)
        assert cases == golden_cases.parse(golden_cases.encode(cases))
        for case in cases:
            said = golden_cases.GoldenAnswer(case.answer or "", case.scores)
            assert [] == golden_cases.differences(case, said), "a case differs from its own answer"

    return read


def _plan(_: Path) -> Read:
    def read(raw: bytes) -> None:
        found = plan.parse(raw)
        assert found == plan.parse(plan.encode(found))

    return read


def _enrolment(_: Path) -> Read:
    def read(raw: bytes) -> None:
        found, _ = enrolment_file.parse(raw)
        assert found == enrolment_file.parse(enrolment_file.encode(found))[0]

    return read


def _sealed_enrolment(_: Path) -> Read:
    return (
        lambda raw: enrolment_file.unseal(raw, PASSPHRASE)
        if enrolment_file.is_sealed(raw)
        else enrolment_file.parse(raw)
    )


def _receipts(_: Path) -> Read:
    def read(raw: bytes) -> None:
        body = segment.verify_receipts(raw, KEYS).body
        assert body == segment.verify_receipts(sign(body, CENTRAL_KEY), KEYS).body

    return read


def _segment(_: Path) -> Read:
    return lambda raw: segment.verify(raw, SEGMENT, KEYS)


def _resealed(rng: Random, raw: bytes) -> bytes:
    """Change an enrolment file; in half of the cases, update its sha256 to match."""
    spoiled = mutations.json_document(rng, raw)
    return _body_in(spoiled, with_its_sha256) if rng.randrange(2) else spoiled


def _resigned(rng: Random, raw: bytes) -> bytes:
    """Change a signed document; in half of the cases, sign it again, as an attacker with the key could."""
    spoiled = mutations.json_document(rng, raw)
    return _body_in(spoiled, signed_by_the_central_team) if rng.randrange(2) else spoiled


def _body_in(raw: bytes, again: Callable[[Any], bytes]) -> bytes:
    try:
        return again(json.loads(raw)["body"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return raw


# --- archives ---------------------------------------------------------------------------------------------------------


def _bundle_tar(folder: Path) -> Read:
    file, state = folder / "bundle.tar", folder / "state"
    store = Store.open(state, replace(LIMITS, bundles_per_task_max=2))
    for version in ("1.0.0", "2.0.0"):
        bundle = echo_bundle(folder / version, version=version, weights=version.encode())
        store.install(bundle, allow_unsigned=True)

    def read(raw: bytes) -> None:
        file.write_bytes(raw)
        before = {each.digest for each in store.bundles()}
        try:
            installed, _ = store.install(file, allow_unsigned=True)
        except EdgeAgentError:
            assert before == {each.digest for each in store.bundles()}
            raise
        finally:
            require_whole(store, state)
        assert installed.digest in {each.digest for each in store.bundles()}

    return read


# --- updates on a USB drive or from a mirror --------------------------------------------------------------------------


def repository_case(role: str, stolen: bool, drive: bool, raw: bytes) -> bytes:
    """Write a case: a line of JSON that says which file of a repository is replaced and how, then that file."""
    return json.dumps({"role": role, "stolen": stolen, "stick": drive}).encode() + b"\n" + raw


def _parsed(case: bytes) -> hostile_state.DamagedRepository:
    head, _, raw = case.partition(b"\n")
    try:
        told = json.loads(head)
        return hostile_state.DamagedRepository(told["role"], raw, bool(told["stolen"]), bool(told["stick"]))
    except (ValueError, KeyError, TypeError):  # spoilt by the fuzzer, and not what is fuzzed
        return hostile_state.DamagedRepository("timestamp", case, stolen=False, drive=True)


def _repository_mutation(rng: Random, case: bytes) -> bytes:
    parsed = _parsed(case)
    role = parsed.role if parsed.role in hostile_state.ROLES else "timestamp"
    return repository_case(role, rng.random() < 0.5, rng.random() < 0.5, mutations.json_document(rng, parsed.raw))


def _repository(folder: Path) -> Read:
    central = CentralTeam(folder / "central")
    digest = central.publish(echo_bundle(folder / "bundle", weights=b"w"))
    central.plan(central.offering(digest))
    read = hostile_state.repository(folder / "site", central, digest).read

    def one(case: bytes) -> None:
        parsed = _parsed(case)
        read(parsed if parsed.role in hostile_state.ROLES else replace(parsed, role="timestamp"))

    return one


def _repository_seeds(folder: Path) -> list[bytes]:
    """Return each file of the repository as it is: its signatures and dates are of today."""
    central = CentralTeam.of(folder / "central")
    sound = repository_attacks.AttackedRepository(central, central.folder, central.folder)
    paths = {role: sound.plan_blob() if role == plan.FILE_NAME else sound.path(role) for role in hostile_state.ROLES}
    return [repository_case(role, False, True, path.read_bytes()) for role, path in paths.items()]


def _root(_: Path) -> Read:
    return hostile_state.read_root


# --- heads of models --------------------------------------------------------------------------------------------------


def _gguf_head(folder: Path) -> Read:
    file = folder / "model.gguf"

    def read(raw: bytes) -> None:
        file.write_bytes(raw)
        found = gguf_header.read_header(str(file))
        assert 0 <= found.layers <= gguf_header.LAYERS_MAX
        assert len(found.layer_bytes) in (0, found.layers)
        assert min((found.width, found.feed_forward, found.cell_elements, found.vocabulary)) >= 0
        assert sum(found.product_bytes.values()) <= len(raw), "the tensors are larger than the file"

    return read


def _torn(rng: Random, raw: bytes) -> bytes:
    return spoilt(rng, raw)


TARGETS = {
    each.name: each
    for each in (
        Target("manifest", mutations.json_document, _manifest),
        Target("golden", mutations.json_lines, _golden, share=1),
        Target("plan", mutations.json_document, _plan, share=1),
        Target("receipts", _resigned, _receipts, share=1),
        Target("segment", _resigned, _segment, share=1),
        Target("kit", _resealed, _enrolment),
        Target("sealed-kit", _torn, _sealed_enrolment, share=1, memory_bytes_max=SCRYPT_BYTES_MAX, seconds_max=30.0),
        Target("bundle-tar", mutations.tar, _bundle_tar, runs=60),
        Target("root", mutations.json_document, _root, share=1),
        Target("repository", _repository_mutation, _repository, seeds=_repository_seeds, runs=20),
        Target("gguf-head", mutations.gguf, _gguf_head),
        Target(
            "onnx-graph",
            mutations.onnx_graph,
            engines.onnx_graph,
            memory_bytes_max=engines.MODEL_BYTES_MAX,
            guided=False,
            settle=engines.settle_onnx_graph,
        ),
        Target(
            "tokenizer",
            mutations.json_document,
            engines.tokenizer,
            memory_bytes_max=engines.MODEL_BYTES_MAX,
            guided=False,
            settle=engines.settle_tokenizer,
        ),
        Target(
            "gguf-engine",
            mutations.gguf,
            engines.gguf_in_a_child,
            guided=False,
            child=True,
            runs=2,
            memory_bytes_max=engines.MODEL_BYTES_MAX,
        ),
        Target(
            "onnx-engine",
            mutations.onnx_graph,
            engines.onnx_in_a_child,
            guided=False,
            child=True,
            runs=2,
            memory_bytes_max=engines.MODEL_BYTES_MAX,
        ),
    )
}
