"""The generated reference pages agree with the code, and the comments of the API have what a caller needs."""

from __future__ import annotations

import re

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

from edge_agent.errors import BY_REASON
from edge_agent.server.roles import METHODS
from tests.support import api_page, errors_page, reference

FIELDS = [
    (f"{message.name}.{field.name}", field, file.said(4, number, 2, index))
    for file in api_page.load()
    for number, message in enumerate(file.proto.message_type)
    for index, field in enumerate(message.field)
]
NUMBERS = {
    getattr(FieldDescriptorProto, f"TYPE_{name}") for name in ("DOUBLE", "FLOAT", "INT32", "INT64", "UINT32", "UINT64")
}
UNITS = re.compile(
    r"\b([Bb]ytes|milliseconds|seconds|[Tt]okens|[Cc]haracters|code points|labels|[Ii]nputs|[Ss]egments"
    r"|[Ff]iles|[Ff]ailures|0 to 1|From 0|Seed|without a unit|id of|page"
    r"|[Rr]ows|[Ww]indows|in the unit of|[Aa]nswers|[Hh]ow often|How many|Attempts|plan|As in|millionths|likewise)\b"
)
LIMITS = re.compile(r"\d|[Aa]s in|at most|[Ee]mpty =|one of the task's|`true`|must not construct|preferably a UUID4")


def test_reference_pages_are_up_to_date():
    """docs/api.md, docs/errors.md and the table of docs/routing.md are those that the code generates."""
    assert [] == [path.name for path, *_ in reference.stale()], "scripts/docs"


def test_stale_page_is_shown_or_written(capsys, tmp_path):
    """With --check a stale page is shown as a diff with exit status 1; without it the page is written."""
    page = tmp_path / "page.md"
    page.write_text("old\n")
    pages = {page: lambda: "new\n"}
    assert [1, 0, 0] == [reference.main(check, pages) for check in (True, False, True)]
    assert "-old\n+new\n" in capsys.readouterr().out


def test_errors_page_has_every_reason_once():
    """docs/errors.md lists each reason with its cause, remedy, and whether a retry helps."""
    tree = errors_page.page().partition("## From the client's side")[0]
    rows = re.findall(r"^\| `([A-Z_]+)` \| [A-Z_]+ \| .+\. \| .+[.?] \| (?:yes|no) \|$", tree, re.MULTILINE)
    assert sorted(BY_REASON) == sorted(rows)


def test_api_page_has_the_errors_of_every_call():
    """Every served call has a section with its role, and the reasons that it names exist."""
    page, ours = api_page.page(), {path for path in METHODS if path.startswith("/edge_agent.v1.")}
    found = api_page.documented()
    assert ours == set(found)
    assert set() == set().union(*found.values()) - set(BY_REASON)
    assert [] == [path for path in ours if f"- `{path}`: " not in page]


def test_error_family_stands_for_its_reasons():
    """A comment may name a family of errors instead of each reason."""
    comment = "Does it.\n\nErrors: TASK_UNKNOWN, UpdateError."
    assert {"TASK_UNKNOWN", "PLAN_INVALID", "UPDATE_EXPIRED"} < api_page.reasons(api_page.named(comment))
    assert [] == api_page.named("Does it.\n\nErrors: none specific to this call.")
    with pytest.raises(AssertionError, match="no last paragraph"):
        api_page.named("Does it.")


def test_every_number_has_a_unit():
    """Every number of the API has a unit in its name or comment."""
    suffixes = ("_bytes", "_ms", "_seconds", "_micros", "_tokens")
    without = [
        name
        for name, field, said in FIELDS
        if field.type in NUMBERS and not (field.name.endswith(suffixes) or UNITS.search(said))
    ]
    assert [] == without


def test_every_text_of_a_request_has_its_limits():
    """The comment of every text field of a request has its limits or says where they are."""
    texts = (FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_BYTES)
    without = [
        name
        for name, field, said in FIELDS
        if "Request." in name
        and not name.startswith(("Ask", "Watch"))
        and field.type in texts
        and not LIMITS.search(said)
    ]
    assert [] == without
