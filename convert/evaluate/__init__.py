"""Measures bundles through the agent's own engine.

evaluate_stage.py     the stage, and any bundle on any rows
serving.py            runs bundles as on a site
predictions.py        the answer of a bundle to one text, and the file of answers
scoring.py            which answers are right, the report of a version, and the comparison of two
quality_metrics.py    accuracy, coverage, risk and calibration error, each with its interval
site_redaction.py     reads texts as a site does, and measures how well that finds personal values
batch_invariance.py   whether answers depend on other texts in a batch

Only this package of convert may import the engine, so that figures are those of a site.
"""
