"""From a config to two token stores: documents, split, tokens.

The tokenizer may be trained on the train part first:

    documents = SplitDocuments(config)
    tokenizer = tokenizers.train(tokenizer_config, documents.texts("train"))
    corpus = prepare_corpus(documents, tokenizer, "runs/one/corpus")

A mixture has one such corpus for each source (`split_documents`, `prepare_corpora`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxllm.data.atomic import new_directory
from jaxllm.data.config import STDLIB, STDLIB_SOURCE, DataConfig
from jaxllm.data.documents import Document, read_documents
from jaxllm.data.fill_in_the_middle import document_encoding
from jaxllm.data.packing import plan_packing
from jaxllm.data.prepared import DOCUMENTS_FOR_NAME_SPLIT, DocumentView, PreparedTokens, is_prepared
from jaxllm.data.split import split_of
from jaxllm.data.token_store import Layout, TokenStore, TokenStoreError, check_fingerprint, create_token_store

if TYPE_CHECKING:
    from jaxllm.tokenizers import Tokenizer

Part = Literal["train", "validation"]

_FORMAT = 1

# What of a config decides which text is in which store; the rest may change between runs over one corpus.
_CORPUS_FIELDS = ("path", "validation_fraction", "split")


class SplitDocuments:
    """The documents of a config, each with its part; can be gone through any number of times, each time from the start.

    documents: texts that are in memory already, used in place of those at config.path; a list or another iterable
    that can be gone through again. Nothing is read before the first iteration.
    """

    def __init__(self, config: DataConfig, documents: Iterable[Document] | None = None):
        if documents is not None and iter(documents) is documents:
            raise ValueError("documents can be gone through only once; pass a list of them")
        self.config = config
        self._documents = documents

    @cached_property
    def method(self) -> Literal["name", "tail"]:
        """How the documents are split; where the config says "auto", this looks at the first documents to choose."""
        if self.config.split != "auto":
            return self.config.split
        parts = set()
        for count, document in enumerate(self._read(), start=1):
            parts.add(split_of(document.name, self.config.validation_fraction))
            if count >= DOCUMENTS_FOR_NAME_SPLIT and len(parts) == 2:
                return "name"
        return "tail"

    def __iter__(self) -> Iterator[tuple[Part, Document]]:
        """Gives (part, document). In a split by tail a document comes once for each part that gets some of its text.

        Raises what reading the documents raises.
        """
        fraction = self.config.validation_fraction
        for document in self._read():
            if self.method == "name":
                yield split_of(document.name, fraction), document
                continue
            cut = int((1 - fraction) * len(document.text))
            for part, text in (("train", document.text[:cut]), ("validation", document.text[cut:])):
                if text:
                    yield part, Document(document.name, text)

    def texts(self, part: Part) -> Iterator[str]:
        """The texts of one part, for training a tokenizer or a baseline on."""
        return (document.text for its_part, document in self if its_part == part)

    def _read(self) -> Iterator[Document]:
        return source_documents(self.config) if self._documents is None else iter(self._documents)


class MixedDocuments:
    """The documents of every source of a mixture, each source split by itself."""

    def __init__(self, config: DataConfig):
        self.config = config
        self.sources = {
            source.name: split_documents(replace(config, path=source.path, sources=(), stages=()))
            for source in config.sources
        }

    def texts(self, part: Part) -> Iterator[str]:
        """The texts of one part, source after source."""
        return (text for documents in self.sources.values() for text in documents.texts(part))


Documents = SplitDocuments | PreparedTokens | MixedDocuments


def split_documents(config: DataConfig) -> Documents:
    """The documents of a config, of one source or of a mixture; where a path names tokens, these."""
    if config.sources:
        return MixedDocuments(config)
    return PreparedTokens(config) if is_prepared(config.path) else SplitDocuments(config)


def source_documents(config: DataConfig) -> Iterator[Document]:
    """What `config.path` stands for: the text that ships with Python, or files."""
    if config.path in (STDLIB, STDLIB_SOURCE):
        from jaxllm.data.stdlib import stdlib_documents

        return stdlib_documents(include_source=config.path == STDLIB_SOURCE)
    return read_documents(config.path)


@dataclass(frozen=True, eq=False)
class Corpus:
    """The two token stores of a run, and how their documents were split."""

    train: TokenStore | DocumentView
    validation: TokenStore | DocumentView
    method: Literal["name", "tail"]


def prepare_corpora(documents: MixedDocuments, tokenizer: Tokenizer, directory: str | Path) -> dict[str, Corpus]:
    """The corpus of each source of a mixture, in a directory of its name; see prepare_corpus."""
    return {
        name: prepare_corpus(source, tokenizer, Path(directory) / name) for name, source in documents.sources.items()
    }


def open_corpora(directory: str | Path, config: DataConfig, tokenizer: Tokenizer) -> dict[str, Corpus]:
    """Opens what prepare_corpora wrote; see open_corpus."""
    return {
        name: open_corpus(Path(directory) / name, source.config, tokenizer)
        for name, source in MixedDocuments(config).sources.items()
    }


def prepare_corpus(documents: SplitDocuments | PreparedTokens, tokenizer: Tokenizer, directory: str | Path) -> Corpus:
    """Tokenizes both parts in one pass into train/ and validation/ below `directory`, or opens what is there.

    The directory appears as a whole or not at all. One that is there is used if it was made by the same tokenizer and
    with the same path, validation_fraction and split; the source is then not read again. Tokens that are there already
    are used where they lie, and nothing is written.

    Raises ValueError if a part gets no text, and TokenStoreError if what is there was made otherwise or is damaged;
    FileExistsError if something else is there; also what reading the documents raises.
    """
    directory = Path(directory)
    if isinstance(documents, PreparedTokens):
        return Corpus(*documents.split(tokenizer))
    try:
        _write_corpus(documents, tokenizer, directory)
    except OSError:
        # It was there already, or another process on the same file system was first: its corpus is as good as ours.
        if not (directory / "corpus.json").is_file():
            raise
    return open_corpus(directory, documents.config, tokenizer)


def open_corpus(directory: str | Path, config: DataConfig, tokenizer: Tokenizer) -> Corpus:
    """Opens what prepare_corpus wrote; raises TokenStoreError if it is not there, damaged, or was made otherwise."""
    directory = Path(directory)
    if is_prepared(config.path):
        return Corpus(*PreparedTokens(config).split(tokenizer))
    made = _read_description(directory)
    made_from = made["config"]
    asked = _corpus_fields(config)
    differing = [
        f"data.{field} was {made_from[field]!r}, is {asked[field]!r}"
        for field in asked
        if made_from[field] != asked[field]
    ]
    if differing:
        raise TokenStoreError(
            f"{directory}: was prepared from other settings: {'; '.join(differing)}; "
            "use those settings, or another directory, or remove this one"
        )
    check_fingerprint(str(directory), made["tokenizer"], tokenizer)
    train = TokenStore.open(directory / "train", tokenizer=tokenizer)
    encoding = document_encoding(config.fill_in_the_middle, tokenizer, config.shuffle_seed)
    if train.manifest.encoding != (encoding.fingerprint if encoding else ""):
        raise TokenStoreError(
            f"{directory}: was prepared with other settings of data.fill_in_the_middle or another data.shuffle_seed: "
            f"{train.manifest.encoding or 'none'}; use those, or another directory, or remove this one"
        )
    return Corpus(
        train=train,
        validation=TokenStore.open(directory / "validation", tokenizer=tokenizer),
        method=made["method"],
    )


def _read_description(directory: Path) -> dict:
    """corpus.json, with the keys format, config, method and tokenizer."""
    path = directory / "corpus.json"
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TokenStoreError(f"{directory}: is not a prepared corpus: it has no corpus.json") from error
    except ValueError as error:
        raise TokenStoreError(f"{path}: is damaged: {error}") from error
    found = made.get("format") if isinstance(made, dict) else None
    if found != _FORMAT:
        raise TokenStoreError(
            f"{path}: has format {found}, this version reads format {_FORMAT}; prepare the corpus again"
        )
    if made.keys() != {"format", "config", "method", "tokenizer"} or set(made["config"]) != set(_CORPUS_FIELDS):
        raise TokenStoreError(f"{path}: is damaged: keys are missing or unknown; prepare the corpus again")
    return made


def _write_corpus(documents: SplitDocuments, tokenizer: Tokenizer, directory: Path) -> None:
    config = documents.config
    plain = Layout(compression=config.compression)
    # Validation measures how texts go on from their begin, whatever training makes of them.
    turned = replace(plain, encoding=document_encoding(config.fill_in_the_middle, tokenizer, config.shuffle_seed))
    with new_directory(directory) as staged:
        with (
            create_token_store(staged / "train", tokenizer, source=config.path, layout=turned) as train,
            create_token_store(staged / "validation", tokenizer, source=config.path, layout=plain) as validation,
        ):
            writers = {"train": train, "validation": validation}
            characters = {"train": 0, "validation": 0}
            for part, document in documents:
                writers[part].add(document)
                characters[part] += len(document.text)
            _refuse_empty_part(documents, characters)
        made = {
            "format": _FORMAT,
            "config": _corpus_fields(config),
            "method": documents.method,
            "tokenizer": tokenizer.fingerprint(),
        }
        (staged / "corpus.json").write_text(json.dumps(made, indent=2), encoding="utf-8")


def _refuse_empty_part(documents: SplitDocuments, characters: dict[Part, int]) -> None:
    for part, count in characters.items():
        if not count:
            fix = "use data.split=tail" if documents.method == "name" else "give more text"
            turn = "raise" if part == "validation" else "lower"
            raise ValueError(
                f"the {part} part of {documents.config.path!r} has no text (split by {documents.method}, "
                f"data.validation_fraction={documents.config.validation_fraction}); "
                f"{turn} data.validation_fraction, or {fix}"
            )


def _corpus_fields(config: DataConfig) -> dict:
    return {field: getattr(config, field) for field in _CORPUS_FIELDS}


@dataclass(frozen=True)
class PartReport:
    """One part of a corpus in numbers; `str()` makes a line of it."""

    part: Part
    documents: int
    empty_documents: int
    bytes: int
    tokens: int
    row_length: int
    rows: int
    utilization: float
    """the part of all positions of the packed rows that holds a token"""

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens

    def __str__(self) -> str:
        skipped = f" ({self.empty_documents} empty ones skipped)" if self.empty_documents else ""
        return (
            f"{self.part}: {self.documents:,} documents{skipped}, {self.bytes:,} bytes, {self.tokens:,} tokens "
            f"({self.bytes_per_token:.2f} bytes each), {self.rows:,} rows "
            f"of {self.row_length}, {self.utilization:.1%} full"
        )


def report_corpus(corpus: Corpus, config: DataConfig, row_length: int) -> tuple[PartReport, PartReport]:
    """Counts both parts, train first, packed into rows of `row_length` as the config says."""

    def report(part: Part, store: TokenStore | DocumentView) -> PartReport:
        plan = plan_packing(store.lengths, row_length, packing=config.packing, seed=config.shuffle_seed)
        return PartReport(
            part=part,
            documents=store.documents,
            empty_documents=store.manifest.empty_documents if isinstance(store, TokenStore) else 0,
            bytes=store.num_bytes,
            tokens=store.num_tokens,
            row_length=row_length,
            rows=plan.num_rows,
            utilization=plan.utilization,
        )

    return report("train", corpus.train), report("validation", corpus.validation)
