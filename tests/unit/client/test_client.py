"""The client, sync and aio, against real gRPC."""

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
    """A batch gives one value for each input, in order; an input that fails alone is a Failure."""
    assert [CLASSIFICATION, BAD] == client.classify("pos-intent", TEXTS)
    assert 24 == CLASSIFICATION.timings.total_ms


def test_classify_sends_what_the_caller_says(client, daemon):
    """Every option reaches the daemon."""
    client.classify("pos-intent", ["x"], on_low_confidence="abstain", top_k=3, request_id="r-1")
    request = daemon.inference.requests[-1]
    assert task_pb2.ON_LOW_CONFIDENCE_ABSTAIN == request.on_low_confidence
    assert (3, "r-1", ["x"]) == (request.top_k, request.request_id, list(request.texts))


def test_extract_returns_the_record_and_its_entities(client):
    """An extraction carries JSON, places and confidence."""
    (found,) = client.extract("pos-fields", ["is 5"])
    assert isinstance(found, Extraction)
    assert ('{"price":"5"}', (Entity("price", "5", 3, 4, 0.5),)) == (found.json, found.entities)
    assert (("price", 0.9),) == found.fields
    assert (0.75, 0.5, False) == (found.confidence, found.threshold, found.below_threshold)


def test_embed_returns_vectors(client):
    """An embedding carries its values; a failed input stands in its place."""
    vector, bad = client.embed("product-search", TEXTS)
    assert isinstance(vector, Embedding)
    assert ((0.5, -0.25), BAD) == (vector.values, bad)


def test_tasks_reads_every_page(client):
    """The pages of the list come back as one list."""
    assert ["assistant", "pos-intent", "product-search"] == [task.name for task in client.tasks()]


def test_task_shows_labels_limits_and_threshold(client):
    """A task without a threshold has None, not 0."""
    task = client.task("pos-intent")
    assert ("CLASSIFY", ("refund", "price"), 2, None) == (task.kind, task.labels, task.inputs_max, task.threshold)
    assert ("", RECORD_SCHEMA) == (task.record_schema, client.task("pos-fields").record_schema)


def test_an_enumeration_value_of_a_newer_daemon_is_kept_as_digits():
    """A number this client does not know does not break it."""
    assert ("LOCAL", "99") == tuple(translation.enum_word(task_pb2.Route.DESCRIPTOR, number) for number in (1, 99))


def test_a_failed_call_carries_reason_remedy_and_metadata(client):
    """ErrorInfo becomes CallFailed; the remedy is no longer among the metadata."""
    with pytest.raises(CallFailed, match="no task 'unknown'") as caught:
        client.classify("unknown", ["x"])
    error = caught.value
    assert ("NOT_FOUND", "TASK_UNKNOWN", "the remedy for TASK_UNKNOWN") == (error.code, error.reason, error.remedy)
    assert ({"task": "x"}, None) == (error.metadata, error.retry_after_seconds)


def test_overload_says_when_to_try_again(client):
    """RetryInfo becomes retry_after_seconds."""
    with pytest.raises(CallFailed) as caught:
        client.classify("busy", ["x"])
    assert ("QUEUE_FULL", 1.5) == (caught.value.reason, caught.value.retry_after_seconds)


def test_a_failure_without_details_keeps_grpcs_words(client):
    """An error that the service did not write has gRPC's code as its reason."""
    with pytest.raises(CallFailed, match="the bits fell out") as caught:
        client.classify("plain", ["x"])
    assert "DATA_LOSS" == caught.value.reason


def test_what_grpc_refuses_in_a_burst_is_a_full_queue(client):
    """Its own limit is reached before the daemon refuses: no details come, and the caller tries again all the same."""
    with pytest.raises(CallFailed) as caught:
        client.classify("crowded", ["x"])
    failed = caught.value
    assert ("QUEUE_FULL", 1.0, "Try again in 1 s.") == (failed.reason, failed.retry_after_seconds, failed.remedy)


def test_a_deadline_ends_the_call_on_both_sides(client, daemon):
    """After timeout_seconds the client raises and the daemon sees the call end."""
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
def test_no_daemon_is_unreachable_with_a_remedy(target, remedy):
    """Where nobody listens the error says so at once, and asks whether edge-agent is running."""
    with Client(target) as nobody, pytest.raises(CallFailed, match="no daemon answers at") as caught:
        nobody.tasks()
    assert ("UNREACHABLE", "UNAVAILABLE") == (caught.value.reason, caught.value.code)
    assert "Is edge-agent running" in caught.value.remedy
    assert remedy in caught.value.remedy


