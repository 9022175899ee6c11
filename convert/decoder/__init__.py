"""Decoders as the agent serves them: prompt rule and label scores, on checkpoints in PyTorch."""
