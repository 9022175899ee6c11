"""What support needs of a site in one file, and nothing that somebody said to a model or that opens anything."""
