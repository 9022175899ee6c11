"""Signed updates, at the centre: a repository that sites believe, whoever carries it to them.

layout.py says where things lie; keyring.py who signs; reading.py and commit.py how a repository is read and written;
publisher.py what a team does with it.
"""
