"""Parses requests of the Open Inference Protocol into texts and options of our own API. Pure.

Everything unknown is refused, and the error names it: a parameter or tensor that was silently ignored would mislead its
caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from edge_agent.errors import InvalidRequest
from edge_agent.server import messages

INPUT = "text"
SHOWN_CHARS_MAX = 64
LENGTH_BYTES = 4
LOW_CONFIDENCE_POLICIES = ("abstain", "answer", "escalate")
EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"
"""Sent by Triton's clients in streams; ignored, because the last response is always marked."""
RAW_BYTES = "binary_data_size"
"""Sent by KServe's client with a raw input: the number of its bytes."""


class RequestParameter(NamedTuple):
    """One parameter: the field of our own request that it fills, and how its value is read."""

    field: str
    types: tuple[type, ...]
    read: Callable[[Any], Any] = lambda value: value


def _low_confidence_policy(value: str) -> int:
    if value.lower() not in LOW_CONFIDENCE_POLICIES:
        known = ", ".join(LOW_CONFIDENCE_POLICIES)
        raise InvalidRequest(f"parameter 'on_low_confidence' is {_quote(value)}; it must be one of {known}")
    return next(number for number, policy in messages.LOW_CONFIDENCE_POLICIES.items() if policy == value.lower())


_REQUEST_ID = RequestParameter("request_id", (str,))
_GRADED = {
    "on_low_confidence": RequestParameter("on_low_confidence", (str,), _low_confidence_policy),
    "request_id": _REQUEST_ID,
}
PARAMETERS: Mapping[str, Mapping[str, RequestParameter]] = {
    "classify": _GRADED,
    "extract": _GRADED,
    "embed": {"request_id": _REQUEST_ID},
    "generate": {
        "output_tokens_max": RequestParameter("output_tokens_max", (int,)),
        "temperature": RequestParameter("temperature", (int, float), float),
        "seed": RequestParameter("seed", (int,)),
        "stop": RequestParameter("stops", (str,), lambda value: [value]),
        "escalate": RequestParameter("escalate", (bool,)),
    },
}
"""By the kind of the task; docs/open-inference-protocol.md explains what each does."""
REMEDIES = {
    "priority": "Leave it out: the caller's role gives the priority.",
    "timeout": "Set the call's own deadline instead (client_timeout): it reaches the model.",
    "classification": "Leave it out: the outputs 'label' and 'scores' have the same content.",
    **dict.fromkeys(
        ("sequence_id", "sequence_start", "sequence_end"), "Leave it out: requests do not belong together."
    ),
    "shared_memory_region": "Send the tensor in the request.",
}
"""What replaces parameters of other servers."""


