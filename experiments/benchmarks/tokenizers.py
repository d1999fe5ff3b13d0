"""Training and encoding speed of the byte-level BPE, beside tiktoken, tokenizers, sentencepiece and rustbpe in one run.

    python experiments/benchmarks/tokenizers.py [FILE ...] [--vocab-size 32000] [--rounds 3] [--processes 1 2]
    python experiments/benchmarks/tokenizers.py [FILE ...] --memory 1.0

A FILE is anything that `data.path` may be; without one, documentation and source of the Python standard library are
read, 17 MB. All train the same vocabulary size on all of it; those that cut text as jaxllm does must find the same
merges and the same ids, or the comparison would mean nothing. "cold" is the first time that a fresh tokenizer sees the
text, "warm" the next. Several processes are threads in the compiled libraries. The medians of all rounds are printed;
what is not installed (requirements/parity.txt) is left out, and said so.

--memory trains on so many gigabytes of text, made by repeating the corpus with its words varied, and prints the peak of
the memory of this process, which grows with the distinct pieces and not with the text.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pickle
import random
import re
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxllm.data.documents import read_documents
from jaxllm.data.stdlib import stdlib_documents
from jaxllm.tokenizers import PipelineTokenizer, train_byte_bpe
from jaxllm.tokenizers.bulk_encoding import BulkEncoder
from jaxllm.tokenizers.compiled_backend import CompiledTokenizer
from jaxllm.tokenizers.formats.tiktoken_files import ranks_of
from jaxllm.tokenizers.preparation.split_patterns import SPLIT_PATTERNS, splitter
from jaxllm.tokenizers.training.counting import count_pieces
from jaxllm.tokenizers.training.train_byte_bpe import learn_byte_bpe
from jaxllm.tokenizers.vocabularies.byte_alphabet import to_text

SPLIT = SPLIT_PATTERNS["cl100k"]


class Measurements:
    """Seconds of each stage of each implementation, one for every round."""

    def __init__(self):
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)

    def time(self, name: str, stage: str, work: Callable[..., Any], *args: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        result = work(*args, **options)
        self.seconds[name, stage].append(time.perf_counter() - begin)
        return result

    def print_table(self, megabytes: float) -> None:
        names, stages = (list(dict.fromkeys(column)) for column in zip(*self.seconds, strict=True))
        print(f"\n{'MB/s':34}" + "".join(f"{name:>16}" for name in names))
        for stage in stages:
            cells = [self.seconds.get((name, stage)) for name in names]
            speeds = [f"{megabytes / statistics.median(cell):16.2f}" if cell else f"{'-':>16}" for cell in cells]
            print(f"{stage:34}{''.join(speeds)}")


def installed(name: str) -> Any | None:
    # The folder of this script comes first in the path, and this script has the name of a library.
    here = Path(__file__).parent.resolve()
    sys.path = [folder for folder in sys.path if Path(folder).resolve() != here]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        print(f"{name} is not installed: left out")
        return None


def encode_stages(processes: int) -> tuple[str, str]:
    return f"encoding, {processes} process(es), cold", f"encoding, {processes} process(es), warm"


def measure_jaxllm(texts: list[str], size: int, processes: list[int], times: Measurements) -> PipelineTokenizer:
    for count in processes:
        stage = f"training, {count} process(es)"
        tokenizer = times.time("jaxllm", stage, train_byte_bpe, texts, size, split_pattern=SPLIT, processes=count)
    expected = None
    for count in processes:
        fresh = pickle.loads(pickle.dumps(tokenizer))
        cold, warm = encode_stages(count)
        begin = time.perf_counter()
        with BulkEncoder(fresh, count) as encode:
            ids = encode(texts)
            times.seconds["jaxllm", cold].append(time.perf_counter() - begin)  # with the start of the processes
            assert times.time("jaxllm", warm, encode, texts) == ids
        assert expected is None or ids == expected
        expected = ids
    return tokenizer


def measure_tiktoken(tiktoken: Any, ours: PipelineTokenizer, texts, expected, processes, times: Measurements) -> None:
    ranks = ranks_of(ours.vocabulary)
    theirs = tiktoken.Encoding("benchmark", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens={})
    compiled = CompiledTokenizer(ours)
    for count in processes:
        cold, warm = encode_stages(count)
        for stage in (cold, warm):
            ids = times.time("tiktoken", stage, theirs.encode_ordinary_batch, texts, num_threads=count)
            check(ids == expected, "the ids of tiktoken differ")
            ids = times.time("jaxllm compiled", stage, compiled.encode_batch, texts, processes=count)
            check(ids == expected, "the ids of the compiled back end differ")


def measure_library(
    library: Any, ours: PipelineTokenizer, size, texts, expected, processes, times: Measurements
) -> None:
    pre = library.pre_tokenizers
    for count in processes:
        # Read at each call; the number of threads is set in main(), before they are started.
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if count > 1 else "false"
        theirs = library.Tokenizer(library.models.BPE())
        split = pre.Split(library.Regex(SPLIT), "isolated")
        theirs.pre_tokenizer = pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
        trainer = library.trainers.BpeTrainer(
            vocab_size=size - len(ours.special_tokens),
            min_frequency=2,
            initial_alphabet=pre.ByteLevel.alphabet(),
            show_progress=False,
        )
        stage = f"training, {count} process(es)"
        times.time("tokenizers", stage, theirs.train_from_iterator, texts, trainer)
        merges = [tuple(merge) for merge in json.loads(theirs.to_str())["model"]["merges"]]
        check(
            merges == [(to_text(a), to_text(b)) for a, b in ours.vocabulary.merges], "the merges of tokenizers differ"
        )
        for stage in encode_stages(count):
            found = times.time("tokenizers", stage, theirs.encode_batch, texts, add_special_tokens=False)
            check([one.ids for one in found] == expected, "the ids of tokenizers differ")


def measure_rustbpe(rustbpe: Any, size: int, texts: list[str], times: Measurements) -> None:
    """It has one way to train, and encodes one text at a time."""
    theirs = rustbpe.Tokenizer()
    options = {"vocab_size": size - 1, "pattern": SPLIT}
    times.time("rustbpe", "training, 1 process(es)", theirs.train_from_iterator, iter(texts), **options)
    for stage in encode_stages(1):
        times.time("rustbpe", stage, lambda: list(map(theirs.encode, texts)))


def measure_sentencepiece(library: Any, size: int, texts: list[str], processes, times: Measurements) -> None:
    """Another algorithm on other pieces, so its ids can't be compared; it trains on lines, as it is meant to."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch) / "corpus.txt"
        corpus.write_text("\n".join(texts), encoding="utf-8")
        for count in processes:
            settings = {
                "input": str(corpus),
                "model_prefix": f"{scratch}/model",
                "vocab_size": size,
                "num_threads": count,
            }
            settings |= {"model_type": "bpe", "byte_fallback": True, "max_sentence_length": 1 << 20, "minloglevel": 2}
            times.time(
                "sentencepiece", f"training, {count} process(es)", library.SentencePieceTrainer.train, **settings
            )
        theirs = library.SentencePieceProcessor(model_file=f"{scratch}/model.model")
        for count in processes:
            for stage in encode_stages(count):
                times.time("sentencepiece", stage, theirs.encode, texts, num_threads=count)


