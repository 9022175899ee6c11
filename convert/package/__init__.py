"""Bundles: what is in them besides the model, and how they are put together.

bundle_assembly.py       task.yaml and model files in, a folder or a tar out
assemble_stage.py        the finished bundle of a recipe, with figures and provenance
golden_cases.py          which rows become golden cases
question_calibration.py  thresholds for the questions of a finished bundle
"""
