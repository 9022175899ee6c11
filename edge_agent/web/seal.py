"""What is signed with the console's secret: sessions of browsers, and the key that a page hands back. Pure."""

from __future__ import annotations

import hashlib
import hmac


class Seal:
    """Signs and recognises. Whoever changes the secret ends every session."""

    def __init__(self, secret: str) -> None:
        """Take the secret, the text of the token's file."""
        self._secret = secret.encode()
        self.cookie_name = f"edge_agent_{self._signed('cookie', '')[:12]}"
        """Of sessions. Browsers tell no ports of a name apart, and several consoles may be forwarded to one machine."""

    def is_token(self, given: str) -> bool:
        """Tell whether somebody knows the secret, in a time that says nothing about it."""
        return hmac.compare_digest(given.encode(), self._secret)

    def session(self, ends_at: float, nonce: str) -> str:
        """Return the cookie of a session that ends at that time, in seconds since 1970."""
        said = f"{ends_at:.0f}.{nonce}"
        return f"{said}.{self._signed('session', said)}"

    def holds(self, cookie: str, now: float) -> bool:
        """Tell whether a cookie is one of ours, and has not ended."""
        said, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signed("session", said).encode()):
            return False
        return float(said.partition(".")[0]) > now

    def page_key(self, visitor: str) -> str:
        """Return what a visitor's pages send back with every change, so that no other site's page can."""
        return self._signed("page", visitor)

    def is_page_key(self, visitor: str, given: str) -> bool:
        """Tell whether it is the one."""
        return hmac.compare_digest(given.encode(), self.page_key(visitor).encode())

    def _signed(self, what: str, said: str) -> str:
        return hmac.new(self._secret, f"{what}\0{said}".encode(), hashlib.sha256).hexdigest()
