"""Edge Agent: runs fine-tuned small models where the work happens."""

import os

# gRPC reads this when it is loaded. By default it would log every failed handshake, which anyone on the network can
# cause; refusal_log.py counts them.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# gRPC's own resolver asks only name servers: it finds no names of mDNS, and not every line of /etc/hosts.
os.environ.setdefault("GRPC_DNS_RESOLVER", "native")
# pydantic reads this when it compiles its first model. By default it would search every installed package for plugins
# to run.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

__version__ = "0.1.0"
