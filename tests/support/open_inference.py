"""A client of the Open Inference Protocol for tests, without a library: messages from the daemon's own private pool.

with opened(daemon.inference) as calls:
    answer = calls("ModelInfer", infer("intent", "a refund, please"))
    assert [b"refund"] == strings(answer, "label")
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grpc
from google.protobuf import message_factory

from edge_agent.server.open_inference import oip_requests
from edge_agent.server.open_inference.oip_tensors import SERVICE, pb

CALL_SECONDS_MAX = 60.0
Calls = Callable[..., Any]


@contextlib.contextmanager
def opened(target: str) -> Iterator[Calls]:
    """Connect; yields what makes a call by its name: with one request, or, to a stream, with several."""
    with grpc.insecure_channel(target) as channel:

        def call(name: str, request: Any = None, **more: Any) -> Any:
            method = SERVICE.methods_by_name[name]
            make: Any = channel.stream_stream if method.client_streaming else channel.unary_unary
            answers = message_factory.GetMessageClass(method.output_type).FromString
            path = f"/{SERVICE.full_name}/{name}"
            asked = message_factory.GetMessageClass(method.input_type)() if request is None else request
            stub = make(path, request_serializer=_serialized, response_deserializer=answers)
            return stub(asked, **{"timeout": CALL_SECONDS_MAX, **more})

        yield call


def _serialized(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def infer(model: str, *texts: str, **more: Any) -> Any:
    """Make a request, raw, as tritonclient does."""
    raw = b"".join(struct.pack("<I", len(each.encode())) + each.encode() for each in texts)
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[raw], **more)
    request.inputs.add(name="text", datatype="BYTES", shape=[len(texts), 1])
    return request


def raw(answer: Any, name: str) -> bytes:
    """Return the bytes of an output."""
    place = [output.name for output in answer.outputs].index(name)
    return bytes(answer.raw_output_contents[place])


def strings(answer: Any, name: str) -> list[str]:
    """Return the elements of an output of type BYTES."""
    return [each.decode() for each in oip_requests.split_raw_strings(raw(answer, name), 10**6)]


def floats(answer: Any, name: str) -> list[float]:
    """Return the elements of an output of type FP32."""
    return [value for (value,) in struct.iter_unpack("<f", raw(answer, name))]


def final(responses: Iterable[Any]) -> list[bool]:
    """Return for each response of a stream whether it is marked as the last."""
    return [response.infer_response.parameters["triton_final_response"].bool_param for response in responses]


def hints(models: Sequence[str]) -> dict[str, list[str]]:
    """Return values of a ModelInferRequest's fields that lead further than chance would, for `hostile_messages`.

    They are what stands on the wire, as text: all of it is ASCII.
    """
    tensors = [({"name": "text", "datatype": "BYTES", "shape": shape}) for shape in ([1], [1, 1], [1], [2], [0])]
    options = ("on_low_confidence", "request_id", "output_tokens_max", "priority")
    parameters: list[dict[str, Any]] = [{name: {"string_param": "abstain"}} for name in options]
    parameters += [{oip_requests.EMPTY_FINAL_RESPONSE: {"bool_param": True}}] * 4
    parameters += [{"output_tokens_max": {"int64_param": 3}}, {"escalate": {"bool_param": True}}]
    outputs = ["route", "prediction_id", "degraded", "label", "text", "logits"]
    return {
        "model_name": [*models, *models, "steady"],
        "model_version": ["", "", "1000000", "7"],
        "inputs": [_field("inputs", [tensor]) for tensor in tensors],
        "outputs": [_field("outputs", [{"name": name}]) for name in outputs],
        "parameters": [_field("parameters", each) for each in parameters],
        "raw_input_contents": [
            _framed("one two"),
            _framed("a", "b"),
            _framed("a refund of 12"),
            _framed(" "),
            "\7\0\0",
        ],
    }


def _field(name: str, value: Any) -> str:
    """Return the wire bytes of a field, without its tag and length."""
    whole = _serialized(pb.ModelInferRequest(**{name: value}))
    return whole[2:].decode()


def _framed(*texts: str) -> str:
    return "".join(struct.pack("<I", len(each)).decode() + each for each in texts)
