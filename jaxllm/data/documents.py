"""Documents, and the simplest way to read them.

A document has a name that stays the same wherever its folder lies, so that a split by name never moves.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Document:
    """One text with a name that is unique within its source."""

    name: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """what its source knows of it (an address, a date, a language), in values that JSON can hold"""


class DocumentError(ValueError):
    """A source of documents can't be read; the message names the file and the place in it."""


def read_documents(path: str) -> Iterator[Document]:
    """Reads the documents of a file, of a folder (with its subfolders) or of a glob such as "corpus/**/*.jsonl.gz".

    A .txt, .md or .html file is one document (of HTML, the main text); each line of a .jsonl file (field `text`) and
    each row of a .parquet or .arrow file (column `text`) is one, and each page of a .warc, .wet or wiki .xml file. Any
    of them may also end in .gz, .zst or .bz2, or lie in a .zip. Text is UTF-8, and line ends are kept as they are.

    Files come in the order of their paths below the folder (for a glob: below its part without wildcards), and these
    relative paths are the documents' names, with ":N" for line or row N, counted from 1. In folders, hidden files and
    files of other kinds are passed over. One line, row batch or page is in memory at a time.

    Raises DocumentError for a path that does not exist or yields no file, a named file of another kind, and any file
    that is empty, damaged or malformed; jaxllm.data.sources.Files reads on behind damage, in parallel.
    """
    from jaxllm.data.sources.files import Files

    # Nobody reads these shards in parallel, so nothing is to be cut.
    for shard in Files(path, shard_bytes=1 << 62).shards():
        yield from shard.read()
