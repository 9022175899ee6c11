"""The sync and the asyncio client against real gRPC."""

import asyncio
import contextlib
import grp
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent import client as package
from edge_agent.client import (
    AdminClient,
    AsyncClient,
    BundleRef,
    CallFailed,
    Classification,
    Client,
    Embedding,
    Entity,
    Extraction,
    Failure,
    Timings,
    daemon_connection,
    translation,
)
from edge_agent.client.call_failed import (
    DEADLINE_EXPIRED,
    MESSAGE_TOO_LARGE,
    QUEUE_FULL,
    UNREACHABLE,
    remedy_with_delay,
)
from edge_agent.v1 import task_pb2
from tests.support.fake_daemon import DIGEST, RECORD_SCHEMA, WAIT_SECONDS_MAX, FakeDaemon

TEXTS = ["give me my money", "bad"]
CLASSIFICATION = Classification(
    label="refund",
    confidence=0.75,
    threshold=0.8,
    below_threshold=True,
    scores=(("refund", 0.75), ("price", 0.25)),
    label_mass=0.5,
    prediction_id="p-1",
    bundle=BundleRef("pos-intent", "1.2.0", DIGEST),
    route="LOCAL",
    timings=Timings(1, 20, 3),
    device="cpu",
    degraded=("CPU_SHARED",),
    input_tokens=7,
    output_tokens=2,
)
BAD = Failure("INPUT_TOO_LONG", "9 tokens; the limit is 4", {"limit": "4"}, "Shorten it.")


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon("127.0.0.1:0") as running:
        yield running


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    with Client(daemon.targets[0]) as connected:
        yield connected


@pytest.fixture
def admin(daemon: FakeDaemon) -> Iterator[AdminClient]:
    with AdminClient(daemon.targets[0]) as connected:
        yield connected


def test_classify_returns_a_typed_result_or_failure_for_each_input(client):
    """`classify` returns one value for each input, in order; an input that fails alone is a Failure."""
    assert [CLASSIFICATION, BAD] == client.classify("pos-intent", TEXTS)
    assert 24 == CLASSIFICATION.timings.total_ms


def test_classify_sends_every_option(client, daemon):
    """Every option of `classify` reaches the daemon."""
    client.classify("pos-intent", ["x"], on_low_confidence="abstain", top_k=3, request_id="r-1")
    request = daemon.inference.requests[-1]
    assert task_pb2.ON_LOW_CONFIDENCE_ABSTAIN == request.on_low_confidence
    assert (3, "r-1", ["x"]) == (request.top_k, request.request_id, list(request.texts))


def test_extract_returns_the_record_and_its_entities(client):
    """`extract` returns the record as JSON, its entities with positions, and the confidence."""
    (found,) = client.extract("pos-fields", ["is 5"])
    assert isinstance(found, Extraction)
    assert ('{"price":"5"}', (Entity("price", "5", 3, 4, 0.5),)) == (found.json, found.entities)
    assert (("price", 0.9),) == found.fields
    assert (0.75, 0.5, False) == (found.confidence, found.threshold, found.below_threshold)


def test_embed_returns_vectors(client):
    """`embed` returns the vector of each input; a failed input is a Failure in its place."""
    vector, bad = client.embed("product-search", TEXTS)
    assert isinstance(vector, Embedding)
    assert ((0.5, -0.25), BAD) == (vector.values, bad)


def test_tasks_reads_every_page(client):
    """`tasks` returns all pages of the list as one list."""
    assert ["assistant", "pos-intent", "product-search"] == [task.name for task in client.tasks()]


def test_task_returns_labels_limits_and_threshold(client):
    """`task` returns labels and limits; the threshold of a task without one is None, not 0."""
    task = client.task("pos-intent")
    assert ("CLASSIFY", ("refund", "price"), 2, None) == (task.kind, task.labels, task.inputs_max, task.threshold)
    assert ("", RECORD_SCHEMA) == (task.record_schema, client.task("pos-fields").record_schema)


def test_unknown_enum_value_is_returned_as_digits():
    """An enum value of a newer daemon that this client lacks is returned as its number."""
    assert ("LOCAL", "99") == tuple(translation.enum_word(task_pb2.Route.DESCRIPTOR, number) for number in (1, 99))


