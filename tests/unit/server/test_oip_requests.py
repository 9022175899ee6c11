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
def test_texts_are_read_raw_and_typed(asked: Any, texts: list[str]) -> None:
    """Both forms are understood, the first dimension counts, and an empty element is an element."""
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
def test_what_is_no_input_is_refused_with_the_numbers(asked: Any, said: str) -> None:
    """Names, types, shapes, framing and encoding are checked, and nothing is guessed."""
    with pytest.raises(InvalidRequest, match=said):
        oip_requests.parse_texts(asked)


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_a_raw_tensor_comes_apart_as_it_was_put_together(elements: list[bytes]) -> None:
    """Whatever bytes are in the elements."""
    assert elements == oip_requests.split_raw_strings(framed(*elements), len(elements))


@given(st.binary(max_size=60), st.integers(0, 4))
def test_hostile_framing_is_taken_apart_or_refused(raw: bytes, count: int) -> None:
    """Nothing else comes of it, and no more than one element too many is looked at."""
    with contextlib.suppress(InvalidRequest):
        assert len(oip_requests.split_raw_strings(raw, count)) <= count + 1


def test_strings_are_written_as_they_are_read() -> None:
    """The framing of answers is that of requests."""
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
def test_parameters_become_options_of_the_own_api(kind: str, given_: Any, fields: dict[str, Any]) -> None:
    """Whole numbers of either kind, and whole ones where a number is wanted."""
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
def test_a_parameter_that_is_not_known_is_refused_by_name(kind: str, given_: Any, said: str, remedy: str) -> None:
    """Also one that other servers know; the remedy says what to do instead."""
    with pytest.raises(InvalidRequest, match=said) as refused:
        oip_requests.parse_parameters(parameters(**given_), kind)
    assert remedy in refused.value.remedy


def test_outputs_are_those_that_are_wanted_in_their_order() -> None:
    """The usual ones where none is named; an unknown one is refused, and one with parameters, too."""
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
def test_versions_are_whole_numbers(said: str, number: int | None) -> None:
    """Empty is the active one."""
    assert number == oip_requests.parse_version(said)


@pytest.mark.parametrize("said", ["0", "-1", "1.2.0", "latest", "1" * 20, "१", " 1"])
def test_what_is_no_version_is_refused(said: str) -> None:
    """As Triton refuses it."""
    with pytest.raises(InvalidRequest, match="whole number above 0"):
        oip_requests.parse_version(said)
