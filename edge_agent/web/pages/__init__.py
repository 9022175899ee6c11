"""The pages: each asks the daemon, says it in words (`edge_agent/web/words`), and fills in a template."""