def test_serving_asks_the_health_service(client):
    """The overall health is a yes or no; an unknown service is a failed call."""
    assert client.serving()
    with pytest.raises(CallFailed) as caught:
        client.serving("no-such-task")
    assert "NOT_FOUND" == caught.value.code


def test_generate_streams_the_text_and_then_its_end(client, daemon):
    """Pieces come in order; `finish` is there after the last one; options that are None stay unset."""
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
    """The daemon sees the cancel when a `with` block is left in the middle."""
    with client.generate("endless", "hi") as stream:
        assert "Hello" == next(iter(stream))
    assert daemon.inference.stream_ended.wait(WAIT_SECONDS_MAX)
    assert stream.finish is None


def test_breaking_out_of_the_loop_cancels_the_generation(client, daemon):
    """The daemon sees the cancel even without a `with` block."""
    for _ in client.generate("endless", "hi"):
        break
    assert daemon.inference.stream_ended.wait(WAIT_SECONDS_MAX)


def test_cancel_ends_the_iteration_quietly(client, daemon):
    """After cancel() the loop just ends."""
    stream = client.generate("endless", "hi")
    pieces = []
    for piece in stream:
        pieces.append(piece)
        stream.cancel()
    assert (["Hello"], None) == (pieces, stream.finish)
    assert daemon.inference.stream_ended.wait(WAIT_SECONDS_MAX)


def test_a_stream_that_breaks_raises_after_its_first_pieces(client):
    """What came before the failure was delivered."""
    pieces = []
    with pytest.raises(CallFailed) as caught:
        pieces.extend(client.generate("breaks", "hi"))
    assert ("STREAM_BROKEN", 0.5) == (caught.value.reason, caught.value.retry_after_seconds)


def test_admin_shows_the_state(admin):
    """Status is typed, with times in UTC."""
    status = admin.status()
    assert datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC) == status.start_time
    assert [("echo-1234", "READY", 42)] == [(engine.name, engine.state, engine.pid) for engine in status.engines]
    assert ["pos-intent"] == [task.name for task in status.tasks]


def test_admin_lists_bundles_over_all_pages(admin, daemon):
    """The task and the page token reach the daemon."""
    bundles = admin.bundles("pos-intent")
    assert [("CLASSIFY", True), ("CLASSIFY", True)] == [(bundle.kind, bundle.active) for bundle in bundles]
    assert [("pos-intent", ""), ("pos-intent", "next")] == [
        (request.task, request.page_token) for request in daemon.admin.requests
    ]


def test_install_sends_an_absolute_path(admin, daemon, tmp_path, monkeypatch):
    """The daemon's working directory is not ours, so a relative path is made absolute."""
    monkeypatch.chdir(tmp_path)
    bundle, new = admin.install(Path("bundle"), activate=False)
    assert (False, True) == (bundle.active, new)
    assert (str(tmp_path / "bundle"), True) == (daemon.admin.requests[-1].path, daemon.admin.requests[-1].no_activate)


def test_admin_activates_rolls_back_removes_and_drains(admin, daemon):
    """Each call names what it was given."""
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
async def test_what_is_no_list_of_texts_is_refused(client, daemon, texts, error, said):
    """A slip names the text; nothing is sent, and no letter is taken for a text."""
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
def test_what_is_no_text_is_not_generated_from(client, text, error):
    """generate checks its text, too."""
    with pytest.raises(error, match=r"^text "):
        client.generate("assistant", text)


def test_a_policy_that_does_not_exist_is_a_slip(client, daemon):
    """The words that exist are named, and nothing is sent."""
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
async def test_an_address_is_unix_or_has_a_port(address, said):
    """An address that gRPC would look up for ever says at once how to write it."""
    for make in (Client, AdminClient, AsyncClient):
        with pytest.raises(ValueError, match=said):
            make(address)


@pytest.mark.parametrize(
    "address", ["localhost:1", "[::1]:1", "unix:x", "unix:///x", "dns:///till:1", "ipv4:127.0.0.1:1"]
)
def test_grpcs_own_addresses_are_taken(address):
    """Every form that gRPC documents is an address."""
    assert address == daemon_connection.require_address(address)


