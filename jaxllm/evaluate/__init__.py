"""How good is it: metrics and what to compare them with."""
