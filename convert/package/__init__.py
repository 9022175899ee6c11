"""Bundles: golden cases, provenance, the files of a bundle and its manifest."""
