"""How the appliance comes to a machine: `build/` makes one self-extracting file, `setup/` is what that file runs."""
