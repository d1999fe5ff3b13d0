"""Running a recipe: tasks for an engine, phase after phase, each task done once however often the run is ended."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jaxllm.data.atomic import alone, new_file
from jaxllm.data.engines import Engine
from jaxllm.data.funnel import Level, draw_funnel, funnel_markdown, merged
from jaxllm.data.preparation.comparison import Keys, Match, Resolve, Round
from jaxllm.data.preparation.files import read_json, write_json
from jaxllm.data.preparation.layout import Layout
from jaxllm.data.preparation.plan import describe, make_shards, refuse_other
from jaxllm.data.preparation.shard_pass import Settings, Shard, ShardPass
from jaxllm.data.preparation.tokens import Tokenize, add_tokens, find_tokenizer
from jaxllm.data.recipe import Recipe
from jaxllm.data.token_store import join_shards

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Watcher(Protocol):
    """Is told how far a run is."""

    def __call__(self, phase: str, done: int, total: int, record: dict[str, Any] | None) -> None:
        """`done` of the `total` tasks of a phase are done; the record is that of the last one, None at the start."""
        ...


@dataclass(frozen=True)
class Prepared:
    """A finished output directory."""

    directory: Path
    levels: list[Level]
    problems: list[str]
    timings: dict[str, Any]


def prepare(recipe: Recipe, out: str | Path, engine: Engine, watch: Watcher = lambda *_: None) -> Prepared:
    """Runs a recipe into the directory `out`, or goes on where an earlier run of it was ended.

    The result does not depend on the engine, nor on how often the run was ended: only timings.json does. Raises
    ValueError if `out` was begun with another recipe or other inputs, if another process is at work there, and what
    sources and stages raise; what was finished by then stays, and is not done again.
    """
    layout = Layout(str(out))
    layout.root.mkdir(parents=True, exist_ok=True)
    with alone(layout.root):
        shards = make_shards(recipe)
        asked = describe(recipe, shards)
        made = read_json(layout.manifest())
        if made is None:
            _begin(layout, asked)
            try:
                _run(recipe, layout, shards, asked, _Phases(layout, engine, watch))
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                raise ValueError(
                    f"{error.filename or layout.root}: can't be written: {error.strerror}; nothing is there by half, "
                    "so make room and run again to go on"
                ) from error
        else:
            refuse_other(layout, made["made_from"], asked)
        shutil.rmtree(layout.work, ignore_errors=True)
    return open_prepared(out)


def open_prepared(out: str | Path) -> Prepared:
    """What an earlier run made. Raises ValueError if there is nothing, or it is not finished."""
    layout = Layout(str(out))
    manifest = read_json(layout.manifest())
    if manifest is None:
        unfinished = (
            "the run was not finished; run the recipe again to go on" if layout.work.exists() else "it is not there"
        )
        raise ValueError(f"{layout.root}: holds no prepared documents: {unfinished}")
    levels = [Level.from_json(level) for level in manifest["levels"]]
    return Prepared(layout.root, levels, manifest["problems"], read_json(layout.root / "timings.json") or {})


def _begin(layout: Layout, asked: dict[str, Any]) -> None:
    path = layout.work / "begun.json"
    found = begun = read_json(path)
    if found is not None:
        if not (layout.root / "tokenizer").exists() and not (layout.root / "tokens").exists():
            # Nothing depends on them yet, so a vocabulary that the text is too small for need not cost the whole run.
            now = {name: asked["recipe"][name] for name in ("tokenizer", "tokenizer_bytes")}
            begun = {**found, "recipe": {**found["recipe"], **now}}
        refuse_other(layout, begun, asked)
        if begun != found:  # from here on there may be tokens, which are of these settings
            write_json(path, asked)
        return
    if strays := sorted({path.name for path in layout.root.iterdir()} - {"work"}):
        raise ValueError(f"{layout.root}: holds {strays[0]}, which no run made; name another --out directory")
    write_json(path, asked)


@dataclass
class _Phases:
    """Hands tasks to the engine, those left out that an earlier run finished."""

    layout: Layout
    engine: Engine
    watch: Watcher

    def run(self, phase: str, tasks: Sequence[Any]) -> list[dict[str, Any]]:
        """The records of all tasks, in the tasks' order."""
        records = [self.layout.finished(task.record) for task in tasks]
        waiting = [task for task, record in zip(tasks, records, strict=True) if record is None]
        done = len(tasks) - len(waiting)
        self.watch(phase, done, len(tasks), None)
        for record in self.engine.run(waiting) if waiting else ():
            done += 1
            self.watch(phase, done, len(tasks), record)
        return [self.layout.finished(task.record) for task in tasks]


