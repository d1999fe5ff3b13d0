"""Everything that data takes on its way to a training step, beside its peers, in one run.

    pip install datatrove spacy
    python experiments/benchmarks/data.py [--megabytes 200] [--peer-megabytes 20] [--data DATA]

One after another, each in a process of its own: the chain of quality filters (data_filters.py) and MinHash
deduplication (data_dedup.py) beside datatrove, and the loader beside grain and a training step (data_loader.py).
datatrove, which is slow, gets --peer-megabytes; of these the ratios are taken. DATA is a folder with more English text.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=200.0)
    parser.add_argument("--peer-megabytes", type=float, default=20.0)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    peer = min(options.megabytes, options.peer_megabytes)
    filters, dedup = (
        ["--megabytes", f"{peer:g}"],
        ["--megabytes", f"{options.megabytes:g}", "--peer-megabytes", f"{peer:g}"],
    )
    if options.data:
        filters += ["--data", str(options.data)]
        dedup += ["--extra", str(options.data / "corpora")]
    runs = {"data_filters.py": filters, "data_dedup.py": dedup, "data_loader.py": []}
    failed = []
    for name, arguments in runs.items():
        print(f"\n{name} {' '.join(arguments)}", flush=True)
        if subprocess.run([sys.executable, HERE / name, *arguments], check=False).returncode:
            failed.append(name)
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall three ran")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
