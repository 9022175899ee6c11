"""Sources of any kind, as a float checkpoint that every later stage can rely on.

prepare_stage.py       the stage: which kind a source is of
checkpoint_source.py   a Hugging Face checkpoint directory, or a PEFT adapter for one
gguf_source.py         a GGUF file
onnx_source.py         a ready token classifier in ONNX
"""
