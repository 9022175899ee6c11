"""GGUF files: their content, quantization in a child process, and comparison with the PyTorch model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert import probe
from convert.quantize import gguf_files
from convert.verify import divergence
from edge_agent.errors import FileMissing, InvalidRequest, ModelLoadFailed
from tests.support import tiny_decoder, tiny_gguf

ROWS = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_quantization_reports_the_tensor_types_of_the_file(tiny: Path, tmp_path: Path) -> None:
    """If rows of 32 and 64 numbers fit no K type, the file gets another type, and the report lists these fallbacks and
    the real bits per weight."""
    before = gguf_files.contents(tiny)
    made = gguf_files.quantize(gguf_files.QuantizeRequest(tiny, tmp_path / "q.gguf", "Q4_K_M"))
    assert (32.0, False) == (before.bits_per_weight, before.quantized)
    assert not any("K" in name for name in made.contents.types)
    assert gguf_files.TypeFallback("blk.0.attn_k.weight", "q4_K", "q5_0") in made.fallbacks
    assert 7 * 3 == len(made.fallbacks)  # every linear layer
    assert 4.5 < made.contents.bits_per_weight < before.bits_per_weight
    assert (tmp_path / "q.gguf").stat().st_size == made.contents.size_bytes
    assert ["q.gguf"] == [path.name for path in tmp_path.iterdir()]


def test_importance_matrix_changes_the_result(tiny: Path, tmp_path: Path) -> None:
    """A quantization with an importance matrix gives other bytes than one without, so the matrix reaches llama.cpp."""
    name, columns = "blk.0.ffn_down.weight", 64
    heavy = np.ones(columns, dtype=np.float32)
    heavy[:8] = 1e4
    alike = gguf_files.quantize(gguf_files.QuantizeRequest(tiny, tmp_path / "a.gguf", "Q4_0"))
    gguf_files.quantize(gguf_files.QuantizeRequest(tiny, tmp_path / "b.gguf", "Q4_0", importance={name: heavy}))
    assert "Q4_0" in alike.contents.types
    assert (tmp_path / "a.gguf").read_bytes() != (tmp_path / "b.gguf").read_bytes()


def test_quantized_source_needs_requantize(tiny: Path, tmp_path: Path) -> None:
    """A source that is quantized already is refused unless `requantize` is set."""
    gguf_files.quantize(gguf_files.QuantizeRequest(tiny, tmp_path / "q8.gguf", "Q8_0"))
    again = gguf_files.QuantizeRequest(tmp_path / "q8.gguf", tmp_path / "q4.gguf", "Q4_0")
    with pytest.raises(InvalidRequest, match="quantized already"):
        gguf_files.quantize(again)
    assert not (tmp_path / "q4.gguf").exists()
    made = gguf_files.quantize(gguf_files.QuantizeRequest(again.source, again.target, "Q4_0", requantize=True))
    assert "Q4_0" in made.contents.types


def test_failed_quantization_leaves_no_file(tiny: Path, tmp_path: Path) -> None:
    """A truncated or missing file and an unknown type are errors with their cause, and no output remains."""
    (tmp_path / "cut.gguf").write_bytes(tiny.read_bytes()[:-1000])
    with pytest.raises(ModelLoadFailed, match=r"damaged|does not quantize"):
        gguf_files.quantize(gguf_files.QuantizeRequest(tmp_path / "cut.gguf", tmp_path / "q.gguf", "Q8_0"))
    with pytest.raises(FileMissing):
        gguf_files.quantize(gguf_files.QuantizeRequest(tmp_path / "none.gguf", tmp_path / "q.gguf", "Q8_0"))
    with pytest.raises(InvalidRequest, match="unknown type 'Q9'"):
        gguf_files.quantize(gguf_files.QuantizeRequest(tiny, tmp_path / "q.gguf", "Q9"))
    assert ["cut.gguf"] == [path.name for path in tmp_path.iterdir()]


def test_failure_of_the_child_process_is_reported() -> None:
    """If the child process fails, the error has its exit code and last output, or the cause that it reported."""
    with pytest.raises(ModelLoadFailed, match=r"exit code 1: .*No module named"):
        probe.ask("convert.probe.nothing", {})
    with pytest.raises(ModelLoadFailed, match=r"llama\.cpp cannot load the file"):
        probe.ask("convert.probe.llama_probe", {"model": "/nowhere.gguf"})


def test_llama_cpp_computes_the_pytorch_model(tiny: Path) -> None:
    """The unquantized GGUF file and the PyTorch model agree on each probe text within the limit."""
    prompts = divergence.prompts(tiny_decoder.tokenizer())
    answer = probe.ask(
        "convert.probe.llama_probe", {"model": str(tiny), "prompts": prompts, "texts": list(divergence.TEXTS)}
    )
    assert "" == divergence.difference(answer.facts, tiny_decoder.tokenizer())
    gap = divergence.compare(divergence.last_logits(tiny_decoder.model(), prompts), answer.arrays["logits"])
    assert gap.passes, gap


@pytest.mark.slow
def test_shuffled_weights_fail_the_comparison(tmp_path: Path) -> None:
    """A GGUF file that loads but computes another model fails the comparison with the PyTorch model."""
    model, prompts = tiny_gguf.sharp(), divergence.prompts(tiny_decoder.tokenizer())
    for shuffled in (True, False):
        path = tiny_gguf.write_model(tmp_path / f"{shuffled}.gguf", model, shuffled=shuffled)
        answer = probe.ask("convert.probe.llama_probe", {"model": str(path), "prompts": prompts})
        assert shuffled == divergence.compare(divergence.last_logits(model, prompts), answer.arrays["logits"]).passes


def test_tokenizer_difference_is_named(tiny: Path) -> None:
    """Tokens, begin token, end token and chat template are compared, and the first difference is named."""
    facts = probe.ask("convert.probe.llama_probe", {"model": str(tiny), "texts": list(divergence.TEXTS)}).facts
    tokenizer = tiny_decoder.tokenizer()
    for changed, said in (
        ({"plain": [[1], *facts["plain"][1:]]}, "splits 'Hello'"),
        ({"written": [[1], *facts["written"][1:]]}, "control tokens recognised"),
        ({"add_bos": True}, "puts the token 1 before"),
        ({"special_ids": {"bos": 1, "eos": 9}}, "ends a text with the token 9"),
        ({"chat_template": "x"}, "chat template"),
    ):
        assert said in divergence.difference(facts | changed, tokenizer)


def test_divergence_of_logits() -> None:
    """Equal logits, or logits shifted by a constant, pass; scaled logits and another shape fail, and NaN gives an
    infinite divergence."""
    assert divergence.compare(ROWS, ROWS.copy()).passes
    assert divergence.compare(ROWS, ROWS + 3).passes  # a constant changes no distribution
    assert not divergence.compare(ROWS, ROWS * 1.2).passes
    assert not divergence.compare(ROWS, ROWS[:3]).passes
    broken = ROWS.copy()
    broken[0, 0] = np.nan
    assert float("inf") == divergence.compare(ROWS, broken).kl_max
    other = ROWS.copy()
    other[0] = other[0][::-1]
    expected = float(
        (
            np.exp(divergence.log_softmax(ROWS[0]))
            * (divergence.log_softmax(ROWS[0]) - divergence.log_softmax(other[0]))
        ).sum()
    )
    assert pytest.approx(expected) == divergence.divergences(ROWS, other)[0]
