"""The identity of a caller: by socket and its own name, by address, or by certificate."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import certificate_authority
from edge_agent.errors import CertificateExpired, CertificateUnusable
from edge_agent.server import roles
from edge_agent.server.roles import ACCOUNT_SECONDS, INFER, AccountTable
from edge_agent.server.tls import CALLERS_MAX, CertificateIdentifier
from tests.support.tls_site import DAY

ROOT = certificate_authority.make_authority("site", time.time())


@dataclass
class Context:
    """What gRPC provides of a call."""

    metadata: tuple[tuple[str, Any], ...] = ()
    pem: bytes = b""
    address: str = "unix:"
    asked: list[str] = field(default_factory=list)

    def invocation_metadata(self) -> tuple[tuple[str, Any], ...]:
        return self.metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self.pem]}

    def peer(self) -> str:
        return self.address


def issued(name: str, *roles: str, at: float | None = None, days: int = 30) -> Context:
    return Context(
        pem=certificate_authority.issue_client_certificate(
            ROOT, name, roles, time.time() if at is None else at, days
        ).certificate
    )


def socket(accounts_max: int = 16) -> roles.CallerIdentifier:
    return roles.socket_caller_identifier("inference.sock", INFER, AccountTable(accounts_max))


def test_unnamed_callers_of_a_socket_are_one_client() -> None:
    """Callers of a socket are one client unless they send a name, which gives no role."""
    identify = socket()
    unnamed = identify(Context((("user-agent", "grpc"),)))
    assert roles.Caller("inference.sock", INFER) == unnamed
    named = identify(Context((("user-agent", "grpc"), ("edge-agent-client", "till-3"))))
    assert ("inference.sock till-3", INFER) == (named.name, named.roles)
    assert ["inference.sock", "inference.sock #1"] == [unnamed.account, named.account]


def test_names_beyond_the_accounts_are_one_client() -> None:
    """Names beyond the number of accounts share one; a name that has an account keeps it."""
    identify = socket(2)
    names = ["a", "b", *map(str, range(100)), "a", "b"]
    found = [identify(Context((("edge-agent-client", name),))) for name in names]
    assert [f"inference.sock {name}" for name in names] == [caller.name for caller in found]
    accounts = [caller.account for caller in found]
    assert ["inference.sock #1", "inference.sock #2"] == accounts[:2] == accounts[-2:]
    assert {"inference.sock"} == set(accounts[2:-2])


def test_names_share_a_client_without_accounts() -> None:
    """With 0 accounts all callers of a socket are one client, whatever their names."""
    caller = socket(0)(Context((("edge-agent-client", "till-3"),)))
    assert ("inference.sock till-3", "inference.sock") == (caller.name, caller.account)


@given(calls=st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 2 * ACCOUNT_SECONDS)), max_size=60))
def test_account_is_reassigned_only_after_its_name_is_idle(calls: list[tuple[str, float]]) -> None:
    """A name that calls within the time limit keeps its account, and no two such names share one."""
    now = 0.0
    accounts = AccountTable(3, lambda: now)
    held: dict[str, tuple[int, float]] = {}
    for name, pause in calls:
        now += pause
        number = accounts.account_of(name)
        known, at = held.get(name, (0, -1e9))
        if known and now - at < ACCOUNT_SECONDS:
            assert known == number
        fresh = {other: (which, at) for other, (which, at) in held.items() if now - at < ACCOUNT_SECONDS}
        if number:
            assert number not in {which for other, (which, _) in fresh.items() if other != name}
            held = {other: each for other, each in held.items() if each[0] != number} | {name: (number, now)}
        else:
            assert 3 == len(fresh)
        assert number in range(4)


@pytest.mark.parametrize("name", ["", "x" * 65, "two words", "line\nbreak", "é", "\x1b[2J"])
def test_invalid_name_is_ignored(name: str) -> None:
    """A caller with an invalid name is treated as unnamed."""
    assert "inference.sock" == socket()(Context((("edge-agent-client", name),))).name


@pytest.mark.parametrize(
    ("peer", "name"), [("ipv4:10.0.0.5:40251", "tcp ipv4:10.0.0.5"), ("ipv6:%5B::1%5D:5", "tcp ipv6:%5B::1%5D")]
)
def test_plain_tcp_caller_is_identified_by_address(peer: str, name: str) -> None:
    """Without TLS the client is its address without the port, with the role infer only."""
    assert roles.Caller(name, INFER) == roles.identify_by_address(Context(address=peer))


def test_certificate_identifies_its_caller() -> None:
    """A certificate gives name, roles, configured roles, fingerprint and expiry."""
    certified = CertificateIdentifier({"till-*": ("feedback",), "spiffe://x/*": ("admin",)})
    found = certified(issued("till-3", "infer"))
    assert ("tls till-3", {"infer"}) == (found.name, found.roles), "its name is no alternative name"
    assert 64 == len(found.fingerprint)
    assert 29 * DAY < found.expires_at - time.time() < 31 * DAY
    server = Context(pem=certificate_authority.issue_server_certificate(ROOT, ["till-3.shop"], time.time()).certificate)
    assert ("tls till-3.shop", {"feedback"}) == (certified(server).name, certified(server).roles)


def test_name_in_metadata_is_ignored_on_tls() -> None:
    """The name of a certificate is not replaced by one in the metadata."""
    context = issued("till-3", "infer")
    context.metadata = (("edge-agent-client", "boss"),)
    assert "tls till-3" == CertificateIdentifier({})(context).name


def test_certificate_expires_during_a_connection() -> None:
    """Expiry is checked at each call, however old the connection is."""
    clock = [time.time()]
    certified, context = CertificateIdentifier({}, now=lambda: clock[0]), issued("till-3", "infer", days=1)
    assert "tls till-3" == certified(context).name
    clock[0] += 2 * DAY
    with pytest.raises(CertificateExpired, match="the certificate of tls till-3 ended at"):
        certified(context)


def test_the_table_of_certificates_is_bounded() -> None:
    """The oldest certificate is removed from the table, and parsed again at its next call."""
    certified, first = CertificateIdentifier({}), issued("till-0", "infer")
    known = certified(first)
    assert certified(first) is known
    pair = certificate_authority.issue_client_certificate(ROOT, "x", ["infer"], time.time()).certificate
    for number in range(CALLERS_MAX):
        certified(Context(pem=pair + str(number).encode()))
    assert CALLERS_MAX == len(certified._callers)
    assert certified(first) is not known
    assert certified(first) == known


def test_unreadable_certificate_is_refused() -> None:
    """A certificate that cannot be parsed raises CertificateUnusable."""
    with pytest.raises(CertificateUnusable):
        CertificateIdentifier({})(Context(pem=b"no certificate"))
