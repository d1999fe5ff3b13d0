"""The files that tokenizers are kept in, here and elsewhere."""
