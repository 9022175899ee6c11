"""The console: a page for people, and an HTTP gateway. A process of its own and a pure gRPC client of the daemon.

It loads no model, opens nothing of the daemon's files, and connects to nothing but the daemon. What a visitor may see
is bounded twice: by the roles that the visitor has, and by the sockets that this process may use.
"""
