"""The web console and the HTTP gateway: a process of its own, and a gRPC client of the daemon like any other.

It loads no model, opens none of the daemon's files, and connects to the daemon only. Two limits decide what a principal
sees: the principal's roles, and the sockets that this process may use.
"""
