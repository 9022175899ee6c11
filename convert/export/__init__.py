"""From a checkpoint to the file of a runtime, at full precision.

export_stage.py   the stage, and what it refuses for any runtime
gguf_export.py    GGUF by llama.cpp's converter
onnx_export.py    ONNX by optimum
"""
