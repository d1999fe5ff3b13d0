"""Running recipes: what comes out, and that nothing that happens on the way changes it."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jaxllm.data import atomic
from jaxllm.data.engines import make_engine
from jaxllm.data.engines.local import Local
from jaxllm.data.funnel import Level
from jaxllm.data.preparation import files, open_prepared, prepare, run, shard_pass
from jaxllm.data.preparation.tokens import Tokenize, add_tokens
from jaxllm.data.recipe import load_recipe
from jaxllm.data.records import records, texts_of
from jaxllm.data.stages import judged, rewritten
from jaxllm.data.token_store import TokenStore
from jaxllm.tokenizers.config import TokenizerConfig
from tests.data.preparation.small import Deadly, Lines, SameText, Short, Upper, rows, small_recipe, tree, write_texts

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts") / "in"
    write_texts(folder)
    return folder


@pytest.fixture(scope="module")
def whole(texts, tmp_path_factory):
    """The output of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "out"
    prepare(small_recipe(texts), out, Local())
    return out


def lines_of(texts):
    return [
        (f"lines/{p.name}:{i}", line)
        for p in sorted(texts.glob("*.txt"))
        for i, line in enumerate(p.read_text().splitlines())
    ]


def test_what_comes_out_is_what_a_plain_loop_makes(texts, whole):
    kept, dropped, seen = [], [], set()
    for name, line in lines_of(texts):
        if line == "!":
            continue
        if len(line.split()) < 3:
            dropped.append((name, line, "short texts", "fewer than 3 words"))
        elif line in seen:
            dropped.append((name, line, "same", "seen before"))
        else:
            kept.append((name, line.upper()))
        seen.add(line)
    assert [(row["id"], row["text"]) for row in rows(whole / "documents")] == kept
    found = [(row["id"], row["text"], row["stage"], row["reason"]) for row in rows(whole / "dropped")]
    assert sorted(found) == sorted(dropped)
    assert {row["source"] for row in rows(whole / "documents")} == {"lines"}
    assert json.loads(rows(whole / "documents")[0]["metadata"]) == {"line": 0}
    assert not (whole / "work").exists()


def test_the_manifest_counts_what_is_there(texts, whole):
    prepared = open_prepared(whole)
    read, short, same, upper = prepared.levels
    assert [level.stage for level in prepared.levels] == ["read", "short texts", "same", "upper"]
    assert read.documents == short.documents + 3 == 3 * 15 - 1
    assert same.documents == upper.documents == len(rows(whole / "documents"))
    assert upper.counts == {"characters": sum(len(row["text"]) for row in rows(whole / "documents"))}
    assert prepared.problems == [f"{texts}/1.txt, line 14: is broken"]
    assert prepared.problems[0] in (whole / "funnel.md").read_text()
    manifest = json.loads((whole / "manifest.json").read_text())
    written = {name for name in tree(whole) if name.endswith(".parquet")}
    assert set(manifest["files"]) == written
    assert all(about["bytes"] == (whole / name).stat().st_size for name, about in manifest["files"].items())
    assert (whole / "funnel.png").read_bytes().startswith(b"\x89PNG")


def test_tokens_are_stored_and_counted(texts, whole, tmp_path):
    store = TokenStore.open(whole / "tokens")
    written = rows(whole / "documents")
    assert [bytes(store.tokens_of(i).astype("u1")).decode() for i in range(store.documents)] == [
        r["text"] for r in written
    ]
    levels = open_prepared(whole).levels
    # Of a byte tokenizer the tokens are the bytes, whatever the sample was.
    assert [level.tokens for level in levels] == [level.bytes for level in levels]
    assert [level.estimated for level in levels] == [True, True, True, False]
    exact = prepare(small_recipe(texts, token_sample=1), tmp_path / "exact", Local()).levels
    assert [(level.tokens, level.estimated) for level in exact] == [(level.bytes, False) for level in exact]


def test_estimates_are_corrected_by_what_is_known_in_the_end():
    levels = [Level("read", 4, 1000), Level("a", 2, 500)]
    records = [
        {"tokens": 100, "sample": {"read": [100, 50], "a": [20, 10]}},
        {"tokens": 200, "sample": {"a": [20, 10]}},
    ]
    add_tokens(levels, records, 4)
    assert [(level.tokens, level.estimated) for level in levels] == [(600, True), (300, False)]
    levels = [Level("read", 4, 1000), Level("b", 0, 0)]
    add_tokens(levels, [{"tokens": 0, "sample": {"read": [100, 50]}}], 4)
    assert [level.tokens for level in levels] == [500, 0]