@pytest.mark.parametrize("endless", [1e12, float("inf")])
async def test_a_deadline_beyond_all_counting_is_a_long_one(client, daemon, endless):
    """gRPC would take it for one that has passed."""
    assert CLASSIFICATION == client.classify("pos-intent", TEXTS, timeout_seconds=endless)[0]
    async with AsyncClient(daemon.targets[0]) as another:
        assert CLASSIFICATION == (await another.classify("pos-intent", TEXTS, timeout_seconds=endless))[0]


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
async def test_a_call_needs_time(client, daemon, seconds):
    """A timeout that is not more than 0 is a slip, not a deadline that passed."""
    async with AsyncClient(daemon.targets[0]) as aio:
        with pytest.raises(ValueError, match="timeout_seconds is"):
            await aio.tasks(timeout_seconds=seconds)
    for call in (
        lambda: client.tasks(timeout_seconds=seconds),
        lambda: client.generate("a", "b", timeout_seconds=seconds),
    ):
        with pytest.raises(ValueError, match="timeout_seconds is"):
            call()


async def test_a_closed_client_says_so(daemon):
    """No call starts after close, in none of the clients."""
    closed, aio = Client(daemon.targets[0]), AsyncClient(daemon.targets[0])
    closed.close()
    await aio.close()
    for call in (closed.tasks, lambda: closed.generate("a", "b"), lambda: aio.generate("a", "b")):
        with pytest.raises(ValueError, match="this client is closed"):
            call()
    with pytest.raises(ValueError, match="this client is closed"):
        await aio.tasks()


def test_a_message_over_the_limit_says_how_large_it_was(client):
    """gRPC's own refusal has a reason, the numbers and a remedy."""
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
def test_a_socket_of_others_is_told_from_a_missing_daemon(mode, remedy):
    """Another user learns that it may not use the socket. A group is proposed only for a socket that has one."""
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


def test_a_failed_call_prints_whole(client):
    """A log or traceback has the reason, the sentence and the remedy, with the delay in seconds."""
    with pytest.raises(CallFailed) as caught:
        client.classify("busy", ["x"])
    said = "QUEUE_FULL: 64 inputs wait; the limit is 64; what to do: Try again in 1.5 s."
    assert said == str(caught.value)


def test_a_failed_input_has_no_delay_to_speak_of():
    """An input's error carries no RetryInfo, so its remedy does not name one."""
    assert "Try again." == remedy_with_delay("Try again after the delay in RetryInfo.", None)


def test_the_document_lists_the_clients_own_reasons():
    """docs/errors.md has a row for what no daemon writes."""
    document = (Path(__file__).parents[3] / "docs" / "errors.md").read_text(encoding="utf-8")
    own = document.partition("## From the client's side")[2]
    assert [] == [
        word
        for word in (UNREACHABLE, MESSAGE_TOO_LARGE, QUEUE_FULL, DEADLINE_EXPIRED, "UNIMPLEMENTED")
        if f"| `{word}` |" not in own
    ]


async def test_the_async_client_gives_the_same_values(daemon):
    """Sync and aio share their translation."""
    async with AsyncClient(daemon.targets[0]) as client:
        assert [CLASSIFICATION, BAD] == await client.classify("pos-intent", TEXTS)
        assert BAD == (await client.embed("product-search", TEXTS))[1]
        assert "LOCAL" == (await client.extract("pos-fields", ["x"]))[0].route
        assert 3 == len(await client.tasks())
        assert "pos-intent" == (await client.task("pos-intent")).name


async def test_the_async_client_raises_the_same_errors(daemon):
    """Details, deadline and a missing daemon are read the same way."""
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


async def test_the_async_stream_gives_pieces_and_finish(daemon):
    """Pieces come in order, then the end."""
    async with AsyncClient(daemon.targets[0]) as client, client.generate("assistant", "hi") as stream:
        assert ["Hello", " there"] == [piece async for piece in stream]
        assert "LENGTH" == stream.finish.reason


async def test_leaving_the_async_block_cancels_the_generation(daemon):
    """The daemon sees the cancel, though gRPC itself would leave a dropped stream running."""
    async with AsyncClient(daemon.targets[0]) as client:
        async with client.generate("endless", "hi") as stream:
            async for piece in stream:
                assert "Hello" == piece
                break
        assert await asyncio.to_thread(daemon.inference.stream_ended.wait, WAIT_SECONDS_MAX)


async def test_closing_an_async_stream_cancels_it(daemon):
    """`contextlib.aclosing` works, and an iteration after it ends quietly."""
    async with AsyncClient(daemon.targets[0]) as client:
        async with contextlib.aclosing(client.generate("endless", "hi")) as stream:
            pass
        assert [] == [piece async for piece in stream]


async def test_cancelling_the_reader_cancels_the_stream_and_the_task(daemon):
    """A cancelled task stays cancelled, and the daemon sees it."""
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


def test_the_package_exports_what_it_names():
    """`__all__` is sorted and complete."""
    assert sorted(package.__all__) == package.__all__
    assert all(hasattr(package, name) for name in package.__all__)
