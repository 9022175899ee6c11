"""What a model needs in memory, and the refusal of one that does not fit.

The pool measures what is available before it starts a child (machine_limits.py). The child adds up what the model needs
before it loads it, and refuses a model that does not fit: later the kernel would kill it, and whatever else needs
memory. A need is an upper bound, within 1.5 times of what the child takes (tests/process/test_memory.py measures it).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from edge_agent.errors import MemoryShort


@dataclass(frozen=True)
class MemoryNeed:
    """Memory of one engine, in bytes."""

    weights: int
    """The file: mapped weights have to stay in memory too, because otherwise every step reads the disk."""
    copies: int
    """Weights that the library repacks for this processor."""
    cache: int
    """Keys and values of all tokens that the engine can hold at once."""
    compute: int
    """Working memory of a step: activations, logits, candidates."""
    process: int
    """Python, the libraries and the vocabulary."""
    adapters: int = 0
    """LoRA adapters, which are loaded and unloaded while the base stays."""

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.weights + self.copies + self.cache + self.compute + self.process + self.adapters

    def check(self, available: int, wanted: int = 0) -> None:
        """Raise MemoryShort unless both the need and the manifest's demand fit.

        Args:
            available: in bytes; 0 = not measured, and everything fits.
            wanted: `requires.memory_bytes` of the manifest.
        """
        if not available or max(self.total, wanted) <= available:
            return
        free = format_megabytes(available)
        if self.total <= available:
            raise MemoryShort(
                f"the bundle asks for {format_megabytes(wanted)} of memory; {free} is available",
                needed_bytes=wanted,
                available_bytes=available,
            )
        names = {"weights": "weights", "copies": "repacked copies", "cache": "key-value cache"}
        names |= {"compute": "compute", "process": "process"} | ({"adapters": "adapters"} if self.adapters else {})
        parts = " + ".join(f"{name} {format_megabytes(getattr(self, part))}" for part, name in names.items())
        raise MemoryShort(
            f"the model needs {format_megabytes(self.total)} of memory ({parts}); {free} is available",
            needed_bytes=self.total,
            available_bytes=available,
            **{f"{part}_bytes": size for part, size in asdict(self).items()},
        )

    def details(self, available_memory: int) -> dict[str, str]:
        """Return need and limit in bytes, as status shows them."""
        return {"memory_estimated_bytes": str(self.total), "memory_limit_bytes": str(available_memory)}


def format_megabytes(size: int) -> str:
    """Return a size always in MB: messages compare what is needed with what is available."""
    return f"{size / 1e6:.1f} MB"