def test_failed_call_has_reason_remedy_and_metadata(client):
    """A failed call raises CallFailed with the reason, remedy and metadata of ErrorInfo."""
    with pytest.raises(CallFailed, match="no task 'unknown'") as caught:
        client.classify("unknown", ["x"])
    error = caught.value
    assert ("NOT_FOUND", "TASK_UNKNOWN", "the remedy for TASK_UNKNOWN") == (error.code, error.reason, error.remedy)
    assert ({"task": "x"}, None) == (error.metadata, error.retry_after_seconds)


def test_overload_error_has_the_retry_delay(client):
    """The RetryInfo of a refused call becomes `retry_after_seconds`."""
    with pytest.raises(CallFailed) as caught:
        client.classify("busy", ["x"])
    assert ("QUEUE_FULL", 1.5) == (caught.value.reason, caught.value.retry_after_seconds)


def test_error_without_details_has_the_grpc_code(client):
    """An error that the service did not write has gRPC's code as its reason."""
    with pytest.raises(CallFailed, match="the bits fell out") as caught:
        client.classify("plain", ["x"])
    assert "DATA_LOSS" == caught.value.reason


def test_call_refused_by_grpc_in_a_burst_is_a_full_queue(client):
    """A call over gRPC's own limit, which has no details, is QUEUE_FULL with a delay of 1 s."""
    with pytest.raises(CallFailed) as caught:
        client.classify("crowded", ["x"])
    failed = caught.value
    assert ("QUEUE_FULL", 1.0, "Try again in 1 s.") == (failed.reason, failed.retry_after_seconds, failed.remedy)


def test_deadline_ends_the_call_on_both_sides(client, daemon):
    """After `timeout_seconds` the client raises, and the daemon sees the call end."""
    for seconds in (0.2, 2, 20):
        with pytest.raises(CallFailed, match=f"within {seconds} s") as caught:
            client.classify("stuck", ["x"], timeout_seconds=seconds)
        assert ("DEADLINE_EXCEEDED", "DEADLINE_EXPIRED") == (caught.value.code, caught.value.reason)
        if daemon.inference.requests:  # on a busy machine the time may be over before a call has reached the daemon
            break
    assert daemon.inference.stream_ended.wait(WAIT_SECONDS_MAX)


@pytest.mark.parametrize(
    ("target", "remedy"),
    [("unix:/nowhere/inference.sock", "'edge-agent serve' starts it"), ("127.0.0.1:1", "tcp_address")],
)
def test_missing_daemon_is_unreachable_with_a_remedy(target, remedy):
    """If nobody listens, the call fails with UNREACHABLE and asks whether edge-agent is running."""
    with Client(target) as nobody, pytest.raises(CallFailed, match="no daemon answers at") as caught:
        nobody.tasks()
    assert ("UNREACHABLE", "UNAVAILABLE") == (caught.value.reason, caught.value.code)
    assert "Is edge-agent running" in caught.value.remedy
    assert remedy in caught.value.remedy


def test_serving_asks_the_health_service(client):
    """`serving` returns the overall health; an unknown service is a failed call."""
    assert client.serving()
    with pytest.raises(CallFailed) as caught:
        client.serving("no-such-task")
    assert "NOT_FOUND" == caught.value.code


def test_generate_streams_pieces_and_then_finish(client, daemon):
    """`generate` yields the pieces in order, then sets `finish`; an option of None stays unset."""
    with client.generate("assistant", "hi", output_tokens_max=5, temperature=None, seed=7, stops=["\n"]) as stream:
        pieces = list(stream)
    assert ["Hello", " there"] == pieces
    assert ("LENGTH", 2) == (stream.finish.reason, stream.finish.output_tokens)
    request = daemon.inference.requests[-1]
    assert (5, 7, ["\n"], False) == (
        request.output_tokens_max,
        request.seed,
        list(request.stops),
        request.HasField("temperature"),
    )


def test_leaving_the_block_cancels_the_generation(client, daemon):
    """Leaving a `with` block before the end cancels the generation at the daemon."""
    with client.generate("endless", "hi") as stream:
        assert "Hello" == next(iter(stream))
    assert daemon.inference.stream_ended.wait(WAIT_SECONDS_MAX)
    assert stream.finish is None


def test_breaking_out_of_the_loop_cancels_the_generation(client, daemon):
    """A `break` without a `with` block cancels the generation at the daemon."""
    for _ in client.generate("endless", "hi"):
        break
    assert daemon.inference.stream_ended.wait(WAIT_SECONDS_MAX)


