"""Data capture: answers are redacted, kept for review and training, and sealed for the central team.

example_capture.py          the daemon's interface, on its event loop: queues answers; awaits the spool's thread for
                            everything else, such as deferred questions for the large model, and erasure
spool_writer.py             owns the thread: gathers answers into groups, commits them, reports a stalled disk
spool_worker.py             owns the database and the outbox, on that thread: stores, expires, seals, reports alarms
spool.py                    the database, spool.db: predictions, feedback, tombstones; the eviction order
segment_ledger.py           which records are in which segment, in the same database
outbox_and_receipts.py      the files for upload, and the receipts that come back
record_builder.py           turns an answer into a redacted record
review_and_audit.py         the answers that people are asked to review; the random audit
teacher_questions.py        deferred questions to the large model, and its labels
personal_data_retention.py  when examples and digests are due for deletion; erasures, and counts, in the same database
person_erasure.py           finds the records of a person by keyed digests of values, and erases them; the key never
                            leaves the site
capture_values.py           the values in calls: answers, feedback, the review queue
text_redaction.py           answers that wait for the redaction model; redacts one text while its caller waits
redaction_audit.py          a random sample of redacted texts, which people compare with the originals
redact/                     finds and replaces personal data
"""
