"""Edge Agent: runs fine-tuned small models where the work happens."""

import os

# gRPC reads it when it is loaded, and would write of every failed handshake, which anyone on the network can cause.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

__version__ = "0.1.0"
