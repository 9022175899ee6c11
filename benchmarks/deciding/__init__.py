"""Decisions measured: what scripts/bench decisions runs, a module for each family of bars."""
