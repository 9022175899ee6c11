"""Our llama engine beside llama-server: what scripts/bench llm runs."""
