"""The console's request guard: admitted and refused requests, and the headers of every response."""

import asyncio
import contextlib
import re
from typing import Any

import pytest

from edge_agent.formats.certificates import Certificate
from edge_agent.web.request_guard import PAGE_KEY, GuardSettings, Principal, RequestGuard, SessionSigner, allowed_hosts
from tests.support.asgi import HOST, AsgiResponse, ask, never

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


class GuardedApp:
    """The guarded application, which records requests and reads their bodies."""

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


async def tried(
    path: str = "/", method: str = "GET", headers: Any = None, body: Any = b"", **scope: Any
) -> AsgiResponse:
    """Send a request to a guard with the token."""
    return await ask(gate(GuardedApp()), path, method, headers, body, **scope)


async def with_certificate(
    shown: Certificate | None, path: str, method: str = "GET", headers: Any = None
) -> AsgiResponse:
    """Send a request to a guard that requires certificates."""
    state = {"certificate": shown} if shown else {}
    return await ask(gate(GuardedApp(), {"anna": ("feedback",)}), path, method, headers, state=state, scheme="https")


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
async def test_token_or_session_is_admitted(headers, status):
    """The token as Bearer or a session cookie is admitted; anything else is redirected to /login."""
    answered = await tried("/", headers=headers)
    assert status == answered.status
    assert (status == 303) == (answered.headers.get("location") == "/login")


async def test_expired_session_of_an_htmx_request_redirects_the_page():
    """An htmx request with an expired session makes the whole page go to /login."""
    answered = await tried("/live", headers={"hx-request": "true"})
    assert (401, "/login") == (answered.status, answered.headers["hx-redirect"])


async def test_refusal_under_v1_is_json():
    """Under /v1 a refusal is JSON in the form of OpenAI's API and names the Bearer scheme."""
    answered = await tried("/v1/models")
    assert (401, "Bearer") == (answered.status, answered.headers["www-authenticate"])
    assert '"type":"authentication_error","param":null,"code":"TOKEN_MISSING"' in answered.text


@pytest.mark.parametrize("host", ["evil.example:8390", "127.0.0.1:80", "127.0.0.1", "", "localhost:8390.evil.example"])
async def test_unknown_host_is_refused_first(host):
    """A Host that is not a name of this console, as in DNS rebinding, is refused whatever credentials come with it."""
    answered = await tried("/", headers={**COOKIED, "host": host})
    assert (421, True) == (answered.status, "HOST_UNKNOWN" in answered.text)
    assert 421 == (await tried("/healthz", headers={"host": host})).status


@pytest.mark.parametrize("host", ["127.0.0.1:8390", "localhost:8390", "LOCALHOST:8390", "[::1]:8390"])
async def test_every_loopback_name_is_accepted(host):
    """A console on loopback goes by every name of loopback."""
    assert 200 == (await tried("/", headers={**COOKIED, "host": host})).status


async def test_names_of_a_renewed_certificate_are_accepted_at_once():
    """Names of a certificate that was renewed without a restart are accepted."""
    names: set[str] = set()
    settings = GuardSettings(
        allowed_hosts(HOST, ()), SEAL, None, 100, 5.0, lambda: NOW, certificate_hosts=lambda: frozenset(names)
    )
    guard, request = RequestGuard(GuardedApp(), settings), {**BEARER, "host": "till.shop:8390"}
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
async def test_change_requires_the_page_key_or_the_token(headers, status):
    """A change is accepted from one of our pages with its key, or from a program with the token, and never from another
    origin."""
    assert status == (await tried("/review/judge", "POST", headers)).status


async def test_login_form_of_another_origin_is_refused():
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
async def test_page_requires_the_role_of_the_certificate(shown, path, status):
    """With certificates each page requires its role, from the certificate or agent.yaml; an expired one has none."""
    named = shown and Certificate(**{**vars(shown), "names": (*shown.names, "anna")})
    assert status == (await with_certificate(named, path)).status


async def test_token_is_refused_if_certificates_are_required():
    """A console with certificates accepts neither the token nor a session."""
    assert 401 == (await with_certificate(None, "/", headers=BEARER)).status
    assert 401 == (await with_certificate(None, "/", headers=COOKIED)).status


async def test_browser_with_a_certificate_needs_the_page_key():
    """A browser sends its certificate automatically, so a change needs the page key; a program's does not."""
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
async def test_request_size_is_limited(headers, body, status):
    """A body over the limit is refused by its Content-Length and by its actual size."""
    assert status == (await tried("/v1/x", "POST", {**BEARER, **headers}, body)).status


async def test_chunked_request_size_is_limited():
    """A body without a Content-Length is refused when it exceeds the limit."""
    assert 413 == (await tried("/v1/x", "POST", BEARER, sent_in_parts(b"x" * 60, b"x" * 60))).status


async def test_refusal_is_sent_instead_of_the_response_of_the_application():
    """An application that answers 500 to any exception cannot replace the status for a body that is too large."""
    behind = GuardedApp()

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        try:
            await behind(scope, receive, send)
        except Exception:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"Internal Server Error"})
            raise

    answered = await ask(gate(failing), "/v1/x", "POST", BEARER, sent_in_parts(b"x" * 60, b"x" * 60))
    assert (413, True) == (answered.status, "MESSAGE_TOO_LARGE" in answered.text)


async def test_request_time_is_limited():
    """A body that does not arrive, and a response that does not begin, end with 504."""
    late = gate(GuardedApp(), seconds=0.02)
    assert 504 == (await ask(late, "/v1/x", "POST", BEARER, never())).status
    behind = GuardedApp()
    behind.stuck = True
    assert 504 == (await ask(gate(behind, seconds=0.02), "/", "GET", BEARER)).status


async def test_call_under_v1_has_the_deadline_of_its_caller():
    """Under /v1 the limit covers only the arrival of the request, because the caller sets the deadline of the model."""
    behind = GuardedApp()
    behind.takes_seconds = 0.1
    assert 200 == (await ask(gate(behind, seconds=0.05), "/v1/x", "POST", BEARER, b"asked")).status
    assert 504 == (await ask(gate(behind, seconds=0.05), "/", "GET", BEARER)).status


async def test_started_response_is_not_cut_off():
    """A stream is not cut off, because the limit covers only the beginning of a response."""
    behind = GuardedApp()
    behind.begins = True
    slow = gate(behind, seconds=0.05)

    async def body() -> Any:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.1)
        yield b"late"

    answered = await ask(slow, "/v1/x", "POST", BEARER, body())
    assert (200, "inside") == (answered.status, answered.text)


@pytest.mark.parametrize("path", ["/", "/healthz", "/nothing", "/v1/models"])
async def test_every_response_has_the_security_headers(path):
    """Every response, refusals included, forbids foreign scripts and pages, frames and caching."""
    for headers in (BEARER, {}, {"host": "evil.example"}):
        answered = await tried(path, headers=headers)
        policy = answered.headers["content-security-policy"]
        assert not re.search("unsafe|\\*|http", policy), policy
        assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy.split("; "))
        assert ("nosniff", "no-referrer") == (
            answered.headers["x-content-type-options"],
            answered.headers["referrer-policy"],
        )


async def test_cache_header_of_a_page_is_kept():
    """A cache header that a page sets is not replaced."""
    assert "max-age=60" == (await tried("/", headers=BEARER)).headers["cache-control"]
    assert "no-store" == (await tried("/")).headers["cache-control"]


async def test_lifespan_messages_pass_unchanged():
    """Messages of the server, such as its start, pass the guard."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await gate(app)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert ["lifespan"] == seen
