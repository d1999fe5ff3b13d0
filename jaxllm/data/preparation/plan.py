"""What a run will do: which parts of which source make which shard, and all that the result depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

from jaxllm.data.preparation.layout import Layout
from jaxllm.data.preparation.shard_pass import Shard
from jaxllm.data.recipe import Recipe

FORMAT = 1

# A list of many small files, shortened in messages.
_SHOWN = 120


def make_shards(recipe: Recipe) -> list[Shard]:
    """Parts of each source, in their order, together up to recipe.shard_bytes; a larger one is a shard of its own."""
    groups: list[tuple[str, list[Any]]] = []
    for source in recipe.sources:
        size = recipe.shard_bytes + 1
        for part in source.shards():
            if size + part.num_bytes > recipe.shard_bytes:
                groups.append((source.name, []))
                size = 0
            groups[-1][1].append(part)
            size += part.num_bytes
    return [Shard(number, source, tuple(parts)) for number, (source, parts) in enumerate(groups)]


def describe(recipe: Recipe, shards: list[Shard]) -> dict[str, Any]:
    """All that the result depends on, as it stands in the manifest."""
    values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    values |= {kind: [repr(member) for member in values[kind]] for kind in ("sources", "stages")}
    values["tokenizer"] = dataclasses.asdict(recipe.tokenizer)
    parts = {
        shard.name: {"source": shard.source, "parts": [[p.name, p.num_bytes, p.version] for p in shard.parts]}
        for shard in shards
    }
    made_from = {"format": FORMAT, "recipe": values, "shards": parts}
    if files := dict(sorted(_named_files(recipe.stages))):
        made_from["files"] = files
    # Through JSON, so that it equals what is read back.
    return json.loads(json.dumps(made_from))


def _named_files(value: Any) -> Iterator[tuple[str, str]]:
    """Each file (a model, a word list, an evaluation set) whose path a stage holds, and its SHA-256."""
    if isinstance(value, str) and os.path.isfile(value):
        with open(value, "rb") as file:
            yield value, hashlib.file_digest(file, "sha256").hexdigest()
    elif isinstance(value, tuple):
        for one in value:
            yield from _named_files(one)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _named_files(getattr(value, field.name))


def refuse_other(layout: Layout, found: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raises ValueError if an output directory was begun with anything else than what is asked for now."""
    differing = _differences(found, asked, "")
    if differing:
        listing = "\n  ".join(differing[:10]) + (f"\n  and {len(differing) - 10} more" if len(differing) > 10 else "")
        raise ValueError(
            f"{layout.root}: was begun otherwise:\n  {listing}\nuse those settings and inputs, or another --out "
            "directory, or remove this one"
        )


def _differences(found: Any, asked: Any, path: str) -> list[str]:
    if isinstance(found, dict) and isinstance(asked, dict):
        names = list(dict.fromkeys([*found, *asked]))
        return [
            line
            for name in names
            for line in _differences(found.get(name), asked.get(name), f"{path}.{name}" if path else name)
        ]
    if isinstance(found, list) and isinstance(asked, list) and len(found) == len(asked):
        pairs = enumerate(zip(found, asked, strict=True))
        return [line for i, (a, b) in pairs for line in _differences(a, b, f"{path}.{i}")]
    return [] if found == asked else [f"{path} was {_shown(found)}, is {_shown(asked)}"]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
