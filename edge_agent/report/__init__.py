"""Money and readiness of each task: figures that the daemon counted become a judgement, a page, JSON and a table."""
