"""Makes the installer: one self-extracting file with everything that a machine without a network needs."""
