"""Translation between the API's messages and the client's values. Pure.

The values of a status or a report have the fields of their messages, so `value_of` translates by name. The answers of a
device are on the path of every call, and are translated field by field: results.py.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from datetime import UTC
from typing import Any, Literal, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from edge_agent.client.task_description import BundleRef, Task
from edge_agent.v1 import task_pb2

Mode = Literal["bootstrap", "shadow", "hybrid", "local"]
# Fields of values that have another name than the field of the message.
_FIELD_NAMES = {
    "since": "since_time",
    "ended": "end_time",
    "last_contact": "contact_time",
    "retry_at": "retry_time",
    "refreshed_at": "refresh_time",
    "large_model": "escalation",
}
_EMPTY_WHEN_UNSET = ("UpdateState", "ReviewStream")
_T = TypeVar("_T")


def value_of(kind: type[_T], message: Any) -> _T:
    """Translate a message into a value class: each field by its name.

    An enumeration becomes its word, a time a datetime, a message the value class of the field; an optional field that
    is not set becomes None.
    """
    translate: Any = SPECIAL.get(kind)
    return typing.cast(_T, translate(message)) if translate else kind(**fields_by_name(kind, message))


def fields_by_name(kind: type, message: Any) -> dict[str, Any]:
    """Return the fields of a value that its message has, translated."""
    return {name: read(message) for name, read in field_readers(kind, message.DESCRIPTOR)}


@functools.cache
def field_readers(kind: type, descriptor: Any) -> list[tuple[str, Callable[[Any], Any]]]:
    """Return how to read each field of a value from its message; a field without one keeps its default."""
    hints = typing.get_type_hints(kind)
    readers = []
    for field in dataclasses.fields(kind):
        source = descriptor.fields_by_name.get(_FIELD_NAMES.get(field.name, field.name))
        if source is not None:
            readers.append((field.name, _reader(source, hints[field.name])))
    return readers


def _reader(field: FieldDescriptor, hint: Any) -> Callable[[Any], Any]:
    name, is_repeated = field.name, field.is_repeated
    if is_repeated and field.message_type and _is_map_entry(field.message_type):
        return lambda message: dict(getattr(message, name))
    read_item = _item_reader(field, _item_type(hint))
    if is_repeated:
        return lambda message: tuple([read_item(each) for each in getattr(message, name)])
    if field.has_presence and type(None) in typing.get_args(hint):
        return lambda message: read_item(getattr(message, name)) if message.HasField(name) else None
    return lambda message: read_item(getattr(message, name))


def _is_map_entry(message: Descriptor) -> bool:
    """Return whether a map's entries are of this type. To ask for its options would load the types of all options."""
    return message.has_options and [field.name for field in message.fields] == ["key", "value"]


def _item_type(hint: Any) -> Any:
    """Return the class in `tuple[X, ...]`, in `X | None`, or the hint itself."""
    arguments = [each for each in typing.get_args(hint) if each not in (Ellipsis, types.NoneType)]
    return arguments[0] if arguments and typing.get_origin(hint) is not dict else hint


def _item_reader(field: FieldDescriptor, kind: Any) -> Callable[[Any], Any]:
    if field.enum_type:
        return functools.partial(enum_word, field.enum_type)
    if field.message_type and field.message_type.full_name == "google.protobuf.Timestamp":
        return lambda message: message.ToDatetime(tzinfo=UTC)
    if field.message_type and isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return lambda value: value_of(kind, value)
    return lambda value: value


@functools.lru_cache(256)
def enum_word(enum: Any, number: int) -> str:
    """Return the word of a value of an enumeration's descriptor without the prefix; digits for an unknown number."""
    if number == 0 and enum.name in _EMPTY_WHEN_UNSET:
        return ""
    value = enum.values_by_number.get(number)
    return value.name.removeprefix(_prefix(enum.name)) if value else str(number)


@functools.cache
def _prefix(name: str) -> str:
    """Return the prefix of an enumeration's words: TASK_KIND_ of TaskKind."""
    return "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in name)[1:] + "_"


def bundle_ref(ref: task_pb2.BundleRef) -> BundleRef:
    """Translate."""
    return BundleRef(ref.task, ref.version, ref.digest)


def task(message: task_pb2.Task, record_schema: str = "") -> Task:
    """Translate."""
    limits = message.limits
    return Task(
        **fields_by_name(Task, message)
        | {"mode": enum_word(task_pb2.Mode.DESCRIPTOR, message.mode) if message.mode else "LOCAL"}
        | {name: getattr(limits, name) for name in ("input_tokens_max", "output_tokens_max", "inputs_max")},
        record_schema=record_schema,
    )


SPECIAL: dict[type, Callable[[Any], Any]] = {BundleRef: bundle_ref, Task: task}
"""Values with a field that is not a field of their message; results.py adds its own."""
