"""The gRPC edge: translates, authorizes and maps errors; never decides."""
