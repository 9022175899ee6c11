"""edge_agent/engine/runtimes/llama/llama_backends.py: which processor's code computes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge_agent.engine.runtimes.llama import llama_backends

SITE = "7f00-7f01 r-xp 00000000 fe:00 42   /opt/edge-agent/venvs/a/lib/python3.13/site-packages"


@pytest.mark.parametrize(
    ("variant", "maps"),
    [
        ("zen4", f"{SITE}/bin/libggml-cpu-zen4.so"),
        ("x64", f"{SITE}/llama_cpp/lib/libggml.so.0\n{SITE}/bin/libggml-cpu-x64.so\n"),
        ("native", f"{SITE}/llama_cpp/lib/libggml-cpu.so.0"),
        ("none", f"{SITE}/llama_cpp/lib/libggml-base.so.0"),
    ],
)
def test_the_variant_is_the_library_that_is_mapped(variant: str, maps: str):
    """A portable build is named by the kind of processor, a build for one machine is native, and no code is none."""
    assert variant == llama_backends.variant_in(maps)


def test_the_module_says_which_code_computes_here():
    """Started as a program it loads llama.cpp's backends and prints the variant, never none."""
    command = [sys.executable, "-m", "edge_agent.engine.runtimes.llama.llama_backends"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.strip() not in ("", "none")
