"""Addresses in networks: e-mail also in words, links that carry secrets, domains, IP and MAC addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from edge_agent.capture.redact.rule_types import Span

_LOCAL = re.compile(r"[\w!#$%&*+/=?^`{|}~-][\w.!#$%&'*+/=?^`{|}~-]{0,63}\Z")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])")
AT_SIGN = re.compile("@")
_TOPS = (
    "com|org|net|edu|gov|mil|int|info|biz|io|app|dev|shop|online|site|tech|cloud|store|health|med|clinic|hospital"
    "|de|at|ch|fr|es|it|nl|be|pt|pl|se|dk|no|fi|ie"
    "|uk|eu|us|ca|au|nz|in|jp|kr|cn|br|mx|ar|cl|cz|sk|hu|ro|gr|tr|ru|ua|za|lu|li|is|ee|lv|lt|hr|si|bg|me|tv|cc|co"
)
_AT_WORD = "at|ät|arroba|arobase|chiocciola|apenstaartje|snabel-?a|małpa|klammeraffe"
_DOT_WORD = "dot|punkt|punt|point|punto|ponto|kropka|prick"
_DOT = rf"(?: (?:{_DOT_WORD}) | ?[\(\[{{] ?(?:{_DOT_WORD}|\.) ?[\)\]}}] ?)"
_ANY_DOT = rf"(?:{_DOT}| ?\. ?)"
_BEFORE_AT = rf"(?i)(?<![\w.-])[a-z0-9][\w+-]{{0,40}}(?:(?:{_ANY_DOT}|_)[\w+-]{{1,30}}){{0,4}}"
_HOST_PART = rf"[a-z0-9][\w-]{{0,40}}(?:{_ANY_DOT}[\w-]{{2,30}}){{0,3}}"
_SPOKEN = (
    # With "at" as a word, the last dot is one, too: "look at example.com" is no address.
    re.compile(rf"{_BEFORE_AT} (?:{_AT_WORD}) {_HOST_PART}{_DOT}(?:{_TOPS})(?![\w-])"),
    re.compile(
        rf"{_BEFORE_AT}(?: ?[\(\[{{<] ?(?:{_AT_WORD}|@) ?[\)\]}}>] ?| @ |@ "
        rf"| @){_HOST_PART}{_ANY_DOT}(?:{_TOPS})(?![\w-])"
    ),
)


def find_emails(text: str) -> Iterator[Span]:
    """Find addresses around each @ (RFC 5321: 64 characters before it at most)."""
    for at in AT_SIGN.finditer(text):
        domain = _DOMAIN.match(text, at.end())
        local = _LOCAL.search(text, max(0, at.start() - 64), at.start())
        if domain and local:
            yield local.start(), domain.end()


def find_spoken_emails(text: str) -> Iterator[Span]:
    """Find addresses in words: "jane at example dot com", "jane (at) example.com"; a top-level domain ends them."""
    for pattern in _SPOKEN:
        yield from (match.span() for match in pattern.finditer(text))


_GENERIC_TOPS = (
    "com|org|net|edu|gov|mil|info|biz|io|app|dev|shop|online|site|xyz|club|clinic|hospital|co\\.uk|org\\.uk"
    "|ac\\.uk|gov\\.uk|nhs\\.uk|com\\.au|com\\.br|co\\.nz|co\\.in|co\\.jp|co\\.za"
    "|de|ch|fr|nl|be|pl|se|dk|fi|ie|uk|eu|us|ca|au|nz|jp|kr|cn|br|mx|cz|sk|hu|ro|gr|tr|ru|ua|za|lu|hr|bg|tv|pt"
)
_HOST = re.compile(
    rf"(?i)(?<![\w.@/-])(?:https?://)?(?:www\.(?:[a-z0-9-]{{1,63}}\.){{1,6}}[a-z]{{2,24}}"
    rf"|(?:[a-z0-9][a-z0-9-]{{1,62}}\.){{1,6}}(?:{_GENERIC_TOPS}))(?::\d{{1,5}})?(?:/[^\s<>\"]{{0,500}})?(?![\w@-])"
)


def find_domains(text: str) -> Iterator[Span]:
    """Find names of hosts below usual top-level domains, with the path behind them."""
    for match in _HOST.finditer(text):
        yield match.start(), match.end() - (len(match[0]) - len(match[0].rstrip(".,;:!?)")))


_IP4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IP6 = re.compile(
    r"(?<![\w:.])(?=[0-9A-Fa-f:.]{3,45}(?![\w:]))(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9A-Fa-f]{1,4}"
    r"|(?:\d{1,3}\.){3}\d{1,3})?"
)
_MAC = re.compile(
    r"(?i)(?<![\w:-])(?:[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}"
    r"|[0-9a-f]{4}\.[0-9a-f]{4}\.[0-9a-f]{4})(?![\w:-])"
)


def find_ip_addresses(text: str) -> Iterator[Span]:
    """Find IPv4 addresses, and IPv6 addresses of at least three colons or a double one, which the library accepts."""
    for pattern in (_IP4, _IP6):
        for match in pattern.finditer(text):
            if _is_ip(match[0]):
                yield match.span()


def _is_ip(written: str) -> bool:
    try:
        ipaddress.ip_address(written)
    except ValueError:
        return False
    # "::" and "1::" are code or a time more often than an address.
    return "." in written or len(written) > 4


def find_mac_addresses(text: str) -> Iterator[Span]:
    """Find hardware addresses (EUI-48) with colons, hyphens or dots."""
    yield from (match.span() for match in _MAC.finditer(text))