def test_cancel_ends_the_iteration_without_an_error(client, daemon):
    """After `cancel` the iteration ends without an error, and the daemon sees the cancel."""
    stream = client.generate("endless", "hi")
    pieces = []
    for piece in stream:
        pieces.append(piece)
        stream.cancel()
    assert (["Hello"], None) == (pieces, stream.finish)
    assert daemon.inference.stream_ended.wait(WAIT_SECONDS_MAX)


def test_broken_stream_raises_call_failed(client):
    """A stream that breaks raises CallFailed with the daemon's reason and delay."""
    pieces = []
    with pytest.raises(CallFailed) as caught:
        pieces.extend(client.generate("breaks", "hi"))
    assert ("STREAM_BROKEN", 0.5) == (caught.value.reason, caught.value.retry_after_seconds)


def test_admin_status_is_typed(admin):
    """`status` returns engines and tasks as typed values, with times in UTC."""
    status = admin.status()
    assert datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC) == status.start_time
    assert [("echo-1234", "READY", 42)] == [(engine.name, engine.state, engine.pid) for engine in status.engines]
    assert ["pos-intent"] == [task.name for task in status.tasks]


def test_admin_lists_bundles_over_all_pages(admin, daemon):
    """`bundles` reads all pages, and the task and page token reach the daemon."""
    bundles = admin.bundles("pos-intent")
    assert [("CLASSIFY", True), ("CLASSIFY", True)] == [(bundle.kind, bundle.active) for bundle in bundles]
    assert [("pos-intent", ""), ("pos-intent", "next")] == [
        (request.task, request.page_token) for request in daemon.admin.requests
    ]


def test_install_sends_an_absolute_path(admin, daemon, tmp_path, monkeypatch):
    """`install` makes a relative path absolute, because the daemon's working directory differs."""
    monkeypatch.chdir(tmp_path)
    bundle, new = admin.install(Path("bundle"), activate=False)
    assert (False, True) == (bundle.active, new)
    assert (str(tmp_path / "bundle"), True) == (daemon.admin.requests[-1].path, daemon.admin.requests[-1].no_activate)


def test_admin_activates_rolls_back_removes_and_drains(admin, daemon):
    """Each call sends its arguments and returns the bundle or the freed bytes."""
    assert BundleRef("pos-intent", "1.2.0", DIGEST) == admin.activate("pos-intent", "1.2.0").ref
    assert "pos-intent" == admin.rollback("pos-intent").ref.task
    assert 98_000_000 == admin.remove("pos-intent", "1.1.0")
    assert ("pos-intent", "1.1.0") == (daemon.admin.requests[-1].task, daemon.admin.requests[-1].bundle)
    admin.drain()
    assert "DrainRequest" == type(daemon.admin.requests[-1]).__name__


@pytest.mark.parametrize(
    ("texts", "error", "said"),
    [
        ("I want", TypeError, r"texts must be a list of strings, not one str"),
        (b"I want", TypeError, r"not one bytes"),
        (7, TypeError, r"not one int"),
        (["a", None], TypeError, r"list of strings; texts\[1\] is a NoneType"),
        (["a", "b\ud800"], ValueError, r"texts\[1\] cannot be written as UTF-8: character 1 is '\\ud800'"),
    ],
)
async def test_texts_must_be_a_list_of_valid_strings(client, daemon, texts, error, said):
    """Anything but a list of valid strings is refused with the faulty text, and nothing is sent."""
    async with AsyncClient(daemon.targets[0]) as aio:
        for call in (client.classify, client.extract, client.embed):
            with pytest.raises(error, match=said):
                call("pos-intent", texts)
        with pytest.raises(error, match=said):
            await aio.classify("pos-intent", texts)
        assert [] == daemon.inference.requests
        with pytest.raises(error, match=said):
            list(client.in_batches(client.classify, "pos-intent", texts))
        with pytest.raises(error, match=said):
            [each async for each in aio.in_batches(aio.classify, "pos-intent", texts)]
    assert all(type(each).__name__ == "GetTaskRequest" for each in daemon.inference.requests)


@pytest.mark.parametrize(("text", "error"), [(7, TypeError), ("\ud800", ValueError)])
def test_generate_refuses_an_invalid_text(client, text, error):
    """`generate` refuses a text that is not a string or not valid Unicode."""
    with pytest.raises(error, match=r"^text "):
        client.generate("assistant", text)


