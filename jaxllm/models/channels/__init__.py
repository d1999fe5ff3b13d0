"""Channel mixers: what works within a position."""
