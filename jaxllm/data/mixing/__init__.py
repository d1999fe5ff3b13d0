"""How much of what: weights of sources, the order in which they take turns, selection and learned weights."""
