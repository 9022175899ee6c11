"""What is installed and which version answers."""
