"""Converts a source of any kind to a float checkpoint for the later stages.

prepare_stage.py       the stage: finds out the kind of the source
checkpoint_source.py   a Hugging Face checkpoint directory, or a PEFT adapter for one
gguf_source.py         a GGUF file
onnx_source.py         a ready token classifier in ONNX
"""
