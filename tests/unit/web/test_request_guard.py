"""The console's guard: admitted and refused requests, and the headers of every answer."""

import asyncio
import contextlib
import re
from typing import Any

import pytest

from edge_agent.formats.certificates import Certificate
from edge_agent.web.request_guard import PAGE_KEY, GuardSettings, Principal, RequestGuard, SessionSigner, allowed_hosts
from tests.support.asgi import HOST, Answered, ask, never

NOW = 1_800_000_000.0
SEAL = SessionSigner("t" * 43)
SESSION = SEAL.sign_session(NOW + 60, "nonce")
COOKIE = SEAL.cookie_name
COOKIED = {"cookie": f"{COOKIE}={SESSION}"}
BEARER = {"authorization": f"Bearer {'t' * 43}"}
KEY = {PAGE_KEY: SEAL.page_key(SESSION)}


def certificate(*roles: str, ends_at: float = NOW + 60) -> Certificate:
    uris = tuple(f"edge-agent://role/{role}" for role in roles)
    return Certificate("anna", uris, uris, False, NOW - 60, ends_at, "f" * 64)


class Behind:
    """What is guarded: notes what came through, and reads the whole body."""

    def __init__(self) -> None:
        self.visitors: list[Principal | None] = []
        self.stuck = False
        self.begins = False
        self.takes_seconds = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.visitors.append(scope.get("principal"))
        start = {"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=60")]}
        if self.begins:
            await send(start)
        if self.stuck:
            await asyncio.Event().wait()
        while (await receive())["more_body"]:
            pass
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), self.takes_seconds)
        if not self.begins:
            await send(start)
        await send({"type": "http.response.body", "body": b"inside"})


def gate(behind: Any, certified: Any = None, seconds: float = 5.0) -> RequestGuard:
    return RequestGuard(
        behind, GuardSettings(allowed_hosts("127.0.0.1:8390", ()), SEAL, certified, 100, seconds, lambda: NOW)
    )


async def tried(path: str = "/", method: str = "GET", headers: Any = None, body: Any = b"", **scope: Any) -> Answered:
    """Ask a gate of visitors with the token."""
    return await ask(gate(Behind()), path, method, headers, body, **scope)


async def with_certificate(shown: Certificate | None, path: str, method: str = "GET", headers: Any = None) -> Answered:
    """Ask a gate of visitors with certificates."""
    state = {"certificate": shown} if shown else {}
    return await ask(gate(Behind(), {"anna": ("feedback",)}), path, method, headers, state=state, scheme="https")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (COOKIED, 200),
        (BEARER, 200),
        ({"authorization": f"bearer  {'t' * 43}"}, 200),
        ({}, 303),
        ({"authorization": f"Bearer {'t' * 42}x"}, 303),
        ({"authorization": "Bearer "}, 303),
        ({"authorization": f"Basic {'t' * 43}"}, 303),
        ({"cookie": f"{COOKIE}={SEAL.sign_session(NOW - 1, 'nonce')}"}, 303),
        ({"cookie": f"{COOKIE}={SESSION[:-1]}0"}, 303),
        ({"cookie": f"{COOKIE}={SessionSigner('u' * 43).sign_session(NOW + 60, 'nonce')}"}, 303),
        ({"cookie": f"{COOKIE}=9999999999.x."}, 303),
        ({"cookie": f"{COOKIE}="}, 303),
    ],
)
async def test_who_shows_the_token_or_a_session_is_let_in(headers, status):
    """The token as Bearer or a cookie that was given for it lets in; anything else leads to the way in."""
    answered = await tried("/", headers=headers)
    assert status == answered.status
    assert (status == 303) == (answered.headers.get("location") == "/login")


async def test_a_part_of_a_page_sends_the_browser_to_the_way_in():
    """A request by htmx whose session has ended makes the whole page go to /login, not a part of it."""
    answered = await tried("/live", headers={"hx-request": "true"})
    assert (401, "/login") == (answered.status, answered.headers["hx-redirect"])


