"""Assembles bundles, and makes the files in them besides the model.

bundle_assembly.py       makes a folder or a tar of task.yaml and model files
assemble_stage.py        makes the finished bundle of a recipe, with figures and provenance
golden_cases.py          chooses the golden cases
question_calibration.py  proves thresholds for the questions of a finished bundle
"""