def test_estimates_where_no_document_was_drawn():
    levels = [Level("read", 4, 1000), Level("a", 2, 500)]
    add_tokens(levels, [{"tokens": 100, "sample": {}}], 64)
    assert [(level.tokens, level.estimated) for level in levels] == [(200, True), (100, False)]


def test_processes_make_the_same_bytes(texts, whole, tmp_path):
    engine = make_engine("processes", workers=2)
    recipe = small_recipe(texts, Deadly("shard 1 begins here", str(tmp_path / "marks")))
    prepare(recipe, tmp_path / "killed", engine)
    engine.close()
    assert (tmp_path / "marks" / "shard 1 begins here").exists(), "no worker was killed"
    mine, theirs = tree(tmp_path / "killed"), tree(whole)
    for name in theirs:
        if name.startswith(("documents", "dropped", "tokens")):
            assert mine[name] == theirs[name], name


def test_many_batches_in_a_shard_are_as_one(texts, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BATCH_ROWS", 3)
    monkeypatch.setattr(shard_pass, "records", partial(records, rows=3))
    prepare(small_recipe(texts, tokens=False), tmp_path / "out", Local())
    assert pq.read_metadata(tmp_path / "out/documents/00000.parquet").num_row_groups > 1
    for part in ("documents", "dropped"):
        assert rows(tmp_path / "out" / part) == rows(whole / part)


class Interrupted(Exception):
    pass


def test_a_fault_before_any_file_is_in_place_changes_nothing(texts, whole, tmp_path, monkeypatch):
    """Every boundary of every shard: the run is ended before each of its files in turn, and gone on with."""
    monkeypatch.setattr(run, "draw_funnel", lambda path, *_: path.touch())  # takes longer than all else
    real, allowed, tasks, ended = atomic.put_in_place, 0, 0, 0

    def faulty(unfinished, path):
        nonlocal allowed, tasks
        if not allowed:
            raise Interrupted
        allowed -= 1
        real(unfinished, path)
        if path.suffix == ".json" and "work" in path.parts:
            tasks, allowed = tasks + 1, 0  # and the next task is ended before its first file

    monkeypatch.setattr(atomic, "put_in_place", faulty)
    out, files_of_task = tmp_path / "out", 0
    while True:
        before, allowed = tasks, files_of_task
        try:
            prepare(small_recipe(texts), out, Local())
            break
        except Interrupted:
            ended += 1
            files_of_task = files_of_task + 1 if tasks == before else 0
            assert not [path for path in out.rglob(".*") if path.is_file()], "something is left by half"
    assert ended > 50
    mine, theirs = tree(out), tree(whole)
    assert mine.pop("funnel.png") == b"" and theirs.pop("funnel.png")
    assert mine == theirs


def test_killed_at_every_shard_a_run_goes_on_to_the_same_bytes(texts, tmp_path):
    """With a real SIGKILL, of the whole program, and its own command line."""
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE.format(texts=str(texts), marks=str(tmp_path / "marks")))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}

    def prepared(out):
        words = [sys.executable, "-m", "jaxllm", "data", "prepare", str(recipe), "--out", str(out)]
        return subprocess.run(words, env=environment, cwd=REPOSITORY, capture_output=True, text=True)

    killed = [prepared(tmp_path / "killed") for _ in range(3)]
    assert [run.returncode for run in killed] == [-9, -9, -9]
    assert {mark.name for mark in (tmp_path / "marks").iterdir()} == {f"shard {n} begins here" for n in range(3)}
    last = prepared(tmp_path / "killed")
    assert last.returncode == 0, last.stderr
    prepare(load_recipe(recipe), tmp_path / "whole", Local())
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


RECIPE = """
from pathlib import Path
from jaxllm.tokenizers.config import TokenizerConfig
from tests.data.preparation.small import Deadly, small_recipe

def recipe():
    deaths = [Deadly(f"shard {{n}} begins here", {marks!r}, name=f"deadly {{n}}") for n in range(3)]
    return small_recipe(Path({texts!r}), *deaths, tokens=False)
"""


@dataclass(frozen=True)
class Twice(SameText):
    """Compares in two rounds, the second of which decides."""

    def resolve(self, matches):
        return SameText(self.name, f"seen before, {len(matches)} in the first round")