async def test_a_program_gets_its_refusal_in_json():
    """Under /v1 a refusal is the JSON that clients of OpenAI's API read, and names the way of showing a token."""
    answered = await tried("/v1/models")
    assert (401, "Bearer") == (answered.status, answered.headers["www-authenticate"])
    assert '"type":"authentication_error","param":null,"code":"TOKEN_MISSING"' in answered.text


@pytest.mark.parametrize("host", ["evil.example:8390", "127.0.0.1:80", "127.0.0.1", "", "localhost:8390.evil.example"])
async def test_a_foreign_name_is_refused_before_anything_else(host):
    """A name that leads here without being this console's, as in DNS rebinding, gets nothing, whatever it shows."""
    answered = await tried("/", headers={**COOKIED, "host": host})
    assert (421, True) == (answered.status, "HOST_UNKNOWN" in answered.text)
    assert 421 == (await tried("/healthz", headers={"host": host})).status


@pytest.mark.parametrize("host", ["127.0.0.1:8390", "localhost:8390", "LOCALHOST:8390", "[::1]:8390"])
async def test_each_name_of_this_machine_is_known(host):
    """A console on loopback goes by every name of loopback."""
    assert 200 == (await tried("/", headers={**COOKIED, "host": host})).status


async def test_a_name_of_a_renewed_certificate_is_known_at_once():
    """The console takes a renewed certificate up without a restart, and so the names in it."""
    names: set[str] = set()
    settings = GuardSettings(
        allowed_hosts(HOST, ()), SEAL, None, 100, 5.0, lambda: NOW, certificate_hosts=lambda: frozenset(names)
    )
    guard, request = RequestGuard(Behind(), settings), {**BEARER, "host": "till.shop:8390"}
    assert 421 == (await ask(guard, "/", headers=request)).status
    names.add("till.shop:8390")
    assert 200 == (await ask(guard, "/", headers=request)).status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({**COOKIED, **KEY}, 200),
        ({**COOKIED, **KEY, "origin": f"http://{HOST}"}, 200),
        (BEARER, 200),
        (COOKIED, 403),
        ({**COOKIED, PAGE_KEY: "0" * 64}, 403),
        ({**COOKIED, PAGE_KEY: SEAL.page_key("another")}, 403),
        ({**COOKIED, **KEY, "origin": "http://evil.example"}, 403),
        ({**COOKIED, **KEY, "origin": f"https://{HOST}"}, 403),
        ({**COOKIED, **KEY, "origin": "null"}, 403),
        ({**BEARER, "origin": "http://evil.example"}, 403),
    ],
)
async def test_a_change_needs_the_key_of_the_page(headers, status):
    """What changes something comes from a page of ours, or from a program with the token; never from elsewhere."""
    assert status == (await tried("/review/judge", "POST", headers)).status


async def test_a_form_from_elsewhere_cannot_sign_in():
    """The way in takes no form of another site's page."""
    assert 403 == (await tried("/login", "POST", {"origin": "http://evil.example"})).status
    assert 200 == (await tried("/login", "POST", {"origin": f"http://{HOST}"})).status


@pytest.mark.parametrize(
    ("shown", "path", "status"),
    [
        (certificate("admin"), "/charts", 200),
        (certificate("admin"), "/tasks/pos", 200),
        (certificate("infer"), "/v1/models", 200),
        (certificate("infer"), "/", 200),
        (certificate("infer"), "/review", 200),  # agent.yaml gives 'anna' feedback
        (certificate("infer"), "/charts", 403),
        (certificate("admin"), "/v1/models", 403),
        (certificate("admin", ends_at=NOW), "/", 401),
        (None, "/", 401),
    ],
)
async def test_a_certificate_says_what_its_holder_may_see(shown, path, status):
    """With certificates each page needs its role, from the certificate or agent.yaml, and an ended one is none."""
    named = shown and Certificate(**{**vars(shown), "names": (*shown.names, "anna")})
    assert status == (await with_certificate(named, path)).status


async def test_a_token_is_worth_nothing_beside_certificates():
    """A console that wants certificates takes neither the token nor a session."""
    assert 401 == (await with_certificate(None, "/", headers=BEARER)).status
    assert 401 == (await with_certificate(None, "/", headers=COOKIED)).status


