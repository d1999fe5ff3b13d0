"""What can be said about the data of a run."""

import math
from dataclasses import dataclass
from typing import Literal

# Values of `DataConfig.path` for the text that every Python carries with it: its manuals, and its source code too.
STDLIB = "stdlib"
STDLIB_SOURCE = "stdlib+source"

SplitMethod = Literal["auto", "name", "tail"]
Packing = Literal["best_fit", "first_fit", "concat"]


@dataclass(frozen=True)
class SourceConfig:
    """One source of a mixture."""

    name: str
    """what it is called in metrics and folders: letters, digits, "_" and "-" """

    path: str
    """what `data.path` may be"""

    weight: float = 0.0
    """its part of the tokens of training in proportion to the others'; 0, then for all sources: its number of tokens"""

    upsampling: float = 1.0
    """factor of the weight after the temperature, for text worth reading more than once"""

    max_epochs: float = 0.0
    """how often the run may go through it; where its weight asks for more, the others take its place; 0: any number"""

    def __post_init__(self):
        if not self.name or not all(character.isalnum() or character in "_-" for character in self.name):
            raise ValueError(f'the name of a source must be of letters, digits, "_" and "-", got {self.name!r}')
        if not self.path:
            raise ValueError(f"data.sources: {self.name!r} has no path")
        if not (0 <= self.weight < math.inf and 0 < self.upsampling < math.inf and 0 <= self.max_epochs < math.inf):
            raise ValueError(
                f"data.sources: of {self.name!r}, weight and max_epochs must not be negative and upsampling must be "
                f"above 0, got {self.weight}, {self.max_epochs} and {self.upsampling}"
            )


@dataclass(frozen=True)
class StageConfig:
    """From some point of training on, other weights."""

    start: float
    """part of the steps after which the stage begins, between 0 and 1"""

    weights: tuple[float, ...]
    """of the sources, in their order; 0 leaves one out"""

    def __post_init__(self):
        if not 0 < self.start < 1:
            raise ValueError(f"the start of a stage must lie between 0 and 1, got {self.start}")
        if not all(0 <= weight < math.inf for weight in self.weights) or not sum(self.weights) > 0:
            raise ValueError(f"the weights of a stage must be at least 0 and one above it, got {self.weights}")


@dataclass(frozen=True)
class FillInTheMiddleConfig:
    """Turning some texts into a prefix, a suffix and what was between them (Bavarian et al. 2022)."""

    rate: float = 0.0
    """part of the texts that are turned; the paper's choices are 0.5 and 0.9"""

    spm_rate: float = 0.5
    """part of these that come as suffix, prefix, middle instead of prefix, suffix, middle"""

    level: Literal["character", "token"] = "character"
    """where a text may be cut: between characters, so that a model learns to go on in the middle of a token"""

    scope: Literal["document", "context"] = "document"
    """what is turned: whole documents before they are stored, or the pieces of documents that share a row"""

    prefix: str = "<|fim_prefix|>"
    """special token before the prefix"""

    suffix: str = "<|fim_suffix|>"
    """special token before the suffix"""

    middle: str = "<|fim_middle|>"
    """special token before the middle"""

    def __post_init__(self):
        if not 0 <= self.rate <= 1 or not 0 <= self.spm_rate <= 1:
            raise ValueError(
                f"data.fill_in_the_middle: rate and spm_rate must lie in 0 .. 1, got {self.rate} and {self.spm_rate}"
            )
        for name, choices in (("level", ("character", "token")), ("scope", ("document", "context"))):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"data.fill_in_the_middle.{name} must be {' or '.join(choices)}, got {getattr(self, name)!r}"
                )


@dataclass(frozen=True)
class DataConfig:
    """Where the text comes from, how it is split, and how it becomes batches."""

    path: str = STDLIB
    """a file, folder or glob of .txt, .md, .jsonl, .parquet (also .gz, .zst); or "stdlib", Python's own
    manuals; or "stdlib+source", the standard library's source code too; or tokens: the directory of a token store,
    nanoGPT's .bin, Megatron's .idx (with tokenizer.path)"""

    sources: tuple[SourceConfig, ...] = ()
    """a mixture of several, in place of the path"""

    temperature: float = 1.0
    """of the mixture: weights to the power of 1 / temperature; above 1 small sources come nearer to large ones"""

    stages: tuple[StageConfig, ...] = ()
    """other weights from some points of training on, such as better text for the last tenth"""

    validation_fraction: float = 0.05
    """part of the text that is kept for validation, between 0 and 1"""

    split: SplitMethod = "auto"
    """what is kept for validation: "name" takes whole documents by a hash of their name, "tail" the end of each
    document, "auto" is "name" where there are 20 or more documents and both parts get some, otherwise "tail" """

    compression: Literal["none", "zstd"] = "none"
    """of the tokens on disk; "zstd" makes them about a quarter smaller"""

    fill_in_the_middle: FillInTheMiddleConfig = FillInTheMiddleConfig()
    """texts to be continued in the middle"""

    packing: Packing = "best_fit"
    """how documents share rows: "best_fit" and "first_fit" cut only those longer than a row, "concat" fills rows and
    cuts anywhere"""

    packing_window: int = 0
    """documents that are packed at a time, where there are too many to plan at once; 0 plans all together"""

    shuffle_seed: int = 0
    """seed of the packing and of the order of rows in each epoch"""

    # One is enough: building a batch holds the interpreter's lock most of the time, and a second thread made it slower
    # wherever it was measured (experiments/benchmarks/data_loader.py).
    read_threads: int = 1
    """threads that build batches ahead of the training step; 0 builds each batch when it is asked for"""

    prefetch_batches: int = 4
    """batches held ready per process; 0 builds each batch when it is asked for"""

    device_prefetch: int = 2
    """batches that are on their devices before their step; 0 sends each when its step is due"""

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
        if self.compression not in ("none", "zstd"):
            raise ValueError(f'data.compression must be "none" or "zstd", got {self.compression!r}')
        if self.packing not in ("best_fit", "first_fit", "concat"):
            raise ValueError(f'data.packing must be "best_fit", "first_fit" or "concat", got {self.packing!r}')
        if not 0 <= self.shuffle_seed < 2**63:
            raise ValueError(f"data.shuffle_seed must lie in 0 .. 2**63 - 1, got {self.shuffle_seed}")
        for field in ("packing_window", "read_threads", "prefetch_batches", "device_prefetch"):
            if getattr(self, field) < 0:
                raise ValueError(f"data.{field} must not be negative, got {getattr(self, field)}")
        self._check_mixture()

    def _check_mixture(self) -> None:
        names = [source.name for source in self.sources]
        if not self.temperature > 0:
            raise ValueError(f"data.temperature must be above 0, got {self.temperature}")
        if names and self.path != STDLIB:
            raise ValueError(f"data.path={self.path!r} is not read where there are data.sources: leave one of them out")
        if len(set(names)) != len(names):
            raise ValueError(f"data.sources must have names of their own, got {names}")
        if len({source.weight > 0 for source in self.sources}) == 2:
            raise ValueError("data.sources: give all of them a weight, or none to weigh them by their tokens")
        starts = [stage.start for stage in self.stages]
        if sorted(set(starts)) != starts:
            raise ValueError(f"data.stages must follow each other, got starts of {starts}")
        for stage in self.stages:
            if len(stage.weights) != len(names):
                raise ValueError(
                    f"data.stages: the stage from {stage.start} needs one weight a source, {len(names)} of them; got "
                    f"{len(stage.weights)}"
                )
