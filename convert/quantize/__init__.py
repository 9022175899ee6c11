"""Quantized weights. Only the stage of a recipe needs torch; `gguf_files` runs without it.

quantize_stage.py       the candidates of a recipe
candidate_selection.py  measures them, and chooses the fastest one inside the budget
gguf_files.py           reads and quantizes GGUF files
onnx_quantizer.py       quantizes ONNX graphs; graph_nodes.py reads them
ood_detector.py         the OOD score of an encoder, as a part of its graph, fitted with background_texts.py
"""
