"""Signed updates by the central team: a TUF repository that sites verify, whichever way it reaches them.

layout.py defines the paths; keyring.py holds the signing keys; repository_reader.py and commit.py read and write a
repository; publisher.py has the operations of a team.
"""
