"""What is trusted of the repository: the outcome of trust, all that the rest of updates knows of it; and of a copy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_agent.errors import EdgeAgentError
from edge_agent.formats.plan import RolloutPlan


@dataclass(frozen=True)
class SignedBundle:
    """A bundle that the offline keys have signed."""

    task: str
    version: str
    size_bytes: int
    """Of its manifest."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Of its manifest, by algorithm: all that the metadata name."""

    def is_this(self, manifest_bytes: bytes) -> bool:
        """Tell whether a manifest has every hash that was signed; an algorithm that nobody knows fits nothing."""
        try:
            return all(hashlib.new(name, manifest_bytes).hexdigest() == value for name, value in self.hashes.items())
        except ValueError:
            return False


@dataclass(frozen=True)
class VerifiedRepository:
    """Signed, not expired, not older than what was seen before."""

    plan: RolloutPlan | None = None
    """None = none was published yet."""
    bundles: Mapping[str, SignedBundle] = field(default_factory=dict)
    """By digest."""
    issued_at: float = 0.0
    """The newest time that was ever signed, in seconds since 1970: it is at least that late."""
    expires: float = 0.0
    """When the first of the metadata expires, in seconds since 1970; 0 = there are none."""
    problem: EdgeAgentError | None = None
    """Why what lies in `incoming/` now is not trusted: what is here was trusted before, and still holds."""

    @property
    def plan_version(self) -> int:
        """Of the plan; 0 = there is none."""
        return self.plan.version if self.plan else 0


@dataclass(frozen=True)
class CopyProgress:
    """How far a copy has come. Read by other threads."""

    name: str = ""
    """Task and version; empty = nothing is copied."""
    bytes: int = 0
    bytes_total: int = 0
