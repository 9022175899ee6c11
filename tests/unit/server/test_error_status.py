"""Errors as gRPC statuses: the right code and details, within the size limits."""

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import errors
from edge_agent.errors import BY_REASON, CapacityError, EdgeAgentError, InvalidRequest, PathUnsafe, QueueFull
from edge_agent.server import error_status

TRAILERS_BYTES_MAX = 8192
Code = grpc.StatusCode

# What each family leads to, and which leaves differ.
FAMILIES = {
    errors.CallerError: Code.INVALID_ARGUMENT,
    errors.AccessError: Code.PERMISSION_DENIED,
    errors.CapacityError: Code.UNAVAILABLE,
    errors.ModelError: Code.INTERNAL,
    errors.BundleError: Code.FAILED_PRECONDITION,
    errors.ExchangeError: Code.FAILED_PRECONDITION,
    errors.UpdateError: Code.FAILED_PRECONDITION,
    errors.StateError: Code.FAILED_PRECONDITION,
    errors.SiteError: Code.FAILED_PRECONDITION,
}
EXCEPTIONS = {
    "TASK_UNKNOWN": Code.NOT_FOUND,
    "PREDICTION_UNKNOWN": Code.NOT_FOUND,
    "DEADLINE_EXPIRED": Code.DEADLINE_EXCEEDED,
    "CANCELLED": Code.CANCELLED,
    "CERTIFICATE_EXPIRED": Code.UNAUTHENTICATED,
    "QUEUE_FULL": Code.RESOURCE_EXHAUSTED,
    "CLIENT_SHARE_FULL": Code.RESOURCE_EXHAUSTED,
    "CLIENT_RATE_EXCEEDED": Code.RESOURCE_EXHAUSTED,
    "DEADLINE_UNATTAINABLE": Code.RESOURCE_EXHAUSTED,
    "MODEL_LOAD_FAILED": Code.FAILED_PRECONDITION,
    "INPUT_QUARANTINED": Code.FAILED_PRECONDITION,
    "BUNDLE_UNKNOWN": Code.NOT_FOUND,
    "BUNDLE_AMBIGUOUS": Code.INVALID_ARGUMENT,
}


