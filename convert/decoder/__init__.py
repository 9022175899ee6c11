"""Decoders as the agent sees them: its prompt rule and its label scores, on checkpoints in PyTorch."""
