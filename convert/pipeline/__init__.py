"""The pipeline of a recipe.

recipe.py       recipe.yaml: how to make one bundle from a model and data
task_file.py    task.yaml: the manifest before its files are known
execution.py    the stages in order, and the run of those that are not up to date
stage.py        what a stage is given and returns
workspace.py    the folder of results: one process at a time, a stage whole or not at all; hashes of its inputs
"""
