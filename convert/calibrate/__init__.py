"""When an answer may be trusted: temperature, threshold and gate, from the answers of the served artefact.

calibrate_stage.py       the stage: the manifest's `confidence` section
calibration_split.py     divides the calibration rows
calibration_answers.py   the answers of a bundle to them
temperature.py           scores into probabilities
threshold.py             the threshold, by exact tests
gate.py                  the gate, by held-out rows
redaction_cutoff.py      the cut-off of a redaction model
"""
