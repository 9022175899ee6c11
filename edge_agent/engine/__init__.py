"""Engines: one loaded model in one supervised child process each. Knows no network and no disk layout."""
