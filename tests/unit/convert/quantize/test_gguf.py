"""convert/quantize/gguf_files.py and convert/probe/: what a GGUF file holds, and quantizing it in a child."""

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


def test_quantizing_reports_what_the_file_really_holds(tiny: Path, tmp_path: Path) -> None:
    """Rows of 32 and 64 fit no K type: the file holds another one, and the report says so."""
    before = gguf_files.contents(tiny)
    made = gguf_files.quantize(gguf_files.QuantizeRequest(tiny, tmp_path / "q.gguf", "Q4_K_M"))
    assert (32.0, False) == (before.bits_per_weight, before.quantized)
    assert not any("K" in name for name in made.contents.types)
    assert gguf_files.TypeFallback("blk.0.attn_k.weight", "q4_K", "q5_0") in made.fallbacks
    assert 7 * 3 == len(made.fallbacks)  # every linear layer
    assert 4.5 < made.contents.bits_per_weight < before.bits_per_weight
    assert (tmp_path / "q.gguf").stat().st_size == made.contents.size_bytes
    assert ["q.gguf"] == [path.name for path in tmp_path.iterdir()]


def test_importance_changes_the_result(tiny: Path, tmp_path: Path) -> None:
    """A matrix reaches llama.cpp: columns that are never used are rounded more coarsely."""
    name, columns = "blk.0.ffn_down.weight", 64
    heavy = np.ones(columns, dtype=np.float32)
    heavy[:8] = 1e4
    alike = gguf_files.quantize(gguf_files.QuantizeRequest(tiny, tmp_path / "a.gguf", "Q4_0"))
    gguf_files.quantize(gguf_files.QuantizeRequest(tiny, tmp_path / "b.gguf", "Q4_0", importance={name: heavy}))
    assert "Q4_0" in alike.contents.types
    assert (tmp_path / "a.gguf").read_bytes() != (tmp_path / "b.gguf").read_bytes()


def test_quantized_source_is_refused_unless_asked_for(tiny: Path, tmp_path: Path) -> None:
    """Rounding twice needs a word of consent."""
    gguf_files.quantize(gguf_files.QuantizeRequest(tiny, tmp_path / "q8.gguf", "Q8_0"))
    again = gguf_files.QuantizeRequest(tmp_path / "q8.gguf", tmp_path / "q4.gguf", "Q4_0")
    with pytest.raises(InvalidRequest, match="quantized already"):
        gguf_files.quantize(again)
    assert not (tmp_path / "q4.gguf").exists()
    made = gguf_files.quantize(gguf_files.QuantizeRequest(again.source, again.target, "Q4_0", requantize=True))
    assert "Q4_0" in made.contents.types


def test_failure_in_llama_cpp_leaves_no_file(tiny: Path, tmp_path: Path) -> None:
    """A file cut off, none at all and an unknown type are errors with a cause, and leave nothing behind."""
    (tmp_path / "cut.gguf").write_bytes(tiny.read_bytes()[:-1000])
    with pytest.raises(ModelLoadFailed, match=r"damaged|does not quantize"):
        gguf_files.quantize(gguf_files.QuantizeRequest(tmp_path / "cut.gguf", tmp_path / "q.gguf", "Q8_0"))
    with pytest.raises(FileMissing):
        gguf_files.quantize(gguf_files.QuantizeRequest(tmp_path / "none.gguf", tmp_path / "q.gguf", "Q8_0"))
    with pytest.raises(InvalidRequest, match="unknown type 'Q9'"):
        gguf_files.quantize(gguf_files.QuantizeRequest(tiny, tmp_path / "q.gguf", "Q9"))
    assert ["cut.gguf"] == [path.name for path in tmp_path.iterdir()]


def test_child_that_dies_is_an_error_with_its_last_words() -> None:
    """Whatever ends the child, the caller hears how."""
    with pytest.raises(ModelLoadFailed, match=r"exit code 1: .*No module named"):
        probe.ask("convert.probe.nothing", {})
    with pytest.raises(ModelLoadFailed, match=r"llama\.cpp cannot load the file"):
        probe.ask("convert.probe.llama_probe", {"model": "/nowhere.gguf"})


def test_llama_cpp_computes_the_same_model(tiny: Path) -> None:
    """The float file and the model in PyTorch agree on every probe text, to within the gate's bound."""
    prompts = divergence.prompts(tiny_decoder.tokenizer())
    answer = probe.ask(
        "convert.probe.llama_probe", {"model": str(tiny), "prompts": prompts, "texts": list(divergence.TEXTS)}
    )
    assert "" == divergence.difference(answer.facts, tiny_decoder.tokenizer())
    gap = divergence.compare(divergence.last_logits(tiny_decoder.model(), prompts), answer.arrays["logits"])
    assert gap.passes, gap


@pytest.mark.slow
def test_weights_in_another_order_are_caught(tmp_path: Path) -> None:
    """A file that loads and computes something else fails the gate."""
    model, prompts = tiny_gguf.sharp(), divergence.prompts(tiny_decoder.tokenizer())
    for shuffled in (True, False):
        path = tiny_gguf.write_model(tmp_path / f"{shuffled}.gguf", model, shuffled=shuffled)
        answer = probe.ask("convert.probe.llama_probe", {"model": str(path), "prompts": prompts})
        assert shuffled == divergence.compare(divergence.last_logits(model, prompts), answer.arrays["logits"]).passes


def test_difference_names_what_differs(tiny: Path) -> None:
    """Tokens, begin token, end token and chat template are compared; the first difference is told."""
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


def test_gap_is_zero_between_equals_and_infinite_for_what_is_no_number() -> None:
    """The gate passes equals, and fails what is shifted, of another shape, or not finite."""
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
