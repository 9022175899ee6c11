"""How a bundle does in the field: agreement with the large model, its promise tested, and drift; counts, no texts."""
