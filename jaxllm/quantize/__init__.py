"""Numbers of eight bits and fewer, and the leaves of a parameter tree that hold them or multiply in them."""
