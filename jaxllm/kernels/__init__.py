"""Fast paths, each with its slow twin in the same file, and the choice among them."""
