"""The port that Prometheus scrapes: its answers and its limits."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs

from edge_agent.metrics import metrics_listener
from edge_agent.metrics.metrics_listener import CONNECTIONS_MAX, REQUEST_BYTES_MAX, MetricsListener
from tests.support.eventually import eventually_sync
from tests.support.free_ports import free_port
from tests.support.scraped import fetch, say

GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Site:
    """Counts how often its page is made; `stuck` makes it wait for ever."""

    def __init__(self) -> None:
        self.made = 0
        self.stuck = False
        self.body = b"edge_agent_serving 1\n"

    async def page(self) -> bytes:
        self.made += 1
        if self.stuck:
            raise TimeoutError
        return self.body


@contextlib.contextmanager
def listening(site: Site, port: int = 0, host: str = "127.0.0.1") -> Iterator[MetricsListener]:
    """Listen until the end of the block."""
    made = MetricsListener(host, port, site.page)
    made.start()
    try:
        eventually_sync(lambda: bool(made.port or made.problem))
        yield made
    finally:
        made.stop()


@pytest.fixture
def site() -> Site:
    """A site that responds."""
    return Site()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_a_scraper_gets_the_page(site):
    """GET /metrics returns the page in the text format, also with a query string."""
    with listening(site) as there:
        head, _, body = say(there.port, GET).partition(b"\r\n\r\n")
        assert site.body == body
        assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8" in head.split(b"\r\n")
        assert 200 == status_of(say(there.port, GET.replace(b"/metrics", b"/metrics?x=1")))


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
        (b"DELETE /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/../../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 405),
        (b"\r\n\r\n", 405),
    ],
)
def test_other_requests_are_refused(site, request_bytes, status):
    """Other methods and paths, and what is not HTTP, are refused without making a page."""
    with listening(site) as there:
        assert status == status_of(say(there.port, request_bytes))
    assert 0 == site.made


def test_head_has_no_body(site):
    """HEAD returns the headers of GET without the page."""
    with listening(site) as there:
        answer = say(there.port, GET.replace(b"GET", b"HEAD"))
    assert b"Content-Length: 21\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_request_size_is_limited(site):
    """Endless headers are cut off at their limit."""
    with listening(site) as there:
        assert b"" == say(there.port, b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * REQUEST_BYTES_MAX)
        assert site.body.decode() == fetch(there.port)


def test_a_page_is_made_once_a_second(site):
    """200 requests by 8 clients make at most one page per second."""
    with listening(site) as there, ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        assert [200] * 200 == [status_of(answer) for answer in pool.map(lambda _: say(there.port, GET), range(200))]
        assert site.made <= 1 + (time.monotonic() - began) / metrics_listener.PAGE_SECONDS


@pytest.mark.slow
def test_idle_connections_do_not_block_a_scraper(site):
    """With 300 idle connections a scraper gets its page, and few of them stay open."""
    with listening(site) as there, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", there.port))) for _ in range(300)]
        assert site.body.decode() == fetch(there.port)
        eventually_sync(lambda: sum(map(_open, idle)) <= CONNECTIONS_MAX)


def test_hanging_daemon_is_reported_to_the_scraper(site):
    """A scrape that the daemon does not answer in time gets 503, and the next is tried again."""
    with listening(site) as there:
        site.stuck = True
        assert 503 == status_of(say(there.port, GET))
        site.stuck = False
        assert 200 == status_of(say(there.port, GET))


def test_scraper_that_does_not_read_blocks_no_other(site):
    """A scraper that reads nothing of a large page blocks neither another nor the stop."""
    site.body = b"#" * 2**24
    with listening(site) as there, socket.create_connection(("127.0.0.1", there.port)) as slow:
        slow.sendall(GET)
        assert len(site.body) == len(fetch(there.port))


def test_port_in_use_is_reported_and_retried(site):
    """While another program has the port, the listener logs it and retries, and its thread can be stopped."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), listening(site, port) as there:
        assert (0, True) == (there.port, "in use" in there.problem)


def test_logged_url_has_the_ipv6_address_in_brackets(site):
    """In brackets, as in every URL."""
    with capture_logs() as logged, listening(site, host="::1") as there:
        if not there.port:
            pytest.skip("needs IPv6")
    assert f"http://[::1]:{there.port}/metrics" == logged[0]["url"]


def test_stop_ends_the_thread_and_its_socket(site):
    """After `stop` there is no thread and no socket, with or without open connections."""
    before = threading.active_count()
    with listening(site) as there:
        port = there.port
        with socket.create_connection(("127.0.0.1", port)):
            pass
    assert before == threading.active_count()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def _open(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
