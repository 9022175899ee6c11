"""The bundles of one engine, and how far the child that there is has come with each."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

import msgspec

from edge_agent.engine import protocol
from edge_agent.engine.outcome import resolve, succeeded
from edge_agent.errors import EdgeAgentError

NOT_SENT = float("inf")


@dataclass
class AttachedBundle:
    """One bundle."""

    attach: protocol.Attach
    attached: asyncio.Future[None]
    """Of the child that there is, or the next one."""
    sent_at: float = NOT_SENT
    """On the event loop's clock; an attach has begun when the child has given a sign of life since."""

    @property
    def failed(self) -> bool:
        """Whether the last try to attach it failed."""
        return self.attached.done() and not succeeded(self.attached)


class AttachedBundles(dict[str, AttachedBundle]):
    """By digest."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self._numbers = itertools.count(1)

    def add(self, attach: protocol.Attach) -> AttachedBundle:
        """Want a bundle; it has not been sent to a child. Each time it is another attach, with a number of its own."""
        numbered = msgspec.structs.replace(attach, number=next(self._numbers))
        bundle = self[attach.digest] = AttachedBundle(numbered, asyncio.get_running_loop().create_future())
        return bundle

    def wanted(self, digest: str, number: int) -> AttachedBundle | None:
        """Return the bundle of an attach; None = it was taken off meanwhile, whether or not it came again."""
        bundle = self.get(digest)
        return bundle if bundle is not None and bundle.attach.number == number else None

    def begin(self) -> None:
        """Forget what was said to the child before: the next one has to hear it all."""
        for bundle in self.values():
            bundle.sent_at = NOT_SENT
            if bundle.attached.done():
                bundle.attached = asyncio.get_running_loop().create_future()

    def unsent(self) -> AttachedBundle | None:
        """Return one of which the child has not heard; one that went and came again is another bundle."""
        return next((bundle for bundle in self.values() if bundle.sent_at == NOT_SENT), None)

    def attaching(self, sent_before: float = NOT_SENT) -> bool:
        """Tell whether one has no outcome yet that was sent by then."""
        return any(not each.attached.done() and each.sent_at <= sent_before for each in self.values())

    def ready(self, digest: str) -> bool:
        """Tell whether a bundle was attached."""
        bundle = self.get(digest)
        return bundle is not None and succeeded(bundle.attached)

    def failed(self, digest: str) -> bool:
        """Tell whether the last try to attach a bundle failed."""
        bundle = self.get(digest)
        return bundle is not None and bundle.failed

    def raise_failure(self, digest: str) -> None:
        """Raise what a bundle failed with, if it did."""
        bundle = self.get(digest)
        if bundle is not None and bundle.attached.done():
            bundle.attached.result()

    def resolve_all(self, error: EdgeAgentError) -> None:
        """End every attach that is awaited."""
        for bundle in self.values():
            resolve(bundle.attached, error)
