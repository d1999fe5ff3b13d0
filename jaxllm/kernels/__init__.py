"""Fast paths, each with a slow twin that says what it computes."""
