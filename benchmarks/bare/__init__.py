"""What the serving bars compare with: the least code that does the same work, each in a process of its own."""
