"""The llama.cpp builds that the contract tests run on (tests/support/llama_builds.py)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edge_agent.config import EngineConfig
from edge_agent.engine.pool import EnginePool
from edge_agent.engine.runtimes.llama import llama_backends
from edge_agent.formats.manifest import encode
from tests.support import bundles, llama_builds
from tests.support.llama_builds import BUILDS, Build


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_tests_named_in_the_table_of_builds_exist(build: Build) -> None:
    """Each test that the table of builds names exists, so a renamed test does not silently lose its rule."""
    for named in build.names_tests:
        file, _, test = named.partition("[")[0].partition("::")
        assert f"def {test}" in (llama_builds.ROOT / file).read_text(encoding="utf-8")


def test_chosen_build_computes() -> None:
    """The chosen build is the library that computes; without a choice it is that of the installed wheel."""
    build = llama_builds.chosen()
    folder = llama_backends.LIBRARIES if build is None else build.folder
    code = (folder / "libggml-cpu.so.0").read_bytes()
    assert (folder, hashlib.blake2b(code, digest_size=4).hexdigest()) == (
        llama_backends.LIBRARIES,
        llama_backends.cpu_code(),
    )


@pytest.mark.slow
async def test_child_loads_the_same_build(tmp_path: Path) -> None:
    """A confined child with a minimal environment loads the same build, so its measured settings apply to that build's
    code."""
    folder = bundles.smollm2_bundle(tmp_path / "talk", "generate")
    manifest = bundles.manifest_of(folder)
    pool = EnginePool(EngineConfig(load_seconds_max=60), lambda: None, [tmp_path])
    try:
        await pool.attach("talk", manifest, encode(manifest), bundles.paths_of(folder))
        (engine,) = pool.statuses()
        assert llama_backends.cpu_code() in engine.details["tuned_for"]
    finally:
        await pool.stop()
