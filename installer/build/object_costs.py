"""What the objects of llama.cpp cost to compile."""

MEASURED_ON = "an AMD EPYC"
SECONDS_USUAL = 2.0
SECONDS: dict[str, float] = {}
