"""edge-convert, the conversion toolkit: makes the bundles that edge-agent runs. It never runs on a site."""
