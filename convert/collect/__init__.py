"""Collects sealed segments from sites: writes joined examples as Parquet, and signed receipts.

collection.py       one run of all steps, in order; deletes examples whose retention period has ended
sources.py          where segments are read from: an object store, a folder, a USB drive
segment_intake.py   checks that a segment is as its site sealed it, by the keys of the site
record_files.py     the collected records, as Parquet files that list the segments they hold
receipts.py         gaps and breaks in the numbers of a site, and the signed receipts for what is stored
status_folder.py    the newest status of each site, and the highest number that it ever named
derived_examples.py erases what tombstones name, then joins the tasks whose records changed; DuckDB over these files
example_join.py     predictions with their reviews, duplicates marked
near_duplicates.py  which texts are near duplicates: sketches, and the one rule

No record may be lost: a receipt is only written for records that are synced to the central team's disk.
"""
