"""The `jaxllm` command: one small file a verb, nothing but parsing and printing."""
