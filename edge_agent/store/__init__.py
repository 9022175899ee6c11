"""Content-addressed blobs, bundle archives and state.db.

blob_store.py      blobs: files named by their hash, written once and verified
bundle_archive.py  reads a folder or a tar from outside, and refuses a malicious one
bundle_store.py    installs, finds and removes bundles, each wholly or not at all
state_database.py  state.db: installed bundles, the active one of each task, modes, the state of updates
"""
