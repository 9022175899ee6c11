"""From a task to the model that answers, and what its confidence means."""
