"""Encoders as the agent sees them: its words and tags, on checkpoints in PyTorch."""
