"""What the objects of llama.cpp cost to compile."""

SECONDS_USUAL = 2.0
SECONDS: dict[str, float] = {}
