"""edge-agent-setup: installs, switches back, removes. Runs under the machine's own Python with nothing but its library.

The program lies whole in a folder of its own, named by its content; one link says which folder is the program. Making
the folder changes nothing, and moving the link is one rename: a kill at any point leaves the old program or the new.
"""
