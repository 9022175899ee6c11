"""docs/api.md, made from the comments of proto/edge_agent/v1 and the table of roles; `scripts/docs` regenerates it.

A comment of a call ends in a paragraph "Errors: A, B." with the reasons that this call can end with, beside those of
every call; the name of a family of errors stands for all of its reasons. The page links each to docs/errors.md.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

from edge_agent.errors import BY_REASON
from edge_agent.server.roles import METHODS, call_treatment
from tests.support.errors_page import families

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto"
PAGE = ROOT / "docs" / "api.md"
BEGIN, END = "<!-- made by scripts/docs -->", "<!-- end -->"
# Services first, each with its messages; what several use after them, what only daemons speak last.
ORDER = ("inference", "feedback", "admin", "field", "task", "escalation")
EVERY_CALL = ("CERTIFICATE_EXPIRED", "ROLE_MISSING", "REQUEST_INVALID", "DEADLINE_EXPIRED", "CANCELLED")
"""What any call may end with; docs/api.md says so once."""
WORK_CALL = ("CLIENT_RATE_EXCEEDED",)
"""Likewise of calls that a client's rate counts."""
SOCKETS = {"infer": "inference.sock, admin.sock", "feedback": "review.sock", "admin": "admin.sock"}
_F = FieldDescriptorProto
_TYPES = {number: name.removeprefix("TYPE_").lower() for name, number in _F.Type.items()}
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6  # fields of FileDescriptorProto, as in the paths of its comments


@dataclass(frozen=True)
class File:
    """One file of the API, with its comments by path."""

    proto: FileDescriptorProto
    comments: dict[tuple[int, ...], str]

    @property
    def name(self) -> str:
        return Path(self.proto.name).stem

    def said(self, *path: int) -> str:
        """Return the comment at a path, its lines joined, its paragraphs apart."""
        return self.comments.get(path, "")


def load() -> list[File]:
    """Read the files of the API with their comments."""
    names = {path.stem for path in (PROTO / "edge_agent" / "v1").glob("*.proto")}
    assert names == set(ORDER), "a file of the API has no place in ORDER"
    sources = [f"edge_agent/v1/{name}.proto" for name in ORDER]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "api.binpb")
        include = str(files("grpc_tools") / "_proto")
        flags = [f"-I{PROTO}", f"-I{include}", "--include_source_info", f"--descriptor_set_out={out}"]
        assert 0 == protoc.main(["protoc", *flags, *sources])
        found = FileDescriptorSet.FromString(out.read_bytes())
    return sorted(map(_file, found.file), key=lambda each: ORDER.index(each.name))


def _file(proto: FileDescriptorProto) -> File:
    places = proto.source_code_info.location
    return File(proto, {tuple(each.path): _paragraphs(each.leading_comments) for each in places})


