"""The messages between parent and child, and the frames that carry them."""

from __future__ import annotations

import itertools
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config.sections import MESSAGE_BYTES_MAX
from edge_agent.engine import protocol
from edge_agent.engine.protocol import FRAME_BYTES_MAX, FrameSplitter, frame

TO_CHILD = [
    protocol.LoadRequest(
        runtime="llama", weights="/w.gguf", context_tokens=64, kv_type="q8_0", sequences_max=2, threads=3
    ),
    protocol.AttachRequest(digest="d", manifest=b"{}\n", paths={"weights": "/w"}),
    protocol.DetachRequest(digest="d"),
    protocol.JobRequest(
        job_id="1", digest="d", text="h\u00e9llo \N{GRINNING FACE}", output_tokens_max=9, stops=("\n",)
    ),
    protocol.CancelRequest(job_id="1"),
    protocol.Ping(),
    protocol.StopRequest(),
    protocol.MemoryGrant(available_bytes=7),
]
FROM_CHILD = [
    protocol.MemoryEstimate(needed_bytes=7, headroom_bytes=1, threads=2, device="cuda"),
    protocol.ChildReady(device="cpu", details={"model": "m"}),
    protocol.BundleAttached(digest="d"),
    protocol.TextChunk(job_id="1", text="\u00fc"),
    protocol.JobResult(job_id="1", scores=(0.25, 0.75), label_mass=0.5, input_tokens=3, prefill_ms=1.5),
    protocol.JobResult(job_id="2", entities=(protocol.EntitySpan("price", 0, 4, 0.5),), confidence=0.5, vector=b"\0\1"),
    protocol.FailureReport(job_id="1", reason="INPUT_EMPTY", message="m", remedy="r", metadata={"a": "1"}),
    protocol.Heartbeat(),
    protocol.Pong(cache=protocol.CacheUse(cells_in_use=40, hits=2, reused=20, computed=60)),
]


def bodies(data: bytes) -> list[bytes]:
    """Return the frames of a whole stream."""
    return list(FrameSplitter().feed(data))


@pytest.mark.parametrize("message", TO_CHILD, ids=lambda message: type(message).__name__)
def test_to_child_round_trip(message):
    """Every message to a child is decoded from its frame unchanged."""
    assert [message] == [protocol.decode_to_child(body) for body in bodies(frame(message))]


@pytest.mark.parametrize("message", FROM_CHILD, ids=lambda message: type(message).__name__)
def test_from_child_round_trip(message):
    """Every message from a child is decoded from its frame unchanged."""
    assert [message] == [protocol.decode_from_child(body) for body in bodies(frame(message))]


def test_every_message_has_an_example():
    """The round-trip tests cover every type of message."""
    both = msgspec.inspect.multi_type_info([protocol.ToChild, protocol.FromChild])
    assert {case.cls for union in both for case in union.types} == {type(m) for m in TO_CHILD + FROM_CHILD}


def test_direction_is_checked():
    """A child refuses a message that only a child may send."""
    with pytest.raises(msgspec.ValidationError, match="Invalid value 'done'"):
        protocol.decode_to_child(bodies(frame(protocol.JobResult(job_id="1")))[0])


def test_frame_is_length_and_body():
    """A frame is the length of the body as 4 little-endian bytes, then the body."""
    data = frame(protocol.CancelRequest(job_id="1"))
    assert (len(data) - 4, {"t": "cancel", "job_id": "1"}) == (
        struct.unpack("<I", data[:4])[0],
        msgspec.msgpack.decode(data[4:]),
    )


@given(texts=st.lists(st.text(max_size=40), max_size=8), cuts=st.lists(st.integers(0, 500), max_size=12))
def test_splitter_returns_the_same_frames_for_any_cut(texts, cuts):
    """A stream that is cut anywhere yields the same frames in the same order."""
    messages = [protocol.TextChunk(job_id=str(i), text=text) for i, text in enumerate(texts)]
    stream = b"".join(map(frame, messages))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    splitter = FrameSplitter()
    found = [
        protocol.decode_from_child(body)
        for start, end in itertools.pairwise(edges)
        for body in splitter.feed(stream[start:end])
    ]
    assert messages == found


def test_splitter_waits_for_the_rest():
    """The splitter returns a frame only after its last byte."""
    data = frame(protocol.Pong())
    splitter = FrameSplitter()
    assert [] == [body for i in range(len(data) - 1) for body in splitter.feed(data[i : i + 1])]
    assert splitter.is_partial
    assert [data[4:]] == list(splitter.feed(data[-1:]))
    assert not splitter.is_partial


def test_empty_body_is_a_frame():
    """A length of 0 is a frame without bytes, not the end of the stream."""
    assert [b"", b"a"] == bodies(struct.pack("<I", 0) + struct.pack("<I", 1) + b"a")


def test_oversize_frame_is_refused_by_its_length():
    """A frame over the limit is refused as soon as its length is read, before any of its body is stored."""
    splitter = FrameSplitter()
    with pytest.raises(ValueError, match=f"a frame of {FRAME_BYTES_MAX + 1} bytes; the limit is {FRAME_BYTES_MAX}"):
        list(splitter.feed(struct.pack("<I", FRAME_BYTES_MAX + 1)))


def test_the_largest_input_fits_into_a_frame():
    """A text of `service.message_bytes_max` bytes fits into a frame together with the longest options of a job."""
    stops = tuple("\N{GRINNING FACE}" * 64 for _ in range(64))
    run = protocol.JobRequest(job_id="j" * 64, digest="d" * 64, text="x" * MESSAGE_BYTES_MAX, stops=stops, logprobs=5)
    (body,) = bodies(frame(run))
    assert MESSAGE_BYTES_MAX < protocol.frame_bytes(run) == len(body) < FRAME_BYTES_MAX


@given(text=st.text(), times=st.integers(1, 3))
def test_estimated_frame_size_is_never_below_the_text(text, times):
    """The estimated size of a job's frame is at least the size of its text in bytes, so an oversize frame is never
    underestimated."""
    run = protocol.JobRequest(job_id="j", digest="d", text=text * times)
    assert protocol.frame_bytes(run) >= len((text * times).encode())


def test_frame_of_exactly_the_limit_is_accepted():
    """A frame of exactly the limit is not refused."""
    assert [] == bodies(struct.pack("<I", FRAME_BYTES_MAX))
