"""How much memory an ONNX encoder takes, from the size of its file.

Measured on onnxruntime 1.32 with MiniLM (86 MiB, fp32): 1.44 times the file after loading and 1.63 times while it
loads, then 28 to 42 MiB for each thread that computes 512 tokens. An input longer than that, which has a step of its
own, takes more: attention grows with the square.
"""

from __future__ import annotations

from pathlib import Path

from edge_agent.engine.memory import Need

PROCESS_BYTES = 80 * 2**20  # Python with numpy, onnxruntime and tokenizers, and a tokenizer: 80 MiB resident
ARENA_BYTES = 16 * 2**20  # for each thread, whatever the model
ARENA_SHARE = 0.3  # and as a part of the file, which grows with the activations
ARENA_BYTES_MAX = 128 * 2**20


DRIVER_BYTES = {"cuda": 640 * 2**20}  # in the machine's memory, as others report it


def need_of(weights: str, threads: int, device: str = "cpu") -> Need:
    """Return what loading the file and computing on that many threads takes; a file that is not there has no size.

    What a device holds is not counted: onnxruntime does not tell what that has free.
    """
    path = Path(weights)
    size = path.stat().st_size if path.is_file() else 0
    return Need(
        weights=size,
        copies=size,  # onnxruntime keeps matrices once as they came and once packed for this processor
        cache=0,
        compute=threads * min(ARENA_BYTES + int(ARENA_SHARE * size), ARENA_BYTES_MAX),
        process=PROCESS_BYTES + DRIVER_BYTES.get(device, 0),
    )
