"""The pipeline of a recipe: its stages, their order and fingerprints, the work folder, the recipe and the task file."""
