"""The Open Inference Protocol: what its clients say and want, in the words of our own API, which answers."""
