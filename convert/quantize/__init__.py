"""Smaller forms of a model, and the nodes that tell strange inputs from ordinary ones.

quantize_stage.py        the stage: makes the candidates
candidate_selection.py   measures them, and chooses the fastest inside its budget
gguf_files.py            reads and quantizes GGUF files, without torch
onnx_quantizer.py        quantizes ONNX graphs
ood_detector.py          the nodes that compute an OOD score, appended to an encoder's graph
background_texts.py      requests that belong to no task, which the detector is contrasted with
graph_nodes.py           writes nodes into an ONNX graph
"""
