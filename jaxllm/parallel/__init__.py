"""Mesh and sharding: parallelism is declared by axis names and one table of rules."""
