"""Content-addressed blobs, bundle archives and state.db.

blob_store.py      where blobs lie: files named by their hash, written once and checked
bundle_archive.py  reads a folder or a tar that somebody else made, and refuses what is hostile
bundle_store.py    installs, finds and removes bundles, never with a state in between
state_database.py  state.db: installed bundles, the active one of each task, modes, what updates remember
"""
