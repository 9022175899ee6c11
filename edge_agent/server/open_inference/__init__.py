"""The Open Inference Protocol, translated to and from our own API."""