def info_of(written: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    """Return the ErrorInfo, which comes first."""
    return unpacked(written.details[0], error_details_pb2.ErrorInfo())


def unpacked(detail: any_pb2.Any, message):
    """Unpack a detail that must be of that type."""
    assert detail.Unpack(message)
    return message


def trailers_bytes(error: EdgeAgentError) -> int:
    """Return what an error takes on the wire: the message percent-encoded at its worst, and all of it in base64."""
    written = error_status.to_status(error)
    return 3 * len(written.message.encode()) + written.ByteSize() * 4 // 3 + 200


@pytest.mark.parametrize("reason", BY_REASON)
def test_every_error_has_its_code(reason):
    """Every error has the code of its family or the one in the list of exceptions."""
    cls = BY_REASON[reason]
    expected = EXCEPTIONS.get(reason) or next(code for family, code in FAMILIES.items() if issubclass(cls, family))
    assert expected == error_status.code_of(cls("x"))
    assert expected.value[0] == error_status.to_status(cls("x")).code


def test_error_outside_every_family_is_internal():
    """An error outside every family is INTERNAL."""
    assert Code.INTERNAL == error_status.code_of(EdgeAgentError("x"))


@pytest.mark.parametrize("reason", BY_REASON)
def test_status_has_reason_values_and_remedy(reason):
    """ErrorInfo has our domain, the reason, the values and the remedy; the message is the sentence."""
    error = BY_REASON[reason]("it broke", tokens=7, remedy="Mend it.")
    written = error_status.to_status(error)
    expected = {"tokens": "7", "remedy": "Mend it."}
    info = info_of(written)
    assert ("edge-agent", reason, expected) == (info.domain, info.reason, dict(info.metadata))
    assert "it broke" == written.message


def test_status_without_a_remedy_has_no_such_entry():
    """An error without a remedy has no such entry."""
    assert {} == dict(info_of(error_status.to_status(EdgeAgentError("x"))).metadata)


@pytest.mark.parametrize("reason", BY_REASON)
def test_only_capacity_errors_carry_retry_info(reason):
    """Capacity errors carry RetryInfo, and no others do."""
    details = error_status.to_status(BY_REASON[reason]("x")).details
    kinds = [detail.TypeName() for detail in details[1:]]
    assert (["google.rpc.RetryInfo"] if issubclass(BY_REASON[reason], CapacityError) else []) == kinds
    assert BY_REASON[reason].retryable == bool(kinds)


@pytest.mark.parametrize(("seconds", "milliseconds"), [(0.0, 1), (0.0004, 1), (0.25, 250), (1.0, 1000), (90.5, 90_500)])
def test_retry_delay_is_that_of_the_error(seconds, milliseconds):
    """RetryInfo has the error's delay in milliseconds, at least 1 ms."""
    written = error_status.to_status(QueueFull("x", retry_seconds=seconds))
    delay = unpacked(written.details[1], error_details_pb2.RetryInfo()).retry_delay
    assert milliseconds == delay.ToMilliseconds()


@pytest.mark.parametrize("text", ["x" * 5000, "é" * 5000, "漢" * 5000, "😀" * 5000, "x" + "😀" * 5000])
def test_a_long_text_is_cut_between_characters(text):
    """A message over the limit in bytes is truncated at a whole character and ends with an ellipsis."""
    message = error_status.to_status(InvalidRequest(text)).message
    assert message.endswith("…")
    assert text.startswith(message[:-1])
    assert 990 <= len(message.encode()) <= error_status.MESSAGE_BYTES_MAX


def test_message_at_the_limit_is_not_truncated():
    """A message of exactly the limit is complete."""
    text = "x" * error_status.MESSAGE_BYTES_MAX
    assert text == error_status.to_status(InvalidRequest(text)).message


@pytest.mark.slow
@given(
    message=st.text(alphabet="x漢😀", max_size=40).map(lambda text: text * 100),
    metadata=st.dictionaries(
        st.from_regex(r"[a-z_]{1,30}", fullmatch=True).map(lambda key: f"k{key}"),
        st.text(alphabet="x漢😀", max_size=40).map(lambda text: text * 50),
        max_size=100,
    ),
)
def test_a_status_fits_into_the_trailers(message, metadata):
    """The status of any error stays below the 8 kB that gRPC accepts."""
    assert trailers_bytes(QueueFull(message, remedy=message, **metadata)) < TRAILERS_BYTES_MAX


def test_remedy_is_kept_among_many_values():
    """Of a hundred values the first that fit are sent, and the remedy always."""
    error = InvalidRequest("x", remedy="Mend it.", **{f"value_{i:03}": "y" * 100 for i in range(100)})
    metadata = info_of(error_status.to_status(error)).metadata
    assert "Mend it." == metadata["remedy"]
    assert [f"value_{i:03}" for i in range(len(metadata) - 1)] == sorted(metadata.keys() - {"remedy"})
    assert 10 < len(metadata) < 30


def test_file_name_that_is_not_utf8_is_escaped():
    """Bytes of a file name that are not UTF-8 are escaped in message and metadata."""
    written = error_status.to_status(PathUnsafe("bad name a\udcffb", path="a\udcffb"))
    assert "bad name a\\udcffb" == written.message
    assert "a\\udcffb" == info_of(written).metadata["path"]


def test_error_of_one_input_matches_the_status_of_a_call():
    """The error of one input of a batch has the same reason, message and values as the status of a call."""
    error = QueueFull("漢" * 1000, waiting=3)
    written, whole = error_status.to_input_error(error), error_status.to_status(error)
    assert "QUEUE_FULL" == written.reason
    assert whole.message == written.message
    assert dict(info_of(whole).metadata) == dict(written.metadata)


def test_a_call_status_carries_the_details():
    """The status with which the server aborts has the code, the message, and the details in the standard trailer."""
    written = error_status.to_call_status(QueueFull("full", waiting=3))
    assert (Code.RESOURCE_EXHAUSTED, "full") == (written.code, written.details)
    ((key, value),) = written.trailing_metadata
    assert "grpc-status-details-bin" == key
    assert error_status.to_status(QueueFull("full", waiting=3)) == status_pb2.Status.FromString(value)
