"""What can be said about the data of a run."""

from dataclasses import dataclass
from typing import Literal

# Values of `DataConfig.path` for the text that every Python carries with it: its manuals, and its source code too.
STDLIB = "stdlib"
STDLIB_SOURCE = "stdlib+source"

SplitMethod = Literal["auto", "name", "tail"]
Packing = Literal["best_fit", "concat"]


@dataclass(frozen=True)
class DataConfig:
    """Where the text comes from, how it is split, and how it becomes batches."""

    path: str = STDLIB
    """a file, folder or glob of .txt, .md, .jsonl, .parquet (also .gz, .zst); or "stdlib", Python's own
    manuals; or "stdlib+source", the standard library's source code too"""

    validation_fraction: float = 0.05
    """part of the text that is kept for validation, between 0 and 1"""

    split: SplitMethod = "auto"
    """what is kept for validation: "name" takes whole documents by a hash of their name, "tail" the end of each
    document, "auto" is "name" where there are 20 or more documents and both parts get some, otherwise "tail" """

    packing: Packing = "best_fit"
    """how documents share rows: "best_fit" cuts only those longer than a row, "concat" fills rows and cuts anywhere"""

    shuffle_seed: int = 0
    """seed of the packing and of the order of rows in each epoch"""

    # One is enough: building a batch holds the interpreter's lock most of the time, and a second thread made it slower
    # wherever it was measured (experiments/benchmarks/data_loader.py).
    read_threads: int = 1
    """threads that build batches ahead of the training step; 0 builds each batch when it is asked for"""

    prefetch_batches: int = 4
    """batches held ready per process; 0 builds each batch when it is asked for"""

    def __post_init__(self):
        if not self.path:
            raise ValueError(
                f'data.path is empty; name a file, folder or glob, or "{STDLIB}" for Python\'s own documentation'
            )
        # `not 0 < x < 1` also catches NaN.
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"data.validation_fraction must lie between 0 and 1, got {self.validation_fraction}")
        if self.split not in ("auto", "name", "tail"):
            raise ValueError(f'data.split must be "auto", "name" or "tail", got {self.split!r}')
        if self.packing not in ("best_fit", "concat"):
            raise ValueError(f'data.packing must be "best_fit" or "concat", got {self.packing!r}')
        if not 0 <= self.shuffle_seed < 2**63:
            raise ValueError(f"data.shuffle_seed must lie in 0 .. 2**63 - 1, got {self.shuffle_seed}")
        for field in ("read_threads", "prefetch_batches"):
            if getattr(self, field) < 0:
                raise ValueError(f"data.{field} must not be negative, got {getattr(self, field)}")
