"""Makes training data from collected examples.

select        which examples teach something, each once, dealt out to splits without leakage
spans         where the values of a record stand in its text; pure
surrogates    made-up values in place of placeholders; surrogate_values draws them
row_builder   an example, with both, to rows
formats       one example as a row of each format; pure
label_studio  examples to be reviewed, out to Label Studio and back; pure
write         files of rows, whole or not at all, with a report
"""