def check(equal: bool, otherwise: str) -> None:
    if not equal:
        raise SystemExit(f"error: {otherwise}")


def varied(texts: list[str], size: int) -> Iterator[str]:
    """So many bytes of text: the corpus again and again, each time with other letters in some of its words."""
    produced, turn = 0, random.Random(0)
    while produced < size:
        changed = str.maketrans("etaoinshr", "".join(turn.sample("etaoinshr", 9)))
        for text in texts:
            # Every 20th line is changed, so that words that are new come up at the rate of ordinary text.
            lines = text.split("\n")
            start = turn.randrange(20)
            lines[start::20] = [line.translate(changed) for line in lines[start::20]]
            one = "\n".join(lines)
            produced += len(one.encode())
            yield one
            if produced >= size:
                return


def measure_memory(texts: list[str], size: int, gigabytes: float, processes: int) -> None:
    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6

    before, begin = peak(), time.perf_counter()
    pieces = count_pieces(varied(texts, int(gigabytes * 1e9)), splitter(SPLIT), processes)
    counted, counting = peak(), time.perf_counter() - begin
    learn_byte_bpe(pieces, size)
    seconds = time.perf_counter() - begin
    print(
        f"training {size:,} ids on {gigabytes} GB in {processes} process(es): {seconds:.0f} s, "
        f"{counting:.0f} s of them for counting {len(pieces):,} distinct pieces\n"
        f"peak memory: {before:,.0f} MB with the corpus in memory, {counted:,.0f} MB when the pieces were counted, "
        f"{peak():,.0f} MB in all"
    )


def corpus_of(files: list[str]) -> list[str]:
    documents = [d for file in files for d in read_documents(file)] if files else stdlib_documents(include_source=True)
    # Parts of at most 20,000 characters, cut at line ends, as a data pipeline would hand them over.
    return [part for d in documents for part in re.findall(r"(?s).{1,20000}(?:\n|\Z)|.{1,20000}", d.text)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="text; the Python standard library if absent")
    parser.add_argument("--vocab-size", type=int, default=32000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--memory", type=float, default=0.0, help="gigabytes to train on, instead of measuring speed")
    arguments = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(max(arguments.processes))

    texts = corpus_of(arguments.files)
    size = sum(len(text.encode()) for text in texts)
    print(f"{len(texts):,} texts, {size:,} bytes")
    if arguments.memory:
        measure_memory(texts, arguments.vocab_size, arguments.memory, max(arguments.processes))
        return
    times = Measurements()
    names = ("tiktoken", "tokenizers", "rustbpe", "sentencepiece")
    tiktoken, library, rustbpe, sentencepiece = map(installed, names)
    processes = arguments.processes
    for _ in range(arguments.rounds):
        ours = measure_jaxllm(texts, arguments.vocab_size, processes, times)
        expected = ours.encode_batch(texts)
        if tiktoken:
            measure_tiktoken(tiktoken, ours, texts, expected, processes, times)
        if library:
            measure_library(library, ours, arguments.vocab_size, texts, expected, processes, times)
        if rustbpe:
            measure_rustbpe(rustbpe, arguments.vocab_size, texts, times)
        if sentencepiece:
            measure_sentencepiece(sentencepiece, arguments.vocab_size, texts, processes, times)
    print("merges and ids are equal wherever they can be compared")
    print(f"{size / sum(map(len, expected)):.3f} bytes per token")
    times.print_table(size / 1e6)


if __name__ == "__main__":
    main()
