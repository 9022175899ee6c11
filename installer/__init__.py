"""The installer: `build/` makes one self-extracting file; `setup/` is edge-agent-setup, which that file runs."""
