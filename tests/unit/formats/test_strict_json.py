"""The reader of JSON that others wrote: what two readers may read differently is refused, in every kind of file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from convert.dataset.label_studio import read_reviews
from convert.fleet.site_registry import SiteRegistry
from edge_agent.errors import EdgeAgentError, InvalidRequest, ManifestInvalid
from edge_agent.formats import (
    enrolment_file,
    example_records,
    golden_cases,
    manifest,
    plan,
    repository_metadata,
    segment,
    strict_json,
    uplink_state,
)
from edge_agent.formats.signed_document import canonical, format_timestamp, public_key_hex
from tests.support.enrolment_files import a_enrolment
from tests.support.examples import EPOCH, NOW, SITE_KEY, prediction, segment_manifest

MANIFEST: dict[str, Any] = {
    "schema": "edge-agent/bundle/v1",
    "task": {"name": "pos", "kind": "classify", "labels": ["a", "b"], "limits": {"inputs_max": 8}},
    "version": "1.0.0",
    "runtime": "echo",
}
STATE: dict[str, Any] = {
    **{
        "pid": 1,
        "version": "0.1.0",
        "upstream": "",
        "at": format_timestamp(NOW),
        "running_seconds": 1.5,
        "state": "online",
    },
    **{"since": format_timestamp(NOW), "failures": 0, "waiting_segments": 0, "waiting_bytes": 0},
    **{"sent_segments": 0, "sent_bytes": 0},
}
SEGMENT = segment_manifest().model_dump(mode="json", by_alias=True)


class Sample(BaseModel):
    """One field of each type."""

    whole: int = 0
    number: float = 0.0
    flag: bool = False
    text: str = ""
    list: tuple[int, ...] = ()
    inner: dict[str, int] = {}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ('{"a": 1, "b": 2, "a": 1}', 'the key "a" occurs twice in one object'),
        ('[{"x": {"\\u0061": 1, "a": 2}}]', 'the key "a" occurs twice in one object'),
        ("[NaN]", "NaN is not a number in JSON"),
        ("[-Infinity]", "-Infinity is not a number in JSON"),
        ("[1e999]", "the number 1e999 is out of range"),
        (f"[{'9' * 5000}]", "a number has 5000 digits; the limit is 40"),
        ("[" * 100_000, "it is nested too deep"),
        (b"\xff", "can't decode byte 0xff in position 0"),
        ("{} {}".encode("utf-16"), "can't decode byte 0xff in position 0"),
    ],
)
def test_what_may_be_read_in_two_ways_is_no_json(raw: bytes | str, said: str) -> None:
    """A second key, a number out of range, another encoding than UTF-8: the message says which."""
    with pytest.raises(ValueError, match=re.escape(said)):
        strict_json.decode(raw)


def test_fractions_can_be_refused() -> None:
    """What is signed holds whole numbers only."""
    assert [1, 2.5] == strict_json.decode("[1, 2.5]")
    with pytest.raises(ValueError, match=r"no numbers like 2\.5"):
        strict_json.decode("[1, 2.5]", fractions=False)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("whole", True, "whole: true is not a whole number"),
        ("whole", "64", 'whole: "64" is not a whole number'),
        ("whole", 1e3, "whole: 1000.0 is not a whole number"),
        ("number", "1", 'number: "1" is not a number'),
        ("number", True, "number: true is not a number"),
        ("flag", 1, "flag: 1 is not true or false"),
        ("flag", "yes", 'flag: "yes" is not true or false'),
        ("text", 1, "text: 1 is not text"),
        ("list", "1", 'list: "1" is not a list'),
        ("inner", [1], "inner: [1] is not an object"),
        ("text", ["x" * 1000], f'text: ["{"x" * 58}… is not text'),
    ],
)
def test_nothing_is_converted(field: str, value: object, said: str) -> None:
    """A value of another type is named with its field, its start, and what is expected."""
    with pytest.raises(ValidationError) as caught:
        strict_json.validate(Sample, {field: value})
    assert said == strict_json.first_problem(caught.value, show=True)


def test_a_value_that_may_be_private_is_not_shown() -> None:
    """The field and what is expected are."""
    with pytest.raises(ValidationError) as caught:
        strict_json.validate(Sample, {"inner": {"a": "secret"}})
    assert "inner.a: must be a whole number" == strict_json.first_problem(caught.value)


def test_what_has_no_bytes_is_refused() -> None:
    """Half of a surrogate pair is a text that nobody can write down."""
    with pytest.raises(ValueError, match="half a character"):
        strict_json.validate(Sample, strict_json.decode('{"text": "\\ud800"}'))


def test_a_whole_number_may_stand_for_a_fraction_and_a_list_for_a_tuple() -> None:
    """As JSON has no other way to write them."""
    read = strict_json.validate(Sample, {"number": 1, "list": [1, 2]})
    assert (1.0, (1, 2)) == (read.number, read.list)


def signed(body: dict[str, Any]) -> bytes:
    """Sign a body as a site of other software might."""
    signature = SITE_KEY.sign(canonical(body)).hex()
    return json.dumps({"body": body, "key": public_key_hex(SITE_KEY), "signature": signature}).encode()


def read_segment(raw: bytes) -> object:
    """Read the manifest of the segment that SEGMENT is of."""
    return segment.verify(raw, segment.name_of(EPOCH, 1), None)


# Of every kind of file: a good one, its reader, and a whole number in it.
FILES: dict[str, tuple[bytes, Callable[[bytes], object], str]] = {
    "manifest": (json.dumps(MANIFEST).encode(), manifest.parse, '"inputs_max": 8'),
    "plan": (json.dumps({"version": 7, "issued_at": format_timestamp(NOW)}).encode(), plan.parse, '"version": 7'),
    "wants": (
        json.dumps({"at": format_timestamp(NOW), "root_version": 7}).encode(),
        repository_metadata.parse,
        '"root_version": 7',
    ),
    "uplink": (json.dumps(STATE).encode(), uplink_state.parse, '"failures": 0'),
    "golden": (b'{"input": "a", "answer": "b", "tolerance": 1}', golden_cases.parse, '"tolerance": 1'),
    "record": (example_records.encode(prediction(1)), example_records.parse, ""),
    "root": (
        b'{"signed": {"_type": "root", "version": 1}}',
        lambda raw: repository_metadata.check_root(raw, 1),
        '"version": 1',
    ),
    "segment": (signed(SEGMENT), read_segment, ""),
    "kit": (enrolment_file.encode(a_enrolment()), enrolment_file.parse, ""),
}


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_file_that_others_made_is_read_so(name: str) -> None:
    """A second key is refused in each; what is good is read."""
    good, read, _ = FILES[name]
    read(good)
    key = next(iter(json.loads(good)))
    twice = good.decode().replace("{", f'{{"{key}": 1, ', 1).encode()
    with pytest.raises(EdgeAgentError, match=f'the key "{key}" occurs twice'):
        read(twice)


@pytest.mark.parametrize("value", ["true", '"1"', "1e0"])
@pytest.mark.parametrize("name", sorted(name for name, (_, _, number) in FILES.items() if number))
def test_a_number_of_another_type_is_refused_in_every_file(name: str, value: str) -> None:
    """`true`, `"1"` and `1e0` are not the whole number 1; the message has the field and what is expected."""
    good, read, number = FILES[name]
    field = number.partition(":")[0].strip('"')
    changed = good.decode().replace(number, f'"{field}": {value}').encode()
    if (name, value) == ("golden", "1e0"):  # there a fraction may stand
        assert read(changed)
        return
    with pytest.raises(EdgeAgentError, match=rf"{field}: .* is not a (whole )?number"):
        read(changed)


def test_a_number_of_another_type_is_refused_although_it_is_signed() -> None:
    """A signature makes no number of a text."""
    with pytest.raises(EdgeAgentError, match="records: must be a whole number"):
        read_segment(signed({**SEGMENT, "records": "1"}))


def test_files_of_the_central_team_are_read_so_too(tmp_path: Path) -> None:
    """The registry of sites, and what Label Studio exports."""
    registry = tmp_path / "sites.json"
    registry.write_bytes(b'{"sites": {}, "sites": {}}')
    with pytest.raises(ManifestInvalid, match='the key "sites" occurs twice'):
        SiteRegistry(registry)
    with pytest.raises(InvalidRequest, match='the key "data" occurs twice'):
        read_reviews(b'[{"data": {}, "data": {}}]')
