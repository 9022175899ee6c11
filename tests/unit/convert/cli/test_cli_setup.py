"""`edge-convert setup`, which prepares the GGUF converter."""

from pathlib import Path

from convert.export import gguf_export
from tests.unit.convert.cli.test_cli import edge_convert


def test_setup_refuses_another_archive(tmp_path: Path):
    """`edge-convert setup --archive` accepts only the pinned source archive."""
    (tmp_path / "other.tar.gz").write_bytes(b"other")
    code, said = edge_convert("setup", "--cache", str(tmp_path), "--archive", str(tmp_path / "other.tar.gz"))
    assert (2, True) == (code, f"is not the source archive of llama-cpp-python {gguf_export.VERSION}" in said)


def test_second_setup_prints_the_converter_path(tmp_path: Path):
    """If the converter exists, `edge-convert setup` prints its folder and needs no network."""
    site = tmp_path / f"llama-cpp-python-{gguf_export.VERSION}"
    site.mkdir()
    (site / gguf_export.HF_SCRIPT).write_text("")
    code, said = edge_convert("setup", "--cache", str(tmp_path))
    assert (0, True) == (code, str(site) in said)
