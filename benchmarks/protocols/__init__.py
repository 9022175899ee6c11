"""The cost of the Open Inference Protocol, compared with another server and with our own API."""
