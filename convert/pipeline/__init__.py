"""The pipeline of a recipe.

recipe.py       recipe.yaml: how to make one bundle from a model and data
task_file.py    task.yaml: the manifest before its files are known
execution.py    the stages in order; runs those that are not up to date
stage.py        the interface of a stage
workspace.py    the folder of results, used by one process at a time; hashes of the inputs
"""
