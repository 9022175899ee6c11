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
TOKENS_COUNTED = 512  # of one input, in the above
ATTENTION_BYTES = 2 * 16 * 4  # for each pair of tokens: scores and their softmax, of 16 heads, as float32
TOKENIZER_BYTES = 4 * 2**20
TOKENIZER_SHARE = 4.0  # of its file: 3.5 to 3.8 measured while it loads, with 260,000 tokens of WordPiece and BPE
UNIGRAM_TOKEN_BYTES = 120  # for each byte of the tokens: 118 measured

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


def tokenizer_bytes(path: str) -> int:
    """Return what the tokenizer of a file takes, but for a trie of Unigram; a file that is not there has no size."""
    file = Path(path)
    return TOKENIZER_BYTES + (int(file.stat().st_size * TOKENIZER_SHARE) if file.is_file() else 0)


def long_input_bytes(tokens: int) -> int:
    """Return what attention over one input takes beyond what `need_of` counts: it grows with the square."""
    return max(0, tokens**2 - TOKENS_COUNTED**2) * ATTENTION_BYTES
