"""The bundles of one engine, and the outcome of attaching each to the present child."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

import msgspec

from edge_agent.engine import protocol
from edge_agent.errors import EdgeAgentError

NOT_SENT = float("inf")


@dataclass
class AttachedBundle:
    """One bundle."""

    request: protocol.AttachRequest
    outcome: asyncio.Future[None]
    """Of attaching it to the present child, or to the next one."""
    sent_at: float = NOT_SENT
    """On the event loop's clock; an attach has begun when the child has sent something since."""
    is_ready: bool = False
    """The present child has attached it."""

    def settle(self, error: EdgeAgentError | None) -> None:
        """Set the outcome, unless it has one."""
        self.is_ready = self.is_ready or (error is None and not self.outcome.done())
        resolve(self.outcome, error)


class AttachedBundles(dict[str, AttachedBundle]):
    """The bundles, by digest."""

    def __init__(self) -> None:
        """Start without bundles."""
        super().__init__()
        self._numbers = itertools.count(1)

    def add(self, request: protocol.AttachRequest) -> AttachedBundle:
        """Add a bundle that no child has received yet. Each call is a separate attach, with its own number."""
        request = msgspec.structs.replace(request, number=next(self._numbers))
        bundle = self[request.digest] = AttachedBundle(request, asyncio.get_running_loop().create_future())
        return bundle

    def reset(self) -> None:
        """Start over for a new child: it has not received any attach."""
        for bundle in self.values():
            bundle.sent_at, bundle.is_ready = NOT_SENT, False
            if bundle.outcome.done():
                bundle.outcome = asyncio.get_running_loop().create_future()

    def next_unsent(self) -> AttachedBundle | None:
        """Return a bundle that the child has not received, which may be one that was detached and added again."""
        return next((bundle for bundle in self.values() if bundle.sent_at == NOT_SENT), None)

    def is_attaching(self, sent_before: float = NOT_SENT) -> bool:
        """Tell whether a bundle that was sent by then has no outcome yet."""
        return any(not each.outcome.done() and each.sent_at <= sent_before for each in self.values())

    def has_failed(self, digest: str) -> bool:
        """Tell whether the last attempt to attach a bundle failed."""
        bundle = self.get(digest)
        return bundle is not None and bundle.outcome.done() and not bundle.is_ready

    def fail_all(self, error: EdgeAgentError) -> None:
        """End every pending attach with this error."""
        for bundle in self.values():
            bundle.settle(error)


def resolve(future: asyncio.Future[None], error: EdgeAgentError | None) -> None:
    """Set the outcome of a future unless it has one; an error that nobody awaits is logged elsewhere."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # marks it as retrieved: asyncio would report an error that nobody awaited