@dataclass(frozen=True)
class Marking(SameText):
    """Changes the documents that it finds, instead of dropping them."""

    def resolve(self, matches):
        return Marked(tuple(matches["id"].to_pylist()))


@dataclass(frozen=True)
class Marked:
    found: tuple[str, ...]
    name: str = "same"

    def __call__(self, batch):
        pairs = zip(batch.column("id").to_pylist(), texts_of(batch), strict=True)
        return rewritten(
            batch, self.name, ["" if "every file" in t else f"{t}?" if i in self.found else t for i, t in pairs]
        )


def test_a_comparison_may_take_another_round(texts, whole, tmp_path):
    found = prepare(
        replace(small_recipe(texts, tokens=False), stages=(Short(), Twice(), Upper())), tmp_path / "o", Local()
    )
    gone = len(rows(whole / "dropped" / "same"))
    assert list(found.levels[2].reasons) == [f"seen before, {gone} in the first round"]
    assert (tmp_path / "o/documents/00002.parquet").read_bytes() == (whole / "documents/00002.parquet").read_bytes()


def test_a_comparison_may_change_documents(texts, whole, tmp_path):
    recipe = replace(small_recipe(texts, tokens=False), stages=(Short(), Marking(), Upper()))
    prepare(recipe, tmp_path / "out", Local())
    marked = [row["id"] for row in rows(tmp_path / "out/documents") if row["text"].endswith("?")]
    emptied = [row["id"] for row in rows(tmp_path / "out/dropped/same")]
    same = [row["id"] for row in rows(whole / "dropped/same")]
    assert set(emptied) == {f"lines/{n}.txt:14" for n in (0, 2)}
    assert sorted(marked) == sorted(set(same) - set(emptied))


def test_documents_of_one_id_are_told_apart(tmp_path):
    """The second of two documents with the same id is dropped as the duplicate of another; the first stays."""
    write_texts(tmp_path / "in", 1)
    source = small_recipe(tmp_path / "in").sources[0]
    recipe = small_recipe(tmp_path / "in", sources=(OneName(source.folder),), tokens=False)
    levels = prepare(recipe, tmp_path / "out", Local()).levels
    assert levels[0].counts == {"documents with the id of an earlier one": 14}
    assert len(rows(tmp_path / "out/documents")) == levels[-1].documents > 4


@dataclass(frozen=True)
class OneName:
    folder: str
    name: str = "lines"

    def shards(self):

        return [Renamed(part) for part in Lines(self.folder).shards()]


@dataclass(frozen=True)
class Renamed:
    part: object

    name = property(lambda self: self.part.name)
    num_bytes = property(lambda self: self.part.num_bytes)
    version = property(lambda self: self.part.version)

    def read(self, report):
        return (replace(document, name="x") for document in self.part.read(report))


def test_every_deduplication_takes_shards_that_are_empty(tmp_path):
    from jaxllm.data.dedup import ExactDocuments, ExactParagraphs, MinHash, RepeatedSubstrings, SimHash

    write_texts(tmp_path / "in")
    (tmp_path / "in/3.txt").touch()
    every = (ExactDocuments(), MinHash(), SimHash(), ExactParagraphs(), RepeatedSubstrings())
    levels = prepare(small_recipe(tmp_path / "in", stages=every), tmp_path / "out", Local()).levels
    assert [level.documents + level.dropped for level in levels[1:]] == [level.documents for level in levels[:-1]]
    assert rows(tmp_path / "out/documents")[0]["id"] == "lines/0.txt:0"
    assert pq.read_metadata(tmp_path / "out/documents/00003.parquet").num_rows == 0
    prepare(small_recipe(tmp_path / "in", stages=every[::-1]), tmp_path / "other way round", Local())


# Bad input


def test_another_recipe_or_other_inputs_are_refused(texts, whole, tmp_path):
    with pytest.raises(ValueError, match=r"was begun otherwise:\n  recipe.stages.0 was .*words=3.* is .*words=4"):
        prepare(replace(small_recipe(texts), stages=(Short(4), SameText(), Upper())), whole, Local())
    write_texts(tmp_path / "in", 1)
    recipe = small_recipe(tmp_path / "in", tokens=False)
    prepare(recipe, tmp_path / "out", Local())
    before = tree(tmp_path / "out")
    (tmp_path / "in/0.txt").write_text("something else that is there")
    with pytest.raises(ValueError, match=r"shards.00000.parts.0.1 was \d+, is 28"):
        prepare(recipe, tmp_path / "out", Local())
    assert tree(tmp_path / "out") == before


