"""Collects sealed segments from sites: writes joined examples as Parquet, and signed receipts.

    sources   where segments lie: an object store or a folder
    intake    is one segment what its site sealed, and what is in it
    rows      records as columns, and how alike texts are (sketch)
    raw       what was taken in, as Parquet files that say themselves which segments they hold
    chain     gaps, breaks and receipts, from what was taken in
    sites     which key each site signs with, and the highest number it ever named
    erase     forgetting what a tombstone names
    joined    predictions with what people said of them, duplicates marked (alike)
    run       all of it in order

No record may be lost: a receipt is only written for records that are synced to the central team's disk.
"""
