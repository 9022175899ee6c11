"""Makes training data from collected examples.

example_scope.py     which examples: by bundle, site and day
selection.py         selects labelled examples, each text once, and divides them into splits without leakage
row_builder.py       turns an example into rows: finds the values of a record in its text, fills placeholders
row_formats.py       one example as a row of each format; pure
dataset_files.py     writes the files of rows and their report, whole or not at all
surrogates.py        made-up values in place of placeholders, and of values in rows that no site sent;
                     surrogate_values.py draws them
lineage.py           which datasets and bundles learned from a record
assessment.py        whether what was collected suffices
label_review.py      labels that are likely wrong
label_studio.py      tasks for Label Studio, and its reviews; pure
"""
