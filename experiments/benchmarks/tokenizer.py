"""Training and encoding speed of the byte-level BPE, beside the Hugging Face `tokenizers` library in the same run.

    python experiments/benchmarks/tokenizer.py [FILE] [--vocab-size 4096] [--rounds 5]

FILE is anything that `data.path` may be; without it, the corpus that ships with Python is used. Both train on the
train part and encode it, on one core each, in turns; the medians of all rounds are printed. The two must find the same
merges and the same ids, or the comparison would mean nothing. "cold" is the first time a tokenizer sees the text,
"warm" the next. Where the library is not installed (requirements/parity.txt), only jaxllm is measured.
"""

import argparse
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from jaxllm import tokenizers
from jaxllm.data.documents import read_documents
from jaxllm.data.split import split_of
from jaxllm.data.stdlib import stdlib_documents
from jaxllm.tokenizers import TokenizerConfig
from jaxllm.tokenizers.split_patterns import SPLIT_PATTERNS

# Must be set before the library starts its threads.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

STAGES = ("training", "encoding, cold", "encoding, warm")


class Measurements:
    """Seconds of each stage of each implementation, one for every round."""

    def __init__(self):
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)

    def time(self, name: str, stage: str, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = work()
        self.seconds[name, stage].append(time.perf_counter() - begin)
        return result

    def median(self, name: str, stage: str) -> float:
        return statistics.median(self.seconds[name, stage])


def measure_jaxllm(
    config: TokenizerConfig, texts: list[str], measurements: Measurements
) -> tuple[Any, list[list[int]]]:
    tokenizer = measurements.time("jaxllm", "training", lambda: tokenizers.train(config, texts))
    for stage in STAGES[1:]:
        ids = measurements.time("jaxllm", stage, lambda: tokenizer.encode_batch(texts))
    return tokenizer, ids


def measure_library(
    config: TokenizerConfig, texts: list[str], measurements: Measurements
) -> tuple[Any, list[list[int]]]:
    import tokenizers as library

    pre = library.pre_tokenizers
    tokenizer = library.Tokenizer(library.models.BPE())
    split = pre.Split(library.Regex(SPLIT_PATTERNS[config.split]), "isolated")
    tokenizer.pre_tokenizer = pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = library.trainers.BpeTrainer(
        vocab_size=config.vocab_size - len(config.special_tokens),
        min_frequency=2,
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    measurements.time("tokenizers", "training", lambda: tokenizer.train_from_iterator(texts, trainer))
    for stage in STAGES[1:]:
        encodings = measurements.time("tokenizers", stage, lambda: tokenizer.encode_batch(texts))
    return tokenizer, [encoding.ids for encoding in encodings]


def check_equal(ours: Any, our_ids: list[list[int]], library: Any, library_ids: list[list[int]]) -> None:
    expected = json.loads(library.to_str())["model"]["merges"]
    found = [merge.split(" ") for merge in ours.description()["model"]["merges"]]
    if found != [list(merge) for merge in expected]:
        raise SystemExit("error: the merges differ from those of the tokenizers library")
    if our_ids != library_ids:
        raise SystemExit("error: the ids differ from those of the tokenizers library")
    print("merges and ids are equal")


def print_table(measurements: Measurements, names: list[str], megabytes: float) -> None:
    print(f"\n{'':16}" + "".join(f"{name:>28}" for name in names) + ("       speed ratio" if len(names) == 2 else ""))
    for stage in STAGES:
        seconds = [measurements.median(name, stage) for name in names]
        cells = "".join(f"{s:14.2f} s {megabytes / s:7.2f} MB/s" for s in seconds)
        print(f"{stage:16}{cells}" + (f"{seconds[1] / seconds[0]:17.2f}x" if len(names) == 2 else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="text; the standard library's documentation if absent")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--split", default="cl100k", choices=list(SPLIT_PATTERNS))
    parser.add_argument("--validation-fraction", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    begin = time.perf_counter()
    documents = list(read_documents(arguments.file) if arguments.file else stdlib_documents())
    print(f"{len(documents):,} documents, read in {time.perf_counter() - begin:.1f} s")
    parts: dict[str, list[str]] = {"train": [], "validation": []}
    for document in documents:
        parts[split_of(document.name, arguments.validation_fraction)].append(document.text)
    texts = parts["train"] or parts["validation"]
    size = sum(len(text.encode()) for text in texts)
    config = TokenizerConfig(vocab_size=arguments.vocab_size, split=arguments.split)

    try:
        import tokenizers as library
    except ModuleNotFoundError:
        library = None
        print("the tokenizers library is not installed (requirements/parity.txt): jaxllm alone is measured")

    measurements = Measurements()
    for _ in range(arguments.rounds):
        ours, ids = measure_jaxllm(config, texts, measurements)
        if library:
            theirs = measure_library(config, texts, measurements)
    if library:
        check_equal(ours, ids, *theirs)
    print(f"train part: {size:,} bytes, {size / sum(map(len, ids)):.3f} bytes per token")
    held_out = sum(len(text.encode()) for text in parts["validation"])
    if held_out:
        tokens = sum(map(len, ours.encode_batch(parts["validation"])))
        print(f"validation part: {held_out:,} bytes, {held_out / tokens:.3f} bytes per token")
    print_table(measurements, ["jaxllm", "tokenizers"] if library else ["jaxllm"], size / 1e6)


if __name__ == "__main__":
    main()
