"""Where everything lies in an output directory.

documents/00000.parquet     what is left, a file for each shard (zstd)
dropped/STAGE/00000.parquet what that stage dropped, as it was then, with the reason
tokens/                     the token store
tokenizer/                  the tokenizer, where the run trained it
manifest.json               what was asked for; files with sizes and hashes; the funnel's numbers
funnel.md, funnel.png       the report
timings.json                processor seconds by stage: the only file that differs from run to run
work/                       what an unfinished run resumes from; gone when it is finished
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxllm.data.preparation.files import matches, read_json, write_json
from jaxllm.data.recipe import option_name


@dataclass(frozen=True)
class Layout:
    """The paths below one output directory."""

    out: str

    @property
    def root(self) -> Path:
        return Path(self.out)

    @property
    def work(self) -> Path:
        return self.root / "work"

    def documents(self, shard: str) -> Path:
        return self.root / "documents" / f"{shard}.parquet"

    def dropped(self, stage: str, shard: str) -> Path:
        return self.root / "dropped" / option_name(stage) / f"{shard}.parquet"

    def passed(self, number: int, shard: str, what: str) -> Path:
        """A file of pass `number`: kept.parquet, keys.arrow, sample.parquet, record.json."""
        return self.work / f"pass-{number}" / f"{shard}.{what}"

    def compared(self, number: int, what: str) -> Path:
        """A file of the comparison after pass `number`: drops.arrow or stage.pickle, and of its rounds."""
        return self.work / f"compare-{number}" / what

    def manifest(self) -> Path:
        return self.root / "manifest.json"

    def described(self, files: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
        """Files by their paths below the output directory."""
        return {path.relative_to(self.root).as_posix(): dict(about) for path, about in sorted(files.items())}

    def finished(self, record: Path) -> dict[str, Any] | None:
        """The record of a task that was finished before and whose files are all there, else None."""
        found = read_json(record)
        if found is None or not all(matches(self.root / name, a["bytes"]) for name, a in found["files"].items()):
            return None
        return found

    def finish(self, record: Path, values: dict[str, Any]) -> dict[str, Any]:
        """Writes the record of a task, last of all its files: from here on it is not done again."""
        write_json(record, values, lasting=False)
        return values
