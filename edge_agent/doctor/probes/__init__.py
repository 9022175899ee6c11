"""What looks: thin, bounded in time, and honest about what it may not see. One module for each module of rules."""
