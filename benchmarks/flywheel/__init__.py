"""The whole way from a large model to a small one, walked once by real processes; see __main__.py."""
