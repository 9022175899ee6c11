"""Parts of scripts/bench ood: the texts, the bundles, the daemon that is asked, and the arithmetic."""
