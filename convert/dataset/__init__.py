"""Makes training data from collected examples.

example_scope.py     which examples: by bundle, site and day
selection.py         those that teach something, each text once, dealt out to splits without leakage
row_builder.py       an example to rows: the values of a record in its text, placeholders filled
row_formats.py       one example as a row of each format; pure
dataset_files.py     files of rows, whole or not at all, with a report
surrogates.py        made-up values in place of placeholders, and of values in rows that no site sent;
                     surrogate_values.py draws them
lineage.py           which datasets and bundles learned from a record
assessment.py        whether what was collected suffices
label_review.py      labels that are likely wrong
label_studio.py      examples to be reviewed, out to Label Studio and back; pure
"""
