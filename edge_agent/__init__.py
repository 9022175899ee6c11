"""Edge Agent: runs fine-tuned small models where the work happens."""

__version__ = "0.1.0"
