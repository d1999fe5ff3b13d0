"""`jaxllm data`: running recipes and looking at what they dropped."""

import json

import pyarrow.parquet as pq
import pytest

from jaxllm.cli.main import main
from tests.data.preparation.small import rows, write_texts

RECIPE = """
from pathlib import Path
from tests.data.preparation.small import small_recipe

def recipe():
    return small_recipe(Path({texts!r}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    write_texts(folder / "in")
    (folder / "small.py").write_text(RECIPE.format(texts=str(folder / "in")))
    assert main(["data", "prepare", str(folder / "small.py"), "--out", str(folder / "out")]) == 0
    return folder


def said(capsys, *words):
    assert main(["data", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_prepare_prints_the_funnel_and_goes_on(folder, capsys):
    page = said(capsys, "prepare", folder / "small.py", "--out", folder / "out")
    assert "stage        documents" in page and "short texts         41" in page
    assert "processor seconds" in page and f"jaxllm data inspect {folder}/out" in page
    changed = said(capsys, "prepare", folder / "small.py", "--out", folder / "two", "--stages.short_texts.words=1")
    assert "short texts         44" in changed
    assert main(["data", "prepare", str(folder / "small.py"), "--out", str(folder / "out"), "--partitions=5"]) == 2
    assert "recipe.partitions was 2, is 5" in capsys.readouterr().err


def test_inspect_a_prepared_directory(folder, capsys):
    page = said(capsys, "inspect", folder / "out", "--examples", 1)
    assert "  3  fewer than 3 words\n      lines/" in page and "(7 characters)\n        one two" in page
    assert "in.txt" not in page and "could not be read:" in page
    gone = len(rows(folder / "out/dropped/same"))
    assert f"  {gone}  seen before" in page
    only = said(capsys, "inspect", folder / "out", "--stage", "same", "--reason", "before", "--examples", 0)
    assert f"same\n  {gone}  seen before\n" in only and "fewer" not in only
    assert "nothing was dropped for a reason with 'xyz' in it" in said(
        capsys, "inspect", folder / "out", "--reason", "xyz"
    )
    kept = said(capsys, "inspect", folder / "out", "--kept", "--examples", 2)
    assert f"{len(rows(folder / 'out/documents'))} documents" in kept and kept.count("characters)") == 2
    assert main(["data", "inspect", str(folder / "out"), "--stage", "upper"]) == 2
    assert "no stage 'upper' dropped anything; these did: same, short texts" in capsys.readouterr().err


def test_more_examples_include_the_fewer(folder, capsys):
    def shown(count):
        page = said(capsys, "inspect", folder / "out", "--stage", "short texts", "--examples", count)
        return {line for line in page.splitlines() if "characters)" in line}

    assert len(shown(1)) == 1 and shown(1) < shown(3)


def test_inspect_files(folder, capsys, tmp_path):
    dropped = next((folder / "out/dropped/same").iterdir())
    assert f"  {pq.read_metadata(dropped).num_rows}  seen before" in said(capsys, "inspect", dropped)
    kept = folder / "out/documents/00000.parquet"
    assert f"{pq.read_metadata(kept).num_rows} documents" in said(capsys, "inspect", kept)
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps({"text": "x" * n}) + "\n" for n in range(1, 12)))
    page = said(capsys, "inspect", lines, "--examples", 1)
    assert "11 documents, 66 bytes" in page and "0%: 1, 10%: 2, 50%: 6, 90%: 10, 99%: 11, 100%: 11" in page
    assert main(["data", "inspect", str(tmp_path / "none")]) == 2


def test_inspect_an_unfinished_run(folder, capsys, tmp_path):
    (tmp_path / "work").mkdir()
    assert main(["data", "inspect", str(tmp_path)]) == 2
    assert "the run was not finished; run the recipe again to go on" in capsys.readouterr().err


def test_dedup(folder, capsys, tmp_path):
    page = said(capsys, "dedup", folder / "in", "--method", "exact", "--out", tmp_path / "out", "--partitions=2")
    assert "exact documents" in page and len(rows(tmp_path / "out/documents")) == 3
    assert main(["data", "dedup", str(folder / "in"), "--method", "minhsh"]) == 2
    assert "unknown method 'minhsh'; did you mean minhash" in capsys.readouterr().err


def test_decontaminate(folder, capsys, tmp_path):
    (tmp_path / "mine.txt").write_text(
        "Before. The quick brown fox jumps over the lazy dog and runs far away into woods."
    )
    (tmp_path / "clean.txt").write_text("Nothing of the kind is said in here, as far as anyone can tell.")
    item = "the quick brown fox jumps over the lazy dog and runs far away"
    (tmp_path / "exam.jsonl").write_text(json.dumps({"question": item}) + "\n")
    words = ["--against", tmp_path / "exam.jsonl", "--out", tmp_path / "out"]
    page = said(capsys, "decontaminate", tmp_path / "*.txt", *words)
    assert "decontamination" in page
    assert [row["id"].split("/")[1] for row in rows(tmp_path / "out/dropped")] == ["mine.txt"]
