"""edge-convert quantize, by hand: one GGUF file into another."""

import subprocess
import sys
from pathlib import Path

import pytest

from convert.quantize import gguf_files
from tests.support import tiny_gguf
from tests.unit.convert.cli.test_cli import edge_convert


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_gguf.write(tmp_path / "tiny.gguf")


def test_a_file_is_quantized_and_what_it_holds_is_said(tiny: Path, tmp_path: Path):
    """Bits a weight and tensors are counted in the file, not taken from the name of the type."""
    code, said = edge_convert("quantize", str(tiny), "--type", "Q4_0", "--out", str(tmp_path / "q.gguf"))
    assert code == 0
    found = gguf_files.contents(tmp_path / "q.gguf")
    assert f"Q4_0, {found.size_bytes / 1000:.1f} kB, {found.bits_per_weight:.2f} bits per weight" in said
    assert f"{found.types['Q4_0']} Q4_0" in said


def test_a_file_is_quantized_without_torch(tiny: Path, tmp_path: Path):
    """The help says so: a GGUF file needs no training library, only a recipe does."""
    without = "import sys; sys.modules |= dict.fromkeys(['torch', 'transformers', 'peft', 'onnx']); "
    quantize = ["quantize", str(tiny), "--type", "Q4_0", "--out", str(tmp_path / "q.gguf")]
    command = [sys.executable, "-c", f"{without}from convert.cli import main; main()", *quantize]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (0, True) == (made.returncode, "Q4_0" in made.stdout), made.stderr


def test_tensors_that_got_another_type_are_named(tiny: Path, tmp_path: Path):
    """A sentence for each, for people."""
    code, said = edge_convert("quantize", str(tiny), "--type", "Q4_K_M", "--out", str(tmp_path / "q.gguf"))
    assert code == 0
    assert "not as requested: blk.0.attn_k.weight: q5_0 instead of q4_K" in said


def test_rounding_twice_takes_a_word(tiny: Path, tmp_path: Path):
    """The refusal names the option that allows it."""
    once, twice = str(tmp_path / "q8.gguf"), str(tmp_path / "q4.gguf")
    assert edge_convert("quantize", str(tiny), "--type", "Q8_0", "--out", once)[0] == 0
    code, said = edge_convert("quantize", once, "--type", "Q4_0", "--out", twice)
    assert (2, True) == (code, "allow it with --requantize" in said)
    assert edge_convert("quantize", once, "--type", "Q4_0", "--out", twice, "--requantize")[0] == 0


@pytest.mark.parametrize("options", [["--type", "Q8_0"], ["--out", "q.gguf"]])
def test_half_of_what_a_file_needs_is_refused(tiny: Path, options: list[str]):
    """Type and target go together."""
    code, said = edge_convert("quantize", str(tiny), *options)
    assert (2, True) == (code, "one file needs both --type and --out" in said)