def parse_parameters(parameters: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Read a request's parameters: the fields of our own request, with their values. Raises InvalidRequest."""
    known, fields = PARAMETERS[kind], {}
    for name in parameters:
        if name == EMPTY_FINAL_RESPONSE:
            continue
        option = known.get(name)
        if option is None:
            raise _unknown_error(f"parameter {_quote(name)}", "for a task of this kind", name, known)
        choice = parameters[name].WhichOneof("parameter_choice")
        value = getattr(parameters[name], choice) if choice else None
        if type(value) not in option.types:
            allowed = " or ".join(_TYPE_NAMES[each] for each in option.types)
            actual = _TYPE_NAMES.get(type(value), "not set")
            raise InvalidRequest(f"parameter {name!r} must be {allowed}; it is {actual}")
        fields[option.field] = option.read(value)
    return fields


_TYPE_NAMES: dict[type, str] = {bool: "a bool", int: "a whole number", float: "a number", str: "a string"}


def _unknown_error(what: str, where: str, name: str, known: Mapping[str, object]) -> InvalidRequest:
    known_names = f"known are: {', '.join(known)}" if known else "none is known"
    replacement = REMEDIES.get(name, "")  # also in the message: tritonclient shows nothing else
    remedy = replacement or "Leave it out, or correct its name; docs/open-inference-protocol.md has them all."
    hint = f". {replacement.removesuffix('.')}" if replacement else ""
    message = f"{what} is unknown {where}; {known_names}{hint}"
    return InvalidRequest(message, remedy=remedy, parameter=name[:SHOWN_CHARS_MAX])


def parse_version(requested: str) -> int | None:
    """Read the version that a request names; None = the active one. Raises InvalidRequest."""
    if not requested:
        return None
    if not re.fullmatch("[0-9]{1,19}", requested, re.ASCII) or not int(requested):
        message = f"the version is {_quote(requested)}; it must be a whole number above 0, or empty for the active one"
        raise InvalidRequest(message)
    return int(requested)


def requested_outputs(request: Any, known: Mapping[str, object], defaults: Iterable[str]) -> list[str]:
    """Return the names of the outputs that a request wants, in its order; the usual ones if it names none.

    Raises:
        InvalidRequest: it names one that is not known, or one twice.
    """
    for output in request.outputs:
        if output.name not in known:
            raise _unknown_error(f"output {_quote(output.name)}", "for this model", output.name, known)
        _refuse_parameters(output.parameters, f"output {output.name!r}")
    names = [output.name for output in request.outputs]
    if len(set(names)) < len(names):
        raise InvalidRequest("an output is asked for twice", remedy="Name each output once.")
    return names or list(defaults)


def _refuse_parameters(parameters: Iterable[str], whose: str) -> None:
    for name in sorted(parameters):
        raise _unknown_error(f"parameter {_quote(name)}", f"for {whose}", name, {})


def parse_texts(request: Any) -> list[str]:
    """Read the texts of a request. Raises InvalidRequest."""
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        names = ", ".join(_quote(tensor.name) for tensor in request.inputs[:4]) or "none"
        raise InvalidRequest(f"a model here has one input, {INPUT!r}; the request has: {names}")
    tensor = request.inputs[0]
    if tensor.datatype != "BYTES":
        raise InvalidRequest(f"input {INPUT!r} is of type BYTES; the request says {_quote(tensor.datatype)}")
    if tensor.parameters:
        _check_parameters(tensor.parameters, sum(map(len, request.raw_input_contents)))
    elements = _elements(request, tensor, _text_count(list(tensor.shape)))
    try:
        return [element.decode() for element in elements]
    except UnicodeDecodeError:
        raise InvalidRequest(f"an element of input {INPUT!r} is not UTF-8 text") from None


def _check_parameters(parameters: Mapping[str, Any], raw_bytes: int) -> None:
    _refuse_parameters(set(parameters) - {RAW_BYTES}, f"input {INPUT!r}")
    size = parameters[RAW_BYTES].int64_param if RAW_BYTES in parameters else raw_bytes
    if size != raw_bytes:
        raise InvalidRequest(f"parameter {RAW_BYTES!r} of input {INPUT!r} is {size}; its raw contents have {raw_bytes}")


def _text_count(shape: list[int]) -> int:
    """Return how many texts a shape has room for: [N] or [N, 1]."""
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]) or shape[0] < 0:
        dimensions = ", ".join(map(str, shape[:8]))
        raise InvalidRequest(f"input {INPUT!r} has shape [{dimensions}]; it must be [N, 1] or [N]")
    return shape[0]


def _elements(request: Any, tensor: Any, count: int) -> list[bytes]:
    raw = request.raw_input_contents
    if raw and (len(raw) != 1 or tensor.HasField("contents")):
        why = "and the tensor has contents, too" if tensor.HasField("contents") else "and the request one input"
        raise InvalidRequest(
            f"raw_input_contents has {len(raw)} entries, {why}; it must have one entry for each input, and no contents"
        )
    if raw:
        elements = split_raw_strings(raw[0], count)
    else:
        for field, _ in tensor.contents.ListFields():
            if field.name != "bytes_contents":
                raise InvalidRequest(f"input {INPUT!r} is of type BYTES; its elements are in {field.name}")
        elements = list(tensor.contents.bytes_contents)
    if len(elements) != count:
        raise InvalidRequest(f"input {INPUT!r} has {len(elements)} elements; by its shape it must have {count}")
    return elements


def split_raw_strings(raw: bytes, count: int) -> list[bytes]:
    """Split a raw tensor of type BYTES: each element is preceded by its length, four bytes, little-endian.

    Stops one element after `count`, which is enough to refuse the tensor. Raises InvalidRequest.
    """
    elements: list[bytes] = []
    position, size = 0, len(raw)
    while position < size and len(elements) <= count:
        begin = position + LENGTH_BYTES
        length = int.from_bytes(raw[position:begin], "little")
        position = begin + length
        if position > size:
            left = max(size - begin, 0)
            message = f"element {len(elements) + 1} of input {INPUT!r} has a length of {length} bytes; {left} are left"
            raise InvalidRequest(message, remedy="Write the length of each text before it: four bytes, little-endian.")
        elements.append(raw[begin:position])
    return elements


def _quote(text: str) -> str:
    return repr(text[:SHOWN_CHARS_MAX])
