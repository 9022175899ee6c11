"""Updates of real sites, disturbed: daemon and uplink are processes, the repository is one that was published."""