def test_unknown_low_confidence_policy_is_refused(client, daemon):
    """An unknown `on_low_confidence` is refused with the valid values, and nothing is sent."""
    with pytest.raises(ValueError, match="'escalated': it can be as_mode, answer, abstain, escalate"):
        client.classify("pos-intent", TEXTS, on_low_confidence="escalated")
    assert [] == daemon.inference.requests


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("/tmp/x.sock", "write unix:/tmp/x.sock"),
        ("x.sock", "write unix:x.sock"),
        ("localhost", "write localhost:PORT"),
        ("http://till:8390", "is a URL: write host:port"),
        ("", "is empty"),
        ("::1:9443", r"write an IPv6 address in brackets, as in \[::1\]:PORT"),
    ],
)
async def test_invalid_address_is_refused_with_the_right_form(address, said):
    """An address that gRPC would try to resolve without end is refused with the correct form."""
    for make in (Client, AdminClient, AsyncClient):
        with pytest.raises(ValueError, match=said):
            make(address)


@pytest.mark.parametrize(
    "address", ["localhost:1", "[::1]:1", "unix:x", "unix:///x", "dns:///till:1", "ipv4:127.0.0.1:1"]
)
def test_every_address_form_of_grpc_is_accepted(address):
    """Every address form that gRPC documents is accepted unchanged."""
    assert address == daemon_connection.require_address(address)


@pytest.mark.parametrize("endless", [1e12, float("inf")])
async def test_endless_timeout_is_a_long_deadline(client, daemon, endless):
    """A huge or infinite timeout is a long deadline; gRPC would treat it as one that has passed."""
    assert CLASSIFICATION == client.classify("pos-intent", TEXTS, timeout_seconds=endless)[0]
    async with AsyncClient(daemon.targets[0]) as another:
        assert CLASSIFICATION == (await another.classify("pos-intent", TEXTS, timeout_seconds=endless))[0]


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
async def test_timeout_must_be_more_than_zero(client, daemon, seconds):
    """A timeout of 0, below 0 or NaN raises a ValueError instead of an expired deadline."""
    async with AsyncClient(daemon.targets[0]) as aio:
        with pytest.raises(ValueError, match="timeout_seconds is"):
            await aio.tasks(timeout_seconds=seconds)
    for call in (
        lambda: client.tasks(timeout_seconds=seconds),
        lambda: client.generate("a", "b", timeout_seconds=seconds),
    ):
        with pytest.raises(ValueError, match="timeout_seconds is"):
            call()


async def test_closed_client_refuses_calls(daemon):
    """The sync and the asyncio client refuse calls after `close`."""
    closed, aio = Client(daemon.targets[0]), AsyncClient(daemon.targets[0])
    closed.close()
    await aio.close()
    for call in (closed.tasks, lambda: closed.generate("a", "b"), lambda: aio.generate("a", "b")):
        with pytest.raises(ValueError, match="this client is closed"):
            call()
    with pytest.raises(ValueError, match="this client is closed"):
        await aio.tasks()


def test_message_over_the_limit_is_refused_with_its_size(client):
    """A message over gRPC's limit fails with a reason, its size, the limit and a remedy."""
    with pytest.raises(CallFailed, match=r"has 50000\d\d bytes; the limit is 4194304") as caught:
        client.classify("pos-intent", ["x" * 5_000_000])
    assert ("MESSAGE_TOO_LARGE", "4194304") == (caught.value.reason, caught.value.metadata["limit"])
    assert "message_bytes_max" in caught.value.remedy


@pytest.mark.parametrize(
    ("mode", "remedy"),
    [
        (0o000, "Use 'sudo': only root and the daemon's user may use this socket."),
        (0o060, f"Use 'sudo', or run 'sudo usermod -aG {grp.getgrgid(os.getegid()).gr_name} "),
    ],
)
def test_forbidden_socket_is_not_a_missing_daemon(mode, remedy):
    """The error names missing rights to the socket; the remedy proposes a group only if the socket has one."""
    before, nobody = os.geteuid(), 65534
    with tempfile.TemporaryDirectory() as folder, FakeDaemon(f"unix:{folder}/inference.sock") as daemon:
        path = Path(folder, "inference.sock")
        path.chmod(mode)
        if before == 0:
            Path(folder).chmod(0o755)
            os.chown(path, nobody, os.getegid())
        with Client(daemon.targets[0]) as client:
            try:
                if before == 0:
                    os.seteuid(nobody)
                with pytest.raises(CallFailed, match=r"this user may not use .*inference\.sock") as caught:
                    client.tasks()
            finally:
                os.seteuid(before)
    assert ("UNREACHABLE", remedy) == (caught.value.reason, caught.value.remedy[: len(remedy)])


