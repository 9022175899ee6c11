"""Data capture: answers are redacted, kept for review and training, and sealed for the central site.

example_capture.py          the daemon's interface, on its event loop: queues answers; awaits the spool's thread for
                            everything else, such as deferred questions for the large model, and erasure
spool_writer.py             owns the thread: gathers answers into groups, commits them, reports a stalled disk
spool_worker.py             owns the database and the outbox, on that thread: stores, expires, seals, reports alarms
spool.py                    the database, spool.db: predictions, feedback, tombstones; what is evicted first
segment_ledger.py           which records are in which segment, in the same database
outbox.py                   the files that leave the site, and the receipts that come back
record_builder.py           from an answer to a redacted record
review_queue.py             which answers people are asked to review; the random audit
teacher_questions.py        inputs that the large model is asked about later, and its labels
personal_data_retention.py  when examples and digests are due for deletion; erasures, and counts, in the same database
person_erasure.py           finds what concerns a person, by keyed digests of values; the key never leaves the site
capture_values.py           answers, feedback and the review queue as callers know them
text_redaction.py           answers that wait for the redaction model; redacts one text while somebody waits for it
redaction_audit.py          people judge a random sample of what redaction missed
redact/                     finds and replaces personal data
"""
