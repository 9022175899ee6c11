"""Files and databases that survive a power cut, and errors of the disk that say what to do."""
