"""llama.cpp behind the runtime seam. Runs only inside the child."""
