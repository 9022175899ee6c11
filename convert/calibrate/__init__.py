"""Decides which answers are confident: temperature, threshold and gate, from the answers of the served artefact.

calibrate_stage.py       the stage: the manifest's `confidence` section
calibration_split.py     divides the calibration rows
calibration_answers.py   the answers of a bundle to the calibration rows
temperature.py           turns scores into probabilities
threshold.py             chooses the threshold by exact tests
gate_rows.py             makes the gate from held-out rows
redaction_cutoff.py      chooses the cut-off of a redaction model
"""
