"""Encoders as the agent serves them: words and tags, pooling and heads, on checkpoints in PyTorch."""
