"""What every Python carries with it as a source: documentation, language reference, source code; nothing is loaded."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass

from jaxllm.data.documents import Document
from jaxllm.data.sources.shards import Report, refuse

# The source code is read in so many shards.
_CODE_SHARDS = 4


@dataclass(frozen=True)
class StandardLibrary:
    """Python's own documentation, or its own source code; see jaxllm.data.stdlib for what these are."""

    content: str = "documentation"
    """documentation, or code"""
    name: str = "python"

    def __post_init__(self):
        if self.content not in ("documentation", "code"):
            raise ValueError(f"the content must be documentation or code, got {self.content!r}")

    def shards(self) -> list[StandardLibraryShard]:
        # Sizes as they are in CPython 3.11.
        if self.content == "documentation":
            return [StandardLibraryShard("pages", 5_200_000), StandardLibraryShard("topics", 500_000)]
        return [StandardLibraryShard(f"code-{number}", 11_000_000 // _CODE_SHARDS) for number in range(_CODE_SHARDS)]


@dataclass(frozen=True)
class StandardLibraryShard:
    """A part of it."""

    name: str
    num_bytes: int

    @property
    def version(self) -> str:
        return platform.python_version()

    def read(self, report: Report = refuse) -> Iterator[Document]:
        from jaxllm.data.stdlib import LIBRARY, pages, source, source_files, topics

        match self.name.partition("-"):
            case "pages", _, _:
                return pages()
            case "topics", _, _:
                return topics()
            case _, _, number:
                files = source_files(LIBRARY)
                begin, end = (len(files) * (int(number) + i) // _CODE_SHARDS for i in (0, 1))
                return source(LIBRARY, files[begin:end])
