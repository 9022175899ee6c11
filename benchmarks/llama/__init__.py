"""Parts of scripts/bench llm: our llama engine compared with llama-server."""
