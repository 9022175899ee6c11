"""Edge Agent: runs fine-tuned small models where the work happens."""

import os

# gRPC reads it when it is loaded, and would write of every failed handshake, which anyone on the network can cause:
# refusal_log.py counts those.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# gRPC's own resolver asks name servers alone: it finds no name of mDNS, and not each line of /etc/hosts.
os.environ.setdefault("GRPC_DNS_RESOLVER", "native")
# pydantic reads it when it compiles its first model, and would look through every installed package for plugins to run.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

__version__ = "0.1.0"
