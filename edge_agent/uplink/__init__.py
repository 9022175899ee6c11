"""The other daemon, and the only room that touches a network: an untrusted mirror between outbox and upstream."""
