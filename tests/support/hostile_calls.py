"""One call of raw bytes and its result: the permitted answers, and those that are a defect of the daemon."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from edge_agent.errors import BY_REASON
from tests.support.rpcs import path_of

CALL_SECONDS_MAX = 60.0
ANSWERS_MAX = 2000
"""Of one stream; no task of these tests writes more."""
DEFECTS = {"UNKNOWN", "INTERNAL", "UNIMPLEMENTED", "DATA_LOSS"}
OURS = ("edge_agent.v1.", "inference.")
"""Services whose errors all have a reason."""


@dataclass(frozen=True)
class CallEnd:
    """How a call ended."""

    code: str
    """OK, or the code of its error."""
    reason: str = ""
    """Of its ErrorInfo."""
    said: str = ""

    def defect(self, method: MethodDescriptor) -> str:
        """Return the defect in this end; empty = a call may end so for any request."""
        if self.code in DEFECTS or "<class" in self.said or "Traceback" in self.said:
            return f"{self.code}: {self.said}"
        if self.code == "DEADLINE_EXCEEDED" and not self.reason:
            return f"no answer within {CALL_SECONDS_MAX:.0f} s"
        named = self.code == "OK" or self.reason in BY_REASON or not method.full_name.startswith(OURS)
        return "" if named else f"{self.code} without a reason that is documented: {self.reason!r} {self.said}"


def call(channel: grpc.Channel, method: MethodDescriptor, *messages: bytes) -> CallEnd:
    """Send bytes as the messages of a call and read the response. Several messages are for a streaming call."""
    if method.client_streaming:
        answers: Any = channel.stream_stream(path_of(method), None, None)(iter(messages), timeout=CALL_SECONDS_MAX)
    else:
        # As a stream all calls look the same.
        [raw] = messages
        answers = channel.unary_stream(path_of(method), None, None)(raw, timeout=CALL_SECONDS_MAX)
    try:
        for _ in itertools.islice(answers, 1 if method.name == "Watch" else ANSWERS_MAX):
            pass
        answers.cancel()
    except grpc.RpcError as error:
        return ended(error)
    return CallEnd("OK")


def ended(error: grpc.RpcError) -> CallEnd:
    info = error_details_pb2.ErrorInfo()
    raised: Any = error  # an error has what it needs of a call, that of grpc.aio too
    status = rpc_status.from_call(raised)
    for detail in status.details if status else ():
        if detail.Unpack(info):
            break
    return CallEnd(error.code().name, info.reason, error.details() or "")
