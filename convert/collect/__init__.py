"""Collects sealed segments from sites: writes joined examples as Parquet, and signed receipts.

collection.py       one run of all of it, in order; deletes examples whose time is over
sources.py          where segments lie: an object store, a folder, a USB drive
segment_intake.py   whether one segment is what its site sealed, by the keys that sign for the site
record_files.py     what was taken in, as Parquet files that list the segments they hold
receipts.py         gaps and breaks in the numbers of a site, and the signed receipts for what is stored
status_folder.py    the newest status of each site, and the highest number that it ever named
derived_examples.py erases what tombstones name, then joins the tasks whose records changed; DuckDB over these files
example_files.py    predictions with what people said of them, duplicates marked
near_duplicates.py  which texts are nearly equal: sketches of texts, and the one rule

No record may be lost: a receipt is only written for records that are synced to the central team's disk.
"""