def _paragraphs(comment: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", comment)).strip()


# --- what a call can end with -----------------------------------------------------------------------------------------


def named(comment: str) -> list[str]:
    """Return the reasons and families that the comment of a call names, in its order."""
    words = re.search(r"(?:^|\n)Errors: (.*)\.$", comment)
    assert words, f"the comment has no last paragraph 'Errors: A, B.': {comment!r}"
    return [] if words[1].startswith("none") else words[1].split(", ")


def reasons(words: list[str]) -> set[str]:
    """Return the reasons that a name stands for: itself, or those of its family."""
    by_family = {cls.__name__: {r for r, leaf in BY_REASON.items() if issubclass(leaf, cls)} for cls in families()}
    return {reason for word in words for reason in by_family.get(word, {word})}


def documented() -> dict[str, set[str]]:
    """Return, for each call as HTTP/2 names it, the reasons that it may end with."""
    return {path: reasons([*EVERY_CALL, *WORK_CALL, *named(comment)]) for path, comment in calls()}


def calls() -> Iterator[tuple[str, str]]:
    """Yield each call of the daemon with its comment."""
    for file in load():
        for number, service in enumerate(file.proto.service):
            for index, method in enumerate(service.method):
                path = f"/{file.proto.package}.{service.name}/{method.name}"
                if path in METHODS:
                    yield path, file.said(_SERVICES, number, 2, index)


# --- the page ---------------------------------------------------------------------------------------------------------


def page() -> str:
    """Return the page with the reference of today in it."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    made = "\n".join(line for file in load() for line in _file_lines(file))
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.partition(END)[2]}"


def _file_lines(file: File) -> Iterator[str]:
    for number, service in enumerate(file.proto.service):
        yield from _service_lines(file, number, service)
    if not file.proto.service:
        yield from [f"## {file.name}.proto", "", "Messages that several services use.", ""]
    for number, message in enumerate(file.proto.message_type):
        yield from _message_lines(file, number, message)
    for number, enum in enumerate(file.proto.enum_type):
        yield from _enum_lines(file, number, enum)


def _service_lines(file: File, number: int, service: ServiceDescriptorProto) -> Iterator[str]:
    yield from [f"## {service.name}", "", file.said(_SERVICES, number), ""]
    for index, method in enumerate(service.method):
        path = f"/{file.proto.package}.{service.name}/{method.name}"
        comment = file.said(_SERVICES, number, 2, index)
        stream = "stream " if method.server_streaming else ""
        yield from [f"### {method.name}", "", comment.partition("\n\nErrors: ")[0], ""]
        yield f"- `{path}`: {_link(method.input_type)} → {stream}{_link(method.output_type)}"
        yield from [*_access_lines(path), *([f"- Errors: {_errors(comment)}"] if path in METHODS else []), ""]


def _access_lines(path: str) -> Iterator[str]:
    if path not in METHODS:
        yield "- For the daemon `serve` alone, on escalation.sock."
        return
    role = min(METHODS[path])
    counted = ", counts for the client's rate" if call_treatment(path) == "work" else ""
    changes = ", has a line in the audit log" if call_treatment(path) == "change" else ""
    yield f"- Role `{role}`: {SOCKETS[role]}, or TLS with this role{counted}{changes}."


def _errors(comment: str) -> str:
    groups: dict[str, list[str]] = {}
    for word in named(comment):
        family = next(cls.__name__ for cls in families() if word in (cls.__name__, *reasons([cls.__name__])))
        groups.setdefault(family, []).append("any" if word == family else f"`{word}`")
    said = [f"[{family}](errors.md#{family.lower()}): {', '.join(words)}" for family, words in groups.items()]
    return "; ".join(said) or "none specific to this call"


def _message_lines(file: File, number: int, message: DescriptorProto) -> Iterator[str]:
    yield from [f"### {message.name}", "", file.said(_MESSAGES, number), ""]
    if message.field:
        yield from ["| field | no. | type | |", "|---|---|---|---|"]
    for index, field in enumerate(message.field):
        group = file.said(_MESSAGES, number, 8, field.oneof_index) if _in_oneof(field) else ""
        one_of = f" One of `{message.oneof_decl[field.oneof_index].name}`: {group}" if group else ""
        said = " ".join(f"{file.said(_MESSAGES, number, 2, index)}{one_of}".split())
        yield f"| `{field.name}` | {field.number} | {_type(field, message)} | {said} |"
    yield ""


def _enum_lines(file: File, number: int, enum: EnumDescriptorProto) -> Iterator[str]:
    yield from [f"### {enum.name}", "", file.said(_ENUMS, number), "", "| value | no. | |", "|---|---|---|"]
    for index, value in enumerate(enum.value):
        yield f"| `{value.name}` | {value.number} | {file.said(_ENUMS, number, 2, index)} |"
    yield ""


def _in_oneof(field: Any) -> bool:
    return field.HasField("oneof_index") and not field.proto3_optional


def _type(field: Any, message: DescriptorProto) -> str:
    entry = next(
        (each for each in message.nested_type if field.type_name.endswith(f".{message.name}.{each.name}")), None
    )
    if entry is not None:
        return f"map of {' to '.join(_type(each, entry) for each in entry.field)}"
    name = _link(field.type_name) if field.type_name else _TYPES[field.type]
    repeated = "repeated " if field.label == _F.LABEL_REPEATED else ""
    return f"{repeated}{'optional ' if field.proto3_optional else ''}{name}"


def _link(full_name: str) -> str:
    name = full_name.rpartition(".")[2]
    return f"[{name}](#{name.lower()})" if full_name.startswith(".edge_agent.v1.") else f"`{full_name[1:]}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