def test_a_tokenizer_that_can_not_be_trained_costs_nothing_else(texts, whole, tmp_path):
    greedy = small_recipe(texts, tokenizer=TokenizerConfig(vocab_size=30_000))
    with pytest.raises(ValueError, match="tokenizer.vocab_size can be at most"):
        prepare(greedy, tmp_path / "out", Local())

    class NoPasses(Local):
        def run(self, tasks):
            assert all(isinstance(task, Tokenize) for task in tasks)
            return super().run(tasks)

    class Ended(NoPasses):
        def run(self, tasks):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(small_recipe(texts), tmp_path / "out", Ended())
    with pytest.raises(ValueError, match="recipe.tokenizer.kind was"):
        prepare(greedy, tmp_path / "out", Local())  # the other tokenizer is there by now
    prepare(small_recipe(texts), tmp_path / "out", NoPasses())
    assert tree(tmp_path / "out") == tree(whole)


def test_a_model_that_was_trained_again_is_another_input(texts, tmp_path):
    model = tmp_path / "model.npz"
    model.write_bytes(b"one")
    recipe = small_recipe(texts, Upper(name=str(model)), tokens=False)
    prepare(recipe, tmp_path / "out", Local())
    prepare(recipe, tmp_path / "out", Local())
    model.write_bytes(b"two")
    with pytest.raises(ValueError, match=r"model.npz was .*, is "):
        prepare(recipe, tmp_path / "out", Local())


def test_a_finished_run_is_not_done_again(texts, whole):
    class Refusing(Local):
        def run(self, tasks):
            raise AssertionError("there is nothing to do")

    assert prepare(small_recipe(texts), whole, Refusing()) == open_prepared(whole)


def test_a_folder_of_others_and_a_second_run_are_refused(texts, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match=r"holds mine.txt, which no run made"):
        prepare(small_recipe(texts), tmp_path, Local())

    class Nested(Local):
        def run(self, tasks):
            prepare(small_recipe(texts), tmp_path / "out", Local())

    with pytest.raises(ValueError, match="another process is writing to"):
        prepare(small_recipe(texts), tmp_path / "out", Nested())
    with pytest.raises(ValueError, match="the run was not finished; run the recipe again"):
        open_prepared(tmp_path / "out")


def test_a_stage_that_loses_documents_is_named(texts, tmp_path):
    @dataclass(frozen=True)
    class Lossy:
        name: str = "lossy"

        def __call__(self, batch):
            outcome = judged(batch, self.name, [None] * len(batch))
            return replace(outcome, kept=outcome.kept.slice(1))

    with pytest.raises(ValueError, match="stage lossy: 14 documents went in, 13 came out"):
        prepare(small_recipe(texts, Lossy()), tmp_path / "out", Local())
    assert not list((tmp_path / "out").rglob("*.parquet*"))


def test_a_full_disk_is_reported_and_then_gone_on_with(texts, whole, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(ValueError, match="can't be written: File too large; nothing is there by half"):
            prepare(small_recipe(texts), tmp_path / "out", Local())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "out" / "documents").glob(".*"))
    prepare(small_recipe(texts), tmp_path / "out", Local())
    assert tree(tmp_path / "out") == tree(whole)


def test_problems_end_the_run_where_a_recipe_says_so(texts, tmp_path):
    @dataclass(frozen=True)
    class Strict:
        name: str = "strict"

        def shards(self):
            return [Broken()]

    with pytest.raises(ValueError, match="b.gz, offset 7: is broken"):
        prepare(small_recipe(texts, sources=(Strict(),), on_problem="stop"), tmp_path / "out", Local())


@dataclass(frozen=True)
class Broken:
    name: str = "b"
    num_bytes: int = 1
    version: str = ""

    def read(self, report):
        from jaxllm.data.sources import Problem

        report(Problem("b.gz", "offset 7", "is broken"))
        return iter(())


def test_where_nothing_is_left_there_is_still_a_report(texts, tmp_path):
    recipe = small_recipe(texts, sources=(small_recipe(texts).sources[0],), stages=(Short(1000),))
    levels = prepare(recipe, tmp_path / "out", Local()).levels
    assert (levels[-1].documents, levels[-1].dropped, levels[-1].tokens) == (0, 44, None)
    assert not (tmp_path / "out/tokens").exists()
    assert len(rows(tmp_path / "out/documents")) == 0
