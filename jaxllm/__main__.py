"""`python -m jaxllm` is the `jaxllm` command."""

import sys

from jaxllm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