async def test_a_browser_with_a_certificate_needs_the_page_key_too():
    """A certificate is sent by the browser by itself, so a change needs the page's key; a program's needs none."""
    shown = certificate("feedback")
    key = {PAGE_KEY: SEAL.page_key(shown.fingerprint)}
    ours = {"origin": f"https://{HOST}"}
    expected = {"program": 200, "browser": 403, "page": 200, "sec": 403}
    asked = {"program": {}, "browser": ours, "page": {**ours, **key}, "sec": {"sec-fetch-site": "cross-site"}}
    got = {
        name: (await with_certificate(shown, "/review/judge", "POST", headers)).status
        for name, headers in asked.items()
    }
    assert expected == got


async def sent_in_parts(*parts: bytes) -> Any:
    for part in parts:
        yield part


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"x" * 100, 200),
        ({"content-length": "101"}, b"", 413),
        ({}, b"x" * 101, 413),
    ],
)
async def test_a_request_has_a_size(headers, body, status):
    """A body over the limit is refused by its Content-Length and by its actual size."""
    assert status == (await tried("/v1/x", "POST", {**BEARER, **headers}, body)).status


async def test_a_request_in_parts_has_the_same_size():
    """A body whose length nobody said is refused where it grows over the limit."""
    assert 413 == (await tried("/v1/x", "POST", BEARER, sent_in_parts(b"x" * 60, b"x" * 60))).status


async def test_what_an_application_makes_of_a_refusal_is_not_sent():
    """One that answers 500 to whatever is raised inside it cannot say it of a body that is too large."""
    behind = Behind()

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        try:
            await behind(scope, receive, send)
        except Exception:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"Internal Server Error"})
            raise

    answered = await ask(gate(failing), "/v1/x", "POST", BEARER, sent_in_parts(b"x" * 60, b"x" * 60))
    assert (413, True) == (answered.status, "MESSAGE_TOO_LARGE" in answered.text)


async def test_a_request_has_a_time():
    """A body that does not come, and an answer that does not begin, end with 504."""
    late = gate(Behind(), seconds=0.02)
    assert 504 == (await ask(late, "/v1/x", "POST", BEARER, never())).status
    behind = Behind()
    behind.stuck = True
    assert 504 == (await ask(gate(behind, seconds=0.02), "/", "GET", BEARER)).status


async def test_a_call_of_a_program_that_has_come_has_a_deadline_of_its_own():
    """Under /v1 the bound is on the request's way: how long a model may write is its caller's to say."""
    behind = Behind()
    behind.takes_seconds = 0.1
    assert 200 == (await ask(gate(behind, seconds=0.05), "/v1/x", "POST", BEARER, b"asked")).status
    assert 504 == (await ask(gate(behind, seconds=0.05), "/", "GET", BEARER)).status


async def test_an_answer_that_has_begun_may_take_its_time():
    """A stream is not cut off: the bound is on its beginning."""
    behind = Behind()
    behind.begins = True
    slow = gate(behind, seconds=0.05)

    async def body() -> Any:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.1)
        yield b"late"

    answered = await ask(slow, "/v1/x", "POST", BEARER, body())
    assert (200, "inside") == (answered.status, answered.text)


@pytest.mark.parametrize("path", ["/", "/healthz", "/nothing", "/v1/models"])
async def test_every_answer_carries_the_policy(path):
    """Every answer, refusals too, forbids scripts and pages from elsewhere, frames, and keeping it."""
    for headers in (BEARER, {}, {"host": "evil.example"}):
        answered = await tried(path, headers=headers)
        policy = answered.headers["content-security-policy"]
        assert not re.search("unsafe|\\*|http", policy), policy
        assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy.split("; "))
        assert ("nosniff", "no-referrer") == (
            answered.headers["x-content-type-options"],
            answered.headers["referrer-policy"],
        )


async def test_what_a_page_says_of_keeping_it_stands():
    """A header that the page itself sets is not set again."""
    assert "max-age=60" == (await tried("/", headers=BEARER)).headers["cache-control"]
    assert "no-store" == (await tried("/")).headers["cache-control"]


async def test_what_is_no_request_goes_through():
    """Messages of the server's own, such as its start, are no business of the gate's."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await gate(app)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert ["lifespan"] == seen
