"""What is compared, and the limits that it is held to."""

from __future__ import annotations

from benchmarks.llama.comparing import ComparisonGoal

STREAMS = (1, 4, 8, 16)
TOKENS = 100
CLIENTS = 8
LONG_TOKENS = 3000
TEXT_TOKENS = 30
LABELS = ("refund", "exchange", "price", "stock", "hours", "loyalty", "payment")
ADAPTERS = 4

GENERATE = {
    streams: ComparisonGoal(
        f"generate {TOKENS} tokens, {streams} stream{'s' * (streams > 1)}",
        better="higher",
        unit="tokens/s",
        limit=0.95,
        stretch=1.05,
        by_interval=True,
    )
    for streams in STREAMS
}
BESIDE_BARE = {
    streams: ComparisonGoal(
        f"generate {TOKENS} tokens on one thread, {name}: vs bare",
        better="higher",
        unit="tokens/s",
        limit=0.95,
        by_interval=True,
        than="bare llama.cpp",
    )
    for streams, name in ((1, "1 stream"), (8, "8 streams"), (16, "16 clients"))
}
DRAWING_SHARE = 0.05
FAIR_WAIT, FAIR_WORK = 3.0, 0.9
FIRST_TOKEN = ComparisonGoal("first token behind a shared prefix, p50", better="lower", unit="ms", limit=0.95)
CLASSIFY = ComparisonGoal(f"classify, {len(LABELS)} labels, 1 client, p50", better="lower", unit="ms", limit=0.85)
CLASSIFY_BARE = ComparisonGoal(
    f"classify, {len(LABELS)} labels, 1 client, p50: vs bare decode",
    better="lower",
    unit="ms",
    limit=1.1,
    than="bare decode",
)
BARE = ComparisonGoal("bare decode of those tokens, p50", better="lower", unit="ms")
"""What is left when all around the model is taken away: no answer on the same llama.cpp comes sooner."""
CLASSIFY_MANY = ComparisonGoal(
    f"classify, {CLIENTS} clients, throughput", better="higher", unit="texts/s", limit=1.4, stretch=1.8
)
EXTRACT = ComparisonGoal("extract 4 fields, p50", better="lower", unit="ms", limit=0.6)
STALL = ComparisonGoal(f"longest stall while {LONG_TOKENS} tokens arrive", better="lower", unit="ms", limit=0.25)
LONG_PROMPT = ComparisonGoal(f"first token of those {LONG_TOKENS} tokens", better="lower", unit="ms", limit=1.3)
SHORT_PROMPT = ComparisonGoal(
    "classify with a short prompt, p50: vs few-shot", better="lower", unit="ms", than="few-shot prompt"
)
PREFILL = ComparisonGoal("prompt of 512 tokens: vs llama-bench", better="higher", unit="tokens/s", than="llama-bench")
BANDWIDTH = ComparisonGoal(
    "1 stream: vs what memory allows", better="higher", unit="tokens/s", than="bandwidth / bytes read"
)
ADAPTERS_CLASSIFY = ComparisonGoal(
    f"classify, {CLIENTS} clients, {ADAPTERS} adapters mixed: vs one adapter",
    better="higher",
    unit="texts/s",
    limit=0.7,
    than="one adapter",
)
ADAPTERS_GENERATE = ComparisonGoal(
    f"{CLIENTS} streams, {ADAPTERS} adapters mixed: vs one adapter",
    better="higher",
    unit="tokens/s",
    than="one adapter",
)
