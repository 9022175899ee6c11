"""edge-convert, the factory: it makes the bundles that edge-agent runs. It never runs on a site."""
