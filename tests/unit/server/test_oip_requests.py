"""Parsing of Open Inference Protocol requests: supported content, and refusals that name the field."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import InvalidRequest
from edge_agent.server.open_inference import oip_requests, oip_tensors
from edge_agent.server.open_inference.oip_tensors import pb
from edge_agent.v1 import task_pb2


def framed(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(each)) + each for each in elements)


HELLO = framed(b"hello")


def request(shape: Any = (1, 1), raw: Any = (HELLO,), **tensor: Any) -> Any:
    made = pb.ModelInferRequest(model_name="intent", raw_input_contents=raw)
    made.inputs.add(**{"name": "text", "datatype": "BYTES", "shape": shape, **tensor})
    return made


def typed(*elements: bytes, shape: Any = None, **more: Any) -> Any:
    return request(shape or [len(elements)], (), contents={"bytes_contents": elements, **more})


@pytest.mark.parametrize(
    ("asked", "texts"),
    [
        (request(), ["hello"]),
        (request([1]), ["hello"]),
        (request([2, 1], [framed(b"a", "ü".encode())]), ["a", "ü"]),
        (request([0, 1], [b""]), []),
        (request([2], [framed(b"", b"\0")]), ["", "\0"]),
        (request(parameters={"binary_data_size": {"int64_param": len(HELLO)}}), ["hello"]),
        (typed(b"a", b"b"), ["a", "b"]),
        (typed(b"a", b"b", shape=[2, 1]), ["a", "b"]),
    ],
)
def test_texts_are_parsed_from_raw_and_typed_contents(asked: Any, texts: list[str]) -> None:
    """Raw and typed contents are supported, the first dimension is the number of texts, and an empty text is kept."""
    assert texts == oip_requests.parse_texts(asked)


def two_inputs() -> Any:
    made = request()
    made.inputs.add(name="text", datatype="BYTES", shape=[1])
    return made


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (pb.ModelInferRequest(), "the request has: none"),
        (two_inputs(), "the request has: 'text', 'text'"),
        (request(name="txt"), "the request has: 'txt'"),
        (request(datatype="FP32"), "is of type BYTES; the request says 'FP32'"),
        (request([]), r"shape \[\]"),
        (request([1, 2]), r"shape \[1, 2\]"),
        (request([1, 1, 1]), r"shape \[1, 1, 1\]"),
        (request([-1]), r"shape \[-1\]"),
        (request([2]), "has 1 elements; by its shape it must have 2"),
        (request([1], [framed(b"a", b"b")]), "has 2 elements; by its shape it must have 1"),
        (request([2**62], [framed(b"a")]), "has 1 elements"),
        (request([1], [b"\5\0\0\0abc"]), "element 1 .* has a length of 5 bytes; 3 are left"),
        (request([1], [b"\1\0"]), "element 1 .* has a length of 1 bytes; 0 are left"),
        (request([1], [framed(b"a") + b"\xff\xff\xff\xff"]), "element 2"),
        (request([1], [framed(b"\xff")]), "not UTF-8"),
        (request([1], [framed(b"a"), framed(b"b")]), "raw_input_contents has 2 entries"),
        (request([1], contents={}), "has contents, too"),
        (request([1], (), contents={"int_contents": [1]}), "its elements are in int_contents"),
        (typed(b"a", fp32_contents=[1.0]), "its elements are in fp32_contents"),
        (request(parameters={"binary_data_size": {"int64_param": 1}}), "is 1; its raw contents have 9"),
        (request(parameters={"shared_memory_region": {"string_param": "x"}}), "'shared_memory_region'"),
    ],
)
def test_invalid_input_is_refused(asked: Any, said: str) -> None:
    """Names, types, shapes, framing and encoding are checked, and the message has the numbers."""
    with pytest.raises(InvalidRequest, match=said):
        oip_requests.parse_texts(asked)


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_raw_strings_are_split_into_their_elements(elements: list[bytes]) -> None:
    """A raw tensor of any bytes is split into the elements that it was made of."""
    assert elements == oip_requests.split_raw_strings(framed(*elements), len(elements))


@given(st.binary(max_size=60), st.integers(0, 4))
def test_hostile_framing_is_split_or_refused(raw: bytes, count: int) -> None:
    """Any bytes raise only InvalidRequest, and at most one element too many is read."""
    with contextlib.suppress(InvalidRequest):
        assert len(oip_requests.split_raw_strings(raw, count)) <= count + 1


def test_responses_use_the_framing_of_requests() -> None:
    """Strings that are encoded for a response can be split like those of a request."""
    assert [b"a", b"", "ü".encode()] == oip_requests.split_raw_strings(oip_tensors.encode_strings(["a", "", "ü"]), 3)


def parameters(**given_: Any) -> Any:
    return pb.ModelInferRequest(parameters=given_).parameters


@pytest.mark.parametrize(
    ("kind", "given_", "fields"),
    [
        ("classify", {}, {}),
        (
            "classify",
            {"on_low_confidence": {"string_param": "abstain"}},
            {"on_low_confidence": task_pb2.ON_LOW_CONFIDENCE_ABSTAIN},
        ),
        (
            "extract",
            {"on_low_confidence": {"string_param": "ESCALATE"}},
            {"on_low_confidence": task_pb2.ON_LOW_CONFIDENCE_ESCALATE},
        ),
        ("embed", {"request_id": {"string_param": "7"}}, {"request_id": "7"}),
        ("generate", {"temperature": {"double_param": 0.5}}, {"temperature": 0.5}),
        ("generate", {"temperature": {"int64_param": 1}}, {"temperature": 1.0}),
        ("generate", {"output_tokens_max": {"uint64_param": 9}}, {"output_tokens_max": 9}),
        ("generate", {"stop": {"string_param": "\n"}}, {"stops": ["\n"]}),
        ("generate", {"escalate": {"bool_param": True}, "seed": {"int64_param": 3}}, {"escalate": True, "seed": 3}),
        ("generate", {oip_requests.EMPTY_FINAL_RESPONSE: {"bool_param": True}}, {}),
    ],
)
def test_parameters_become_options_of_the_inference_api(kind: str, given_: Any, fields: dict[str, Any]) -> None:
    """Integers of either width are accepted, also where a floating-point number is expected."""
    assert fields == oip_requests.parse_parameters(parameters(**given_), kind)


@pytest.mark.parametrize(
    ("kind", "given_", "said", "remedy"),
    [
        ("classify", {"on_low_confidenc": {"bool_param": True}}, "'on_low_confidenc' .* known are: on_low", "correct"),
        ("classify", {"temperature": {"double_param": 1.0}}, "'temperature'", "correct its name"),
        ("embed", {"priority": {"uint64_param": 1}}, "'priority'", "role"),
        ("generate", {"timeout": {"int64_param": 1}}, "'timeout'", "deadline"),
        ("generate", {"escalate": {"string_param": "yes"}}, "must be a bool; it is a string", ""),
        ("generate", {"seed": {"bool_param": True}}, "must be a whole number; it is a bool", ""),
        ("generate", {"seed": {}}, "it is not set", ""),
        ("extract", {"on_low_confidence": {"string_param": "as_mode"}}, "one of abstain, answer, escalate", ""),
    ],
)
def test_unknown_parameter_is_refused(kind: str, given_: Any, said: str, remedy: str) -> None:
    """An unknown parameter is refused by name, also one that other servers have, with a remedy."""
    with pytest.raises(InvalidRequest, match=said) as refused:
        oip_requests.parse_parameters(parameters(**given_), kind)
    assert remedy in refused.value.remedy


def test_requested_outputs_are_returned_in_order() -> None:
    """Without names the default outputs are returned; an unknown or repeated output, or one with parameters, is
    refused."""
    known = oip_tensors.OUTPUTS["classify"]
    made = pb.ModelInferRequest(outputs=[{"name": "scores"}, {"name": "label"}])
    assert ["scores", "label"] == oip_requests.requested_outputs(made, known, known)
    assert ["label"] == oip_requests.requested_outputs(pb.ModelInferRequest(), known, ["label"])
    for outputs, said in (
        ([{"name": "label"}, {"name": "label"}], "an output is asked for twice"),
        ([{"name": "logits"}], "output 'logits' is unknown for this model; known are: label, "),
        ([{"name": "label", "parameters": {"classification": {"int64_param": 2}}}], "'classification' is unknown for"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            oip_requests.requested_outputs(pb.ModelInferRequest(outputs=outputs), known, known)


@pytest.mark.parametrize(("said", "number"), [("", None), ("1", 1), ("1002003", 1002003), ("007", 7)])
def test_version_is_a_whole_number(said: str, number: int | None) -> None:
    """A model version is a whole number; an empty one means the active version."""
    assert number == oip_requests.parse_version(said)


@pytest.mark.parametrize("said", ["0", "-1", "1.2.0", "latest", "1" * 20, "१", " 1"])
def test_invalid_version_is_refused(said: str) -> None:
    """A version that is not a whole number above 0 is refused, as Triton does."""
    with pytest.raises(InvalidRequest, match="whole number above 0"):
        oip_requests.parse_version(said)
