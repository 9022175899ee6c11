"""edge-agent-setup: installs, rolls back and removes Edge Agent; it needs only the standard library of Python.

Each program has a folder of its own, named by the hash of its content, and one link points to the current one.
Making the folder changes nothing, and the link moves in one rename: a kill at any point leaves the old program or the
new one.
"""
