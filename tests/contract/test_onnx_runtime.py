"""Behaviour of the onnx runtime beyond the common contract."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from edge_agent.engine.protocol import FailureReport, JobRequest, JobResult, LoadRequest, concurrent_jobs
from edge_agent.engine.runtimes.onnx_runtime import CHARACTERS_PER_TOKEN_MAX, OnnxRuntime
from edge_agent.errors import EmptyInput, InputTooLong, ModelFailed, ModelLoadFailed
from tests.support import bert_onnx, bundles, pos_intents


@pytest.mark.parametrize(("threads", "given", "jobs"), [(2, 0, 8), (4, 0, 8), (5, 0, 10), (16, 0, 32), (16, 3, 3)])
def test_child_computes_one_input_per_thread(tmp_path: Path, threads: int, given: int, jobs: int) -> None:
    """A child computes one input for each thread at the same time, also on a machine with many cores, unless the site
    sets the number."""
    weights = bundles.tiny_onnx_bundle(tmp_path) / "model.onnx"
    spec = LoadRequest(runtime="onnx", weights=str(weights), threads=threads, sequences_max=given)
    runtime = OnnxRuntime()
    assert jobs == concurrent_jobs(spec, runtime.load(spec))
    runtime.close()


def opened(folder: Path, threads: int = 1) -> OnnxRuntime:
    """Load a bundle directory and attach it as "a"."""
    runtime = OnnxRuntime()
    details = runtime.load(LoadRequest(runtime="onnx", weights=str(folder / "model.onnx"), threads=threads))
    assert str(threads) == details["threads"]
    attach(runtime, "a", folder)
    return runtime


def attach(runtime: OnnxRuntime, digest: str, folder: Path) -> None:
    """Attach a bundle directory to the loaded weights."""
    runtime.attach(digest, bundles.manifest_of(folder), bundles.paths_of(folder))


def submit(runtime: OnnxRuntime, texts: list[str], digest: str = "a") -> None:
    """Submit texts as jobs "0", "1", ..."""
    for i, text in enumerate(texts):
        runtime.submit(JobRequest(job_id=str(i), digest=digest, text=text))


def answers(runtime: OnnxRuntime, texts: list[str], digest: str = "a") -> list[JobResult | FailureReport]:
    """Compute texts together; return the answers in their order."""
    submit(runtime, texts, digest)
    events = []
    while runtime.busy:
        events += runtime.step()
    return sorted(events, key=lambda event: int(event.job_id))


def refuse(folder: Path, message: str) -> None:
    """Require that a bundle is refused at load or attach with this message."""
    with pytest.raises(ModelLoadFailed) as caught:
        opened(folder)
    assert message in caught.value.message


def rebuilt(folder: Path, change) -> Path:
    """Let `change` edit the bundle's graph in place."""
    model = onnx.load(folder / "model.onnx")
    change(model)
    onnx.save(model, folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> OnnxRuntime:
    """A random classifier."""
    return opened(bundles.tiny_onnx_bundle(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def embedder(tmp_path_factory) -> OnnxRuntime:
    """A random embedder, which computes inputs together."""
    return opened(bundles.tiny_onnx_bundle(tmp_path_factory.mktemp("embedder"), "embed"))


@pytest.fixture(scope="module")
def minilm(tmp_path_factory) -> OnnxRuntime:
    """all-MiniLM-L6-v2 as an embedder."""
    return opened(bundles.minilm_bundle(tmp_path_factory.mktemp("minilm")))


def test_batch_is_computed_in_one_step(embedder):
    """Up to 8 waiting jobs are computed in one step, the oldest among them; the ninth waits."""
    submit(embedder, ["refund"] * 9)
    assert [str(i) for i in range(8)] == [event.job_id for event in embedder.step()]
    assert ["8"] == [event.job_id for event in embedder.step()]


def test_batch_has_jobs_of_one_bundle(embedder, tmp_path):
    """Jobs of another bundle wait for a separate step, which starts as soon as one of them is the oldest."""
    attach(embedder, "b", bundles.tiny_onnx_bundle(tmp_path, "embed", version="2.0.0"))
    for job_id, digest, text in [
        ("short", "a", "no"),
        ("other", "b", "no"),
        *((f"long{i}", "a", "no " * 60) for i in range(8)),
    ]:
        embedder.submit(JobRequest(job_id=job_id, digest=digest, text=text))
    first = [event.job_id for event in embedder.step()]
    assert "short" == first[0]
    assert "other" not in first
    assert ["other"] == [event.job_id for event in embedder.step()]
    while embedder.busy:
        embedder.step()
    embedder.detach("b")


def test_idle_workers_share_waiting_jobs(tmp_path):
    """Eight jobs that wait for two idle workers are split into two batches of four."""
    runtime = opened(bundles.tiny_onnx_bundle(tmp_path, "embed"), threads=2)
    submit(runtime, ["refund"] * 8)
    first = runtime.step()
    assert 0 == len(first) % 4
    while runtime.busy:
        first += runtime.step()
    assert {str(i) for i in range(8)} == {event.job_id for event in first}
    assert 2 == len({event.prefill_ms for event in first})
    runtime.close()


@pytest.fixture
def at_work(tmp_path):
    """A runtime with three threads, two of which compute the jobs "0" and "1"; its mailbox is always readable."""
    runtime = opened(bundles.tiny_onnx_bundle(tmp_path), threads=3)
    runtime.mailbox = os.eventfd(1)
    submit(runtime, ["a b c " * 168] * 2)
    events = runtime.step()
    yield runtime, events
    runtime.close()
    os.close(runtime.mailbox)


def test_new_job_starts_next_to_running_batches(at_work):
    """A step ends when the mailbox has a message, and the job that arrived is computed by an idle thread."""
    runtime, events = at_work
    runtime.submit(JobRequest(job_id="new", digest="a", text="no"))
    while runtime.busy:
        events += runtime.step()
    assert ["0", "1", "new"] == sorted(event.job_id for event in events)


@pytest.mark.parametrize("drop", ["cancel", "detach", "replace"])
def test_job_dropped_while_running_ends_once(at_work, drop):
    """A job that is cancelled or detached in a running batch ends once, even if its id is used again meanwhile."""
    runtime, events = at_work
    events += runtime.detach("a") if drop == "detach" else runtime.cancel("0")
    ids = ["0", "1"]
    if drop == "replace":
        submit(runtime, ["no"])
        ids = ["0", "0", "1"]
    while runtime.busy:
        events += runtime.step()
    assert ids == sorted(event.job_id for event in events)


def test_answer_has_tokens_and_milliseconds(tiny):
    """An answer has its number of tokens, special ones included, and the milliseconds of its run."""
    (done,) = answers(tiny, ["no"])
    assert 4 == done.input_tokens
    assert done.prefill_ms > 0


def test_truncation_and_padding_of_the_tokenizer_are_disabled(tiny):
    """A tokenizer.json that would truncate or pad texts to 16 tokens does neither."""
    assert [3, 42] == [done.input_tokens for done in answers(tiny, ["a", "ab" * 20])]


def test_special_tokens_count_against_the_limit(tmp_path):
    """A text fits if its tokens and the model's special tokens are within the limit."""
    runtime = opened(bundles.tiny_onnx_bundle(tmp_path, task={"limits": {"input_tokens_max": 5}}))
    assert 5 == answers(runtime, ["abc"])[0].input_tokens
    with pytest.raises(InputTooLong, match="the input has 6 tokens; the limit is 5"):
        answers(runtime, ["abcd"])


def test_absurd_lengths_are_refused_before_tokenization(tiny):
    """A text with more characters per allowed token than any language needs is refused with the count before it is
    tokenized."""
    length = 512 * CHARACTERS_PER_TOKEN_MAX + 1
    with pytest.raises(InputTooLong) as caught:
        answers(tiny, ["a" * length])
    assert {"characters": str(length), "characters_limit": str(length - 1), "limit": "512"} == caught.value.metadata


def test_text_that_the_tokenizer_drops_is_empty(tiny):
    """A text of control characters, which gives no token, is refused as empty."""
    with pytest.raises(EmptyInput):
        answers(tiny, ["\u200b\u0000"])


def test_job_that_cannot_be_computed_fails_alone(tmp_path):
    """A text with a token that the model does not have fails; the other jobs of its batch are answered."""
    folder = bundles.tiny_onnx_bundle(tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zebra"] = 9_999
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    events = answers(opened(folder), ["refund", "zebra", "price"])
    assert [JobResult, FailureReport, JobResult] == [type(event) for event in events]
    assert ("MODEL_FAILED", {"tokens": "3"}) == (events[1].reason, events[1].metadata)


def test_nan_result_fails_only_that_job(tmp_path):
    """A text for which the model computes NaN fails; the other jobs of its batch are answered."""
    weights = bert_onnx.random_weights(bert_onnx.TINY, outputs=len(bundles.INTENTS))
    letter = list(json.loads(bert_onnx.tiny_tokenizer())["model"]["vocab"]).index("q")
    weights["embeddings.word_embeddings.weight"][letter] = np.nan
    folder = bundles.tiny_onnx_bundle(tmp_path)
    (folder / "model.onnx").write_bytes(bert_onnx.build(bert_onnx.TINY, weights, "classify"))
    events = answers(opened(folder), ["refund", "q", "price"])
    assert [JobResult, FailureReport, JobResult] == [type(event) for event in events]
    assert "not finite" in events[1].message


def test_dynamically_quantized_models_compute_one_at_a_time(tmp_path):
    """A dynamically quantized model, whose answers would depend on the batch, computes inputs one at a time with the
    same bits."""
    folder = bundles.tiny_onnx_bundle(tmp_path)
    quantized = tmp_path / "int8.onnx"
    quantize_dynamic(folder / "model.onnx", quantized, weight_type=QuantType.QInt8)
    quantized.replace(folder / "model.onnx")
    runtime = opened(folder)
    texts = ["refund", "a much longer text with other letters in it, 42", "no"]
    alone = [answers(runtime, [text])[0].scores for text in texts]
    assert alone == [done.scores for done in answers(runtime, texts)]


def test_wrong_label_count_is_refused(tmp_path):
    """A manifest with another number of labels than the model has outputs is refused with both numbers."""
    folder = bundles.tiny_onnx_bundle(tmp_path, labels=("yes", "no"))
    refuse(folder, "the model has 8 outputs and the manifest has 2 labels")


def test_redaction_model_that_replaces_everything_is_refused(tmp_path):
    """A model that marks most of some texts without personal data is refused at attach, because it would leave nothing
    of a text."""
    folder = bundles.tiny_onnx_bundle(tmp_path, "redact", redaction={"cutoff": 0.01})
    refuse(folder, "characters of texts without personal data; at most 50% is allowed")


def test_redaction_model_with_other_tags_is_refused(tmp_path):
    """A redaction manifest with another number of tags than the model has outputs is refused."""
    folder = bundles.tiny_onnx_bundle(tmp_path, "redact", labels=("O", "B-NAME"))
    refuse(folder, "the model has 5 outputs and the manifest has 2 labels")


def test_kind_that_does_not_suit_the_model_is_refused(tmp_path):
    """A classify task is refused on a model with one output for each token."""
    folder = bundles.tiny_onnx_bundle(tmp_path)
    (folder / "model.onnx").write_bytes(bundles.tiny_onnx("extract"))
    refuse(folder, "the model's output has 3 dimensions, which does not suit 'classify'")


def test_limit_over_the_models_positions_is_refused(tmp_path):
    """A manifest that allows more tokens than the model has positions is refused."""
    folder = bundles.tiny_onnx_bundle(tmp_path, task={"limits": {"input_tokens_max": 600}})
    refuse(folder, "the model does not compute 600 tokens; the manifest allows 600")


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff\xfe"], ids=["empty", "no model", "text", "bytes"])
def test_invalid_tokenizer_is_refused(tmp_path, content):
    """A bundle whose tokenizer.json is not a tokenizer is refused, and the error names the file."""
    folder = bundles.tiny_onnx_bundle(tmp_path)
    (folder / "tokenizer.json").write_bytes(content)
    refuse(folder, "tokenizer tokenizer.json is not a tokenizer.json")


def test_tokenizer_without_its_unknown_token_is_refused(tmp_path):
    """A bundle is refused with the tokenizer library's message if its tokenizer cannot read the first unknown word."""
    bundle = bundles.tiny_onnx_bundle(tmp_path)
    tokenizer = json.loads((bundle / "tokenizer.json").read_text())
    tokenizer["model"]["unk_token"] = "[GONE]"
    del tokenizer["model"]["vocab"]["##r"]
    (bundle / "tokenizer.json").write_text(json.dumps(tokenizer))
    refuse(bundle, "the tokenizer of the bundle cannot read a text: WordPiece error: Missing [UNK] token")


def test_text_that_the_tokenizer_cannot_read_fails_alone(tmp_path):
    """If only a caller's text has a word that the tokenizer cannot read, that job fails with the reason and others are
    answered."""
    bundle = bundles.tiny_onnx_bundle(tmp_path)
    tokenizer = json.loads((bundle / "tokenizer.json").read_text())
    tokenizer["model"]["unk_token"] = "[GONE]"
    (bundle / "tokenizer.json").write_text(json.dumps(tokenizer))
    runtime = opened(bundle)
    with pytest.raises(ModelFailed, match="cannot read a text"):
        submit(runtime, ["a refund \u2603"])
    assert isinstance(answers(runtime, ["a refund"])[0], JobResult)


def test_missing_tokenizer_is_refused(tmp_path):
    """A bundle without its tokenizer file is refused with the system's reason."""
    folder = bundles.tiny_onnx_bundle(tmp_path)
    (folder / "tokenizer.json").unlink()
    refuse(folder, "tokenizer tokenizer.json cannot be read: No such file or directory")


@pytest.mark.parametrize("content", [b"\0" * 64, b"GGUF" + b"\1" * 200, b"hello, this is text"])
def test_file_that_is_not_a_model_is_refused(tmp_path, content):
    """A file that is not an ONNX model is refused with its size and a plain message."""
    folder = bundles.tiny_onnx_bundle(tmp_path)
    (folder / "model.onnx").write_bytes(content)
    refuse(folder, f"model.onnx ({len(content)} bytes) is not an ONNX model, or it is truncated")


def test_truncated_model_is_refused(tmp_path):
    """A model file that is truncated at any position is refused."""
    folder = bundles.tiny_onnx_bundle(tmp_path)
    whole = (folder / "model.onnx").read_bytes()
    for size in itertools.chain(range(1, 40), range(40, len(whole), len(whole) // 60), [len(whole) - 1]):
        (folder / "model.onnx").write_bytes(whole[:size])
        with pytest.raises(ModelLoadFailed, match=r"model\.onnx"):
            opened(folder)


def test_model_with_unknown_inputs_is_refused(tmp_path):
    """A model with an input that encoders do not have is refused, and the error names it."""

    def rename(model):
        model.graph.input[2].name = "pixel_values"
        for node in model.graph.node:
            node.input[:] = ["pixel_values" if name == "token_type_ids" else name for name in node.input]

    folder = rebuilt(bundles.tiny_onnx_bundle(tmp_path), rename)
    refuse(folder, "model.onnx asks for pixel_values; an encoder takes input_ids, attention_mask, token_type_ids")


def test_model_without_attention_mask_is_refused(tmp_path):
    """A model without an attention mask, whose scores would depend on padding, is refused."""

    def without(model):
        model.graph.input.pop(1)
        model.graph.initializer.append(helper.make_tensor("attention_mask", TensorProto.INT64, [1, 1], [1]))

    refuse(rebuilt(bundles.tiny_onnx_bundle(tmp_path), without), "model.onnx does not take attention_mask")


def test_unknown_operators_are_refused(tmp_path):
    """A model that needs a custom operator is refused, and the error names it."""

    def exotic(model):
        model.graph.node[0].op_type, model.graph.node[0].domain = "Exotic", "vendor"
        model.opset_import.append(helper.make_opsetid("vendor", 1))

    refuse(rebuilt(bundles.tiny_onnx_bundle(tmp_path), exotic), "Exotic")


@pytest.mark.parametrize("location", ["../secret.bin", "absent.bin", "/etc/hostname"])
def test_data_outside_the_file_is_refused(tmp_path, location):
    """A model with weights in a file outside its folder, or in one that does not exist, is refused."""
    (tmp_path / "secret.bin").write_bytes(b"\1" * 65_536)

    def point_outside(model):
        tensor = next(each for each in model.graph.initializer if len(each.raw_data) > 2048)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location

    refuse(rebuilt(bundles.tiny_onnx_bundle(tmp_path / "bundle"), point_outside), "model.onnx does not load")


def test_each_bundle_uses_its_own_tokenizer(tiny, tmp_path):
    """Two bundles on one base model can have different tokenizers, and each text is read with that of its bundle."""
    folder = bundles.tiny_onnx_bundle(tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    attach(tiny, "b", folder)
    assert [3, 5] == [answers(tiny, ["ABC"], digest)[0].input_tokens for digest in ("b", "a")]
    tiny.detach("b")


def test_similar_sentences_have_similar_vectors(minilm):
    """all-MiniLM-L6-v2 gives sentences of the same meaning nearer vectors than sentences of different meaning."""
    texts = [
        "When do you close today?",
        "What are your opening hours?",
        "My toaster is broken.",
        "The toaster stopped working.",
    ]
    vectors = np.stack([np.frombuffer(done.vector, "<f4") for done in answers(minilm, texts)])
    cosine = vectors @ vectors.T
    assert min(cosine[0, 1], cosine[2, 3]) > max(cosine[0, 2], cosine[0, 3], cosine[1, 2], cosine[1, 3]) + 0.1


def test_vectors_equal_those_computed_separately(minilm):
    """Vectors with batching, masks and pooling equal those of each text computed separately and scaled to length 1."""
    texts = [text for text, _ in pos_intents.held_out()[:10]]
    by_hand = pos_intents.mean_vectors(bundles.minilm_onnx("hidden"), texts)
    by_hand /= np.linalg.norm(by_hand, axis=1, keepdims=True)
    vectors = np.stack([np.frombuffer(done.vector, "<f4") for done in answers(minilm, texts)])
    np.testing.assert_allclose(vectors, by_hand, rtol=0, atol=1e-5)


def test_special_words_in_a_text_are_plain_text(minilm):
    """A text that contains [SEP] is read as these characters, not as a separator."""
    plain, forged = answers(minilm, ["lamp SEP kettle", "lamp [SEP] kettle"])
    assert plain.input_tokens + 2 == forged.input_tokens


def test_minilm_classifies_intents(tmp_path):
    """A linear head on all-MiniLM-L6-v2 classifies at least 70% of held-out sentences of 8 intents correctly."""
    runtime = opened(bundles.minilm_bundle(tmp_path, "classify"))
    examples = pos_intents.held_out()
    done = answers(runtime, [text for text, _ in examples])
    right = [
        bundles.INTENTS[int(np.argmax(each.scores))] == intent for each, (_, intent) in zip(done, examples, strict=True)
    ]
    assert np.mean(right) >= 0.7
