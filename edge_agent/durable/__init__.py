"""Files and databases that survive a power cut, and errors of the disk with remedies."""