def _run(recipe: Recipe, layout: Layout, shards: list[Shard], asked: dict[str, Any], phases: _Phases) -> None:
    settings = Settings.of(recipe)
    names = tuple(shard.name for shard in shards)
    passes, others = [], []
    for number in range(len(settings.comparisons) + 1):
        if number:
            others += _compare(Round(layout, settings, number - 1), names, phases)
        stages = ", ".join(stage.name for stage in settings.segments()[number]) or "documents"
        passes.append(phases.run(stages, [ShardPass(layout, settings, number, shard) for shard in shards]))
    levels = [
        level
        for records in passes
        for level in merged(([Level.from_json(v) for v in r["levels"]] for r in records), recipe.examples)
    ]
    files = {name: about for records in passes for record in records for name, about in record["files"].items()}
    if recipe.tokens and levels[-1].documents:
        others += _tokenize(recipe, layout, names, levels, len(passes), phases)
    problems = [problem for record in passes[0] for problem in record["problems"]]
    everything = [*others, *(record for records in passes for record in records)]
    _report(recipe, layout, levels, problems, everything)
    kept = {name: about for name, about in sorted(files.items()) if not name.startswith("work/")}
    values = {"made_from": asked, "levels": [level.to_json() for level in levels], "problems": problems, "files": kept}
    write_json(layout.manifest(), values)


def _compare(round: Round, shards: tuple[str, ...], phases: _Phases) -> list[dict[str, Any]]:
    """All rounds of one comparison; returns the records."""
    records = phases.run(f"{round.name}: keys", [Keys(round, shard) for shard in shards])
    partitions = range(round.settings.partitions)
    records += phases.run(f"{round.name}: matches", [Match(round, partition, shards) for partition in partitions])
    [resolved] = phases.run(f"{round.name}: decision", [Resolve(round, len(shards))])
    if resolved["again"]:
        records += _compare(Round(round.layout, round.settings, round.number, round.again + 1), shards, phases)
    return [*records, resolved]


def _tokenize(
    recipe: Recipe, layout: Layout, shards: tuple[str, ...], levels: list[Level], passes: int, phases: _Phases
) -> list[dict[str, Any]]:
    """Writes the token store, and says in the levels how many tokens there were; returns the records."""
    phases.watch("tokenizer", 0, 1, None)
    path, tokenizer = find_tokenizer(layout, recipe, shards)
    fingerprint = tokenizer.fingerprint()
    records = phases.run("tokens", [Tokenize(layout, path, fingerprint, shard, passes) for shard in shards])
    join_shards(layout.root / "tokens", shards, source=recipe.name)
    add_tokens(levels, records, recipe.token_sample)
    return records


def _report(
    recipe: Recipe, layout: Layout, levels: list[Level], problems: list[str], records: list[dict[str, Any]]
) -> None:
    with new_file(layout.root / "funnel.md") as file:
        file.write(funnel_markdown(recipe.name, levels, problems).encode())
    draw_funnel(layout.root / "funnel.png", recipe.name, levels)
    seconds: dict[str, float] = {}
    exchanged: dict[str, int] = {}
    for record in records:
        for name, number in record["seconds"].items():
            seconds[name] = seconds.get(name, 0.0) + number
            exchanged[name] = exchanged.get(name, 0) + record.get("exchanged", 0)
    write_json(layout.root / "timings.json", {"seconds": seconds, "exchanged_bytes": exchanged})
