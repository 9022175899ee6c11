"""Hosts, sessions, page keys and roles of the console."""

import pytest

from edge_agent.web import request_guard
from edge_agent.web.request_guard import SessionSigner, allowed_hosts

CERTIFICATES = {"certificate_file": "a.crt", "key_file": "a.key", "client_ca_file": "ca.crt"}


@pytest.mark.parametrize(
    ("address", "names", "expected"),
    [
        ("127.0.0.1:8390", (), {"127.0.0.1:8390", "localhost:8390", "[::1]:8390"}),
        ("[::1]:8390", (), {"127.0.0.1:8390", "localhost:8390", "[::1]:8390"}),
        ("10.0.0.5:9443", ("Till.Shop",), {"10.0.0.5:9443", "till.shop:9443"}),
        ("0.0.0.0:9443", ("till",), {"till:9443", "localhost:9443", "127.0.0.1:9443", "[::1]:9443"}),
        ("10.0.0.5:9443", ("fd00::1",), {"[fd00::1]:9443", "10.0.0.5:9443"}),
        ("10.0.0.5:9443", ("localhost:8391",), {"localhost:8391", "10.0.0.5:9443"}),
        ("10.0.0.5:443", (), {"10.0.0.5:443", "10.0.0.5"}),
        ("10.0.0.5:9443", ("Till:80",), {"till:80", "till", "10.0.0.5:9443"}),
        ("10.0.0.5:9443", ("[FD00::1]:443",), {"[fd00::1]:443", "[fd00::1]", "10.0.0.5:9443"}),
    ],
)  # fmt: skip
def test_host_must_be_a_name_of_the_console(address, names, expected):
    """Host must be the address or a configured name, without the port if it is the default."""
    assert expected == allowed_hosts(address, names)


def test_session_expires():
    """A session is valid until its time and only for the secret that signed it."""
    seal = SessionSigner("secret")
    cookie = seal.sign_session(100.4, "nonce")
    assert [True, False, False] == [
        seal.is_valid_session(cookie, 99.9),
        seal.is_valid_session(cookie, 100),
        SessionSigner("other").is_valid_session(cookie, 0),
    ]
    later = cookie.replace("100.", "900.", 1)
    assert [False, False, False] == [seal.is_valid_session(forged, 0) for forged in (later, "", "ä.ö.ü")]


def test_page_key_belongs_to_one_principal():
    """A page key is valid only for its principal, and a session is no page key."""
    seal = SessionSigner("secret")
    assert seal.is_page_key("anna", seal.page_key("anna"))
    assert not seal.is_page_key("berta", seal.page_key("anna"))
    assert not seal.is_page_key("anna", seal.sign_session(1, "anna"))
    assert [True, False, False] == [seal.is_token(given) for given in ("secret", "Secret", "sécret")]


def test_consoles_do_not_end_each_others_sessions():
    """Two consoles under one host name, as with ports that ssh forwards, use cookies of different names, which do not
    reveal the secret."""
    one, two = SessionSigner("secret"), SessionSigner("other")
    assert (one.cookie_name, True) == (SessionSigner("secret").cookie_name, one.cookie_name != two.cookie_name)
    assert "secret" not in one.cookie_name


def test_paths_have_roles():
    """Every page that shows or changes data of a role requires that role; the login page requires none."""
    paths = ("/", "/live", "/charts", "/tasks/x", "/review", "/review/judge", "/v1/models", "/logout")
    assert [None, None, "admin", "admin", "feedback", "feedback", "infer", None] == [
        *map(request_guard.required_role, paths)
    ]
    assert [True, True, True, False] == [
        *map(request_guard.is_public, ("/login", "/static/x.css", "/healthz", "/loginx"))
    ]
