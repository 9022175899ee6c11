"""`edge-convert quantize` with a GGUF file instead of a recipe."""

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


def test_quantize_reports_the_content_of_the_new_file(tiny: Path, tmp_path: Path):
    """Bits per weight and tensors are counted in the new file instead of being derived from the type's name."""
    code, said = edge_convert("quantize", str(tiny), "--type", "Q4_0", "--out", str(tmp_path / "q.gguf"))
    assert code == 0
    found = gguf_files.contents(tmp_path / "q.gguf")
    assert f"Q4_0, {found.size_bytes / 1000:.1f} kB, {found.bits_per_weight:.2f} bits per weight" in said
    assert f"{found.types['Q4_0']} Q4_0" in said


def test_gguf_file_is_quantized_without_torch(tiny: Path, tmp_path: Path):
    """Quantizing a GGUF file needs no training library; only a recipe does."""
    without = "import sys; sys.modules |= dict.fromkeys(['torch', 'transformers', 'peft', 'onnx']); "
    quantize = ["quantize", str(tiny), "--type", "Q4_0", "--out", str(tmp_path / "q.gguf")]
    command = [sys.executable, "-c", f"{without}from convert.cli import main; main()", *quantize]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (0, True) == (made.returncode, "Q4_0" in made.stdout), made.stderr


def test_tensors_of_another_type_than_requested_are_named(tiny: Path, tmp_path: Path):
    """The output has a line for each tensor whose type differs from the requested one."""
    code, said = edge_convert("quantize", str(tiny), "--type", "Q4_K_M", "--out", str(tmp_path / "q.gguf"))
    assert code == 0
    assert "not as requested: blk.0.attn_k.weight: q5_0 instead of q4_K" in said


def test_quantizing_a_quantized_file_requires_an_option(tiny: Path, tmp_path: Path):
    """The refusal names --requantize, and with this option the file is quantized again."""
    once, twice = str(tmp_path / "q8.gguf"), str(tmp_path / "q4.gguf")
    assert edge_convert("quantize", str(tiny), "--type", "Q8_0", "--out", once)[0] == 0
    code, said = edge_convert("quantize", once, "--type", "Q4_0", "--out", twice)
    assert (2, True) == (code, "allow it with --requantize" in said)
    assert edge_convert("quantize", once, "--type", "Q4_0", "--out", twice, "--requantize")[0] == 0


@pytest.mark.parametrize("options", [["--type", "Q8_0"], ["--out", "q.gguf"]])
def test_type_or_out_alone_is_refused(tiny: Path, options: list[str]):
    """One file needs both --type and --out."""
    code, said = edge_convert("quantize", str(tiny), *options)
    assert (2, True) == (code, "one file needs both --type and --out" in said)
