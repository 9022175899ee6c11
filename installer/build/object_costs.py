"""Compile times of llama.cpp's objects, in seconds of one core, from the log of ninja; for an estimate."""

MEASURED_ON = "an AMD EPYC"
SECONDS_USUAL = 0.7
"""For a file that is not listed."""
SECONDS: dict[str, float] = {
    "ops.cpp": 8.3,
    "ggml-quants.c": 4.6,
    "repack.cpp": 4.6,
    "ggml-backend-meta.cpp": 4.2,
    "tiled.cpp": 3.9,
    "unicode.cpp": 3.5,
    "gguf.cpp": 3.3,
    "sgemm.cpp": 3.3,
    "llama-sampler.cpp": 2.6,
    "llama-vocab.cpp": 2.6,
    "llama-quant.cpp": 2.3,
    "unary-ops.cpp": 2.0,
    "llama-model-loader.cpp": 2.0,
    "llama-context.cpp": 1.9,
    "llama-grammar.cpp": 1.9,
    "llama-kv-cache.cpp": 1.8,
    "llama-model.cpp": 1.8,
    "unity_8_cxx.cxx": 1.7,
    "binary-ops.cpp": 1.6,
    "unity_5_cxx.cxx": 1.6,
    "unity_3_cxx.cxx": 1.6,
    "unity_1_cxx.cxx": 1.6,
    "ggml.c": 1.5,
}
