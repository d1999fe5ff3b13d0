"""What every source of documents offers: shards, which are read in any order, process or machine.

    for shard in Files("crawl/*.warc.gz").shards():
        for document in shard.read(problems.append):
            ...

Sources and shards are frozen dataclasses of plain values, so they can be pickled and compared. Reading a shard needs
nothing but the shard; it gives the same documents in the same order each time, while the source stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxllm.data.documents import Document, DocumentError


@dataclass(frozen=True)
class Problem:
    """What could not be read: a file, where in it, and why."""

    path: str
    where: str
    """the place in the file, as "line 7" or "offset 1234", or "" for the whole of it"""
    message: str

    def __str__(self) -> str:
        return f"{self.path}{', ' if self.where else ''}{self.where}: {self.message}"


Report = Callable[[Problem], None]


def refuse(problem: Problem) -> None:
    """The strict way to take a problem: raises DocumentError, so that reading ends there."""
    raise DocumentError(str(problem))


class Shard(Protocol):
    """A part of a source that is read alone."""

    @property
    def name(self) -> str:
        """Unique within the source, and the same each time the source is listed."""
        ...

    @property
    def num_bytes(self) -> int:
        """About how many bytes there are to read (as stored, so maybe compressed); 0 where that isn't known."""
        ...

    @property
    def version(self) -> str:
        """Changes when the content does: a resumed run that finds another version must read the shard again."""
        ...

    def read(self, report: Report = refuse) -> Iterator[Document]:
        """Gives the documents of the shard; document names are unique within the whole source.

        What can't be read is reported. If `report` returns, reading goes on behind the damage; what it raises ends it.
        """
        ...


class Source(Protocol):
    """A named collection of documents."""

    @property
    def name(self) -> str:
        """What documents of this source carry as their `source`."""
        ...

    def shards(self) -> Sequence[Shard]:
        """Lists the source, in an order that does not change. Raises DocumentError if there is nothing to read."""
        ...