def test_failed_call_prints_reason_sentence_and_remedy(client):
    """The text of a CallFailed has reason, sentence and remedy with the delay in seconds."""
    with pytest.raises(CallFailed) as caught:
        client.classify("busy", ["x"])
    said = "QUEUE_FULL: 64 inputs wait; the limit is 64; what to do: Try again in 1.5 s."
    assert said == str(caught.value)


def test_remedy_without_retry_info_names_no_delay():
    """An input's error has no RetryInfo, so its remedy does not mention the delay."""
    assert "Try again." == remedy_with_delay("Try again after the delay in RetryInfo.", None)


def test_document_lists_the_clients_own_reasons():
    """docs/errors.md has a row for each reason that the client itself sets."""
    document = (Path(__file__).parents[3] / "docs" / "errors.md").read_text(encoding="utf-8")
    own = document.partition("## From the client's side")[2]
    assert [] == [
        word
        for word in (UNREACHABLE, MESSAGE_TOO_LARGE, QUEUE_FULL, DEADLINE_EXPIRED, "UNIMPLEMENTED")
        if f"| `{word}` |" not in own
    ]


async def test_async_client_returns_the_same_values(daemon):
    """The asyncio client returns the same values as the sync client."""
    async with AsyncClient(daemon.targets[0]) as client:
        assert [CLASSIFICATION, BAD] == await client.classify("pos-intent", TEXTS)
        assert BAD == (await client.embed("product-search", TEXTS))[1]
        assert "LOCAL" == (await client.extract("pos-fields", ["x"]))[0].route
        assert 3 == len(await client.tasks())
        assert "pos-intent" == (await client.task("pos-intent")).name


async def test_async_client_raises_the_same_errors(daemon):
    """The asyncio client raises the same errors for overload, deadline and a missing daemon."""
    async with AsyncClient(daemon.targets[0]) as client:
        with pytest.raises(CallFailed) as busy:
            await client.classify("busy", ["x"])
        with pytest.raises(CallFailed) as late:
            await client.classify("stuck", ["x"], timeout_seconds=0.2)
    async with AsyncClient("unix:/nowhere/inference.sock") as nobody:
        with pytest.raises(CallFailed) as gone:
            await nobody.tasks()
    assert ("QUEUE_FULL", 1.5) == (busy.value.reason, busy.value.retry_after_seconds)
    assert ("DEADLINE_EXPIRED", "UNREACHABLE") == (late.value.reason, gone.value.reason)


async def test_async_stream_yields_pieces_and_finish(daemon):
    """An asyncio stream yields the pieces in order, then sets `finish`."""
    async with AsyncClient(daemon.targets[0]) as client, client.generate("assistant", "hi") as stream:
        assert ["Hello", " there"] == [piece async for piece in stream]
        assert "LENGTH" == stream.finish.reason


async def test_leaving_the_async_block_cancels_the_generation(daemon):
    """Leaving an `async with` block cancels the stream, which gRPC would leave running."""
    async with AsyncClient(daemon.targets[0]) as client:
        async with client.generate("endless", "hi") as stream:
            async for piece in stream:
                assert "Hello" == piece
                break
        assert await asyncio.to_thread(daemon.inference.stream_ended.wait, WAIT_SECONDS_MAX)


async def test_closed_async_stream_yields_nothing(daemon):
    """A stream closed by `contextlib.aclosing` yields nothing afterwards and raises no error."""
    async with AsyncClient(daemon.targets[0]) as client:
        async with contextlib.aclosing(client.generate("endless", "hi")) as stream:
            pass
        assert [] == [piece async for piece in stream]


async def test_cancelling_the_reader_cancels_the_stream_and_the_task(daemon):
    """A cancelled reader raises CancelledError, and the daemon sees the cancel."""
    async with AsyncClient(daemon.targets[0]) as client:
        started = asyncio.Event()

        async def read() -> None:
            async for _ in client.generate("endless", "hi"):
                started.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(started.wait(), WAIT_SECONDS_MAX)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(daemon.inference.stream_ended.wait, WAIT_SECONDS_MAX)


def test_package_exports_are_sorted_and_exist():
    """`__all__` is sorted, and every name in it exists."""
    assert sorted(package.__all__) == package.__all__
    assert all(hasattr(package, name) for name in package.__all__)
