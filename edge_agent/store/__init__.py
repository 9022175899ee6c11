"""Content-addressed blobs, bundle archives and state.db."""
