"""What the Open Inference Protocol costs here, beside another server and beside our own API."""
