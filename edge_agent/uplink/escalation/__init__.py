"""Questions to the large model: serve asks over a socket, the uplink alone knows where it is, its key and its price."""
