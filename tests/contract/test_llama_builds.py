"""The contract of the llama engine on builds for several kinds of processor (tests/support/llama_builds.py)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.config import EngineConfig
from edge_agent.engine.pool import EnginePool
from edge_agent.engine.runtimes.llama import llama_backends
from edge_agent.formats.manifest import encode
from tests.support import bundles, llama_builds
from tests.support.llama_builds import BUILDS, VARIABLE, Build

TOLD = 6000
"""Characters of what a failed run has printed."""


@pytest.mark.slow
@pytest.mark.skipif(llama_builds.chosen() is not None, reason="this run is one of those that it starts")
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_the_suite_passes_on_each_build(build: Build) -> None:
    """Each kind of processor whose code can be executed here; that of this machine itself is what other runs have."""
    if not build.runs_here:
        pytest.skip(f"this processor has not all of {', '.join(build.needs)}")
    for arguments in build.runs:
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-n0", "-rfE", "--tb=short", *arguments],
            cwd=llama_builds.ROOT,
            env={**os.environ, VARIABLE: build.name},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, f"on the build for {build.name}:\n{(run.stdout + run.stderr)[-TOLD:]}"


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_what_a_build_is_left_out_of_is_there(build: Build) -> None:
    """Each test that the table of builds names is one of the contract's: a name that was changed would be no rule."""
    for named in {argument.removeprefix("--deselect=") for arguments in build.runs for argument in arguments[2:]}:
        file, _, test = named.partition("::")
        assert f"def {test}" in (llama_builds.ROOT / file).read_text(encoding="utf-8")


def test_the_chosen_build_is_what_computes() -> None:
    """Without a choice, that of the installed wheel."""
    build = llama_builds.chosen()
    folder = llama_backends.LIBRARIES if build is None else build.folder
    code = (folder / "libggml-cpu.so.0").read_bytes()
    assert (folder, hashlib.blake2b(code, digest_size=4).hexdigest()) == (
        llama_backends.LIBRARIES,
        llama_backends.cpu_code(),
    )


@pytest.mark.slow
async def test_a_child_loads_the_same_build(tmp_path: Path) -> None:
    """Confined, with next to nothing of the daemon's environment: what it measured holds for that build's code."""
    folder = bundles.smollm2_bundle(tmp_path / "talk", "generate")
    manifest = bundles.manifest_of(folder)
    pool = EnginePool(EngineConfig(load_seconds_max=60), lambda: None, [tmp_path])
    try:
        await pool.attach("talk", manifest, encode(manifest), bundles.paths_of(folder))
        (engine,) = pool.statuses()
        assert llama_backends.cpu_code() in engine.details["tuned_for"]
    finally:
        await pool.stop()
