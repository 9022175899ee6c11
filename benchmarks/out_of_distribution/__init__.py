"""Parts of scripts/bench ood: the texts, the bundles, the daemon, and the arithmetic."""
