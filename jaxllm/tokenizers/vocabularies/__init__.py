"""How a piece becomes ids: merges, probabilities, or the longest match."""
