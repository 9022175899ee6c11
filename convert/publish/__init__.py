"""Signed updates of the central team: a TUF repository that sites verify, however it reaches them.

publisher.py           the operations of a team: create a repository, sign bundles, publish plans, revoke
layout.py              the paths in a repository
repository_reader.py   reads and verifies a repository
commit.py              writes a change in an order that can stop at any point
staged_change.py       a change that is carried to the holders of the keys, and back
repository_storage.py  a repository in a folder or an object store
repository_check.py    checks every signature and every file of a repository
publishable_bundle.py  checks a finished bundle before it is signed
plan_text.py           the plan as YAML for people
media_writer.py        writes a USB drive
keyring.py             folders of signing keys; key_rotation.py creates, separates and changes them
central_keys.py        the keys that open segments and sign receipts
"""
