"""Collects sealed segments from sites: writes joined examples as Parquet, and signed receipts.

collection.py       one run of all of it, in order
sources.py          where segments lie: an object store, a folder, a USB drive
segment_intake.py   whether one segment is what its site sealed, by the keys that sign for the site
record_files.py     what was taken in, as Parquet files that list the segments they hold
segment_chain.py    gaps and breaks in the numbers of a site
receipts.py         the signed receipts for what is stored
status_folder.py    the newest status of each site, and the highest number that it ever named
derived_examples.py erases what tombstones name, then joins the tasks whose records changed
example_files.py    predictions with what people said of them, duplicates marked
near_duplicates.py  which texts of a task are nearly equal; minhash.py estimates it
purge.py            deletes examples whose time is over
database.py         DuckDB over these files, with bounded memory

No record may be lost: a receipt is only written for records that are synced to the central team's disk.
"""
