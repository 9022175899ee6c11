"""Generated from proto/edge_agent/v1 by scripts/proto; never edited."""
