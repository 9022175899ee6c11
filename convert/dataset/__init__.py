"""From collected examples to training data.

select        which examples teach something, each once, dealt out to splits without leakage
formats       one example as a row of each format; pure
label_studio  examples to be reviewed, out to Label Studio and back; pure
write         files of rows, whole or not at all, with a report
"""
