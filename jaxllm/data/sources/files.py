"""Files and folders of files as a source."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from jaxllm.data import documents as plain
from jaxllm.data.documents import Document, DocumentError
from jaxllm.data.sources.shards import Problem, Report, refuse


@dataclass(frozen=True)
class Files:
    """What a path stands for: a file, a folder with its subfolders, or a glob, as read_documents takes it."""

    path: str
    name: str = "files"

    def shards(self) -> list[FileShard]:
        found = plain._find_files(os.path.expanduser(self.path))
        return [
            FileShard(os.fspath(file), name, file.stat().st_size, str(file.stat().st_mtime_ns)) for file, name in found
        ]


@dataclass(frozen=True)
class FileShard:
    """One file, or a part of one."""

    path: str
    name: str
    num_bytes: int
    version: str

    def read(self, report: Report = refuse) -> Iterator[Document]:
        from pathlib import Path

        try:
            yield from plain._read_file(Path(self.path), self.name)
        except DocumentError as error:
            report(Problem(self.path, "", str(error)))
