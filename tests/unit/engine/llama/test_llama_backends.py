"""The processor variant whose llama.cpp code computes."""

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
def test_variant_is_that_of_the_mapped_library(variant: str, maps: str):
    """A portable build is named after its processor variant, a build for one machine is "native", and without a mapped
    backend the variant is "none"."""
    assert variant == llama_backends.variant_in(maps)


def test_module_prints_the_variant_of_this_machine():
    """Run as a program, the module loads llama.cpp's backends and prints the variant, which is never empty or
    "none"."""
    command = [sys.executable, "-m", "edge_agent.engine.runtimes.llama.llama_backends"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.strip() not in ("", "none")
