"""Makes smaller forms of a model, and adds the nodes that compute an out-of-distribution score.

quantize_stage.py        the stage: makes the candidates
candidate_selection.py   measures them, and chooses the fastest inside its budget
gguf_files.py            reads and quantizes GGUF files, without torch
onnx_quantizer.py        quantizes ONNX graphs
ood_detector.py          the nodes that compute an OOD score, appended to an encoder's graph
background_texts.py      requests of no task, with which the detector contrasts the training texts
graph_nodes.py           writes nodes into an ONNX graph
"""
