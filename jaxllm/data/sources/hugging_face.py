"""Data sets of the Hugging Face hub, streamed by the library `datasets` (extra `datasets`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxllm.data.documents import Document, DocumentError
from jaxllm.data.sources.shards import Problem, Report, refuse
from jaxllm.data.sources.tables import json_value


@dataclass(frozen=True)
class HuggingFaceDataset:
    """One split of a data set, read without downloading it first. Its own shards (files, mostly) are the shards."""

    dataset: str
    """as on the hub, "HuggingFaceFW/fineweb-edu", or a builder such as "json" with data_files"""
    name: str = ""
    """what the documents carry as their source; "" for the data set's name"""
    config: str = ""
    """which of its subsets, "" for the default"""
    split: str = "train"
    revision: str = ""
    """a commit of the data set's repository; without one, what is read changes when its makers change it"""
    data_files: tuple[str, ...] = ()
    text_field: str = "text"
    metadata_fields: tuple[str, ...] | None = None
    """which other columns a document keeps; None for all that are neither lists nor structures"""

    def __post_init__(self):
        object.__setattr__(self, "name", self.name or self.dataset)

    def shards(self) -> list[HuggingFaceShard]:
        """Asks the hub for the list of files. Raises DocumentError without the extra, and for what can't be found."""
        return [HuggingFaceShard(self, index, count) for count in [_open(self).num_shards] for index in range(count)]


@dataclass(frozen=True)
class HuggingFaceShard:
    """One of the shards that a data set consists of."""

    source: HuggingFaceDataset
    index: int
    count: int
    num_bytes: int = 0

    @property
    def name(self) -> str:
        return f"{self.index:05d}-of-{self.count:05d}"

    @property
    def version(self) -> str:
        return self.source.revision

    def read(self, report: Report = refuse) -> Iterator[Document]:
        row, rows = 0, None
        while True:
            try:
                rows = rows or self._rows()
                values = next(rows, None)
            # Building and fetching raise errors of many libraries; which row they came behind is what helps.
            except Exception as error:
                report(Problem(self.source.dataset, f"shard {self.name}, row {row + 1}", f"can't be read: {error}"))
                return
            if values is None:
                return
            row += 1
            document = self._document(row, values)
            if isinstance(document, str):
                report(Problem(self.source.dataset, f"shard {self.name}, row {row}", document))
            else:
                yield document

    def _rows(self) -> Iterator[dict[str, Any]]:
        rows = _open(self.source)
        if rows.num_shards != self.count:
            raise DocumentError(f"had {self.count} shards when it was listed, has {rows.num_shards} now")
        return iter(rows.shard(num_shards=self.count, index=self.index))

    def _document(self, row: int, values: dict[str, Any]) -> Document | str:
        field, kept = self.source.text_field, self.source.metadata_fields
        text = values.get(field)
        if not isinstance(text, str):
            return (
                f"the column {field!r} must be a string, found {type(text).__name__}; its columns are {sorted(values)}"
            )
        metadata = {
            key: json_value(value)
            for key, value in values.items()
            if key != field and value is not None and (key in kept if kept is not None else not _is_nested(value))
        }
        return Document(f"{self.name}:{row}", text, metadata)


def _is_nested(value: Any) -> bool:
    return not isinstance(value, str | int | float | bool) and not hasattr(value, "isoformat")


def _open(source: HuggingFaceDataset):
    """The data set as an iterable one, in which shards and rows are the same each time."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DocumentError(
            f"{source.dataset}: needs the library datasets, which is not installed: pip install 'jaxllm[datasets]'"
        ) from error
    try:
        return datasets.load_dataset(
            source.dataset,
            source.config or None,
            split=source.split,
            revision=source.revision or None,
            data_files=list(source.data_files) or None,
            streaming=True,
        )
    # Offline, unknown, gated, no such subset: the library raises a dozen kinds, all of them with a message.
    except Exception as error:
        raise DocumentError(f"{source.dataset}: can't be opened: {error}") from error
