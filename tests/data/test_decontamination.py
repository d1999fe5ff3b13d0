import gzip
import json
import os
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxllm.data import decontamination as module
from jaxllm.data.decontamination import Decontamination, summary
from jaxllm.data.dedup import words as words_module
from jaxllm.data.evaluation_sets import EvaluationSet, EvaluationSetError, evaluation_texts
from tests.data.dedup.small_engine import batch_of

SHARED = Path(os.environ.get("JAXLLM_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")
EVALS = SHARED / "evals"

QUESTION = (
    "A train leaves the station at noon and travels forty miles every hour; how far from the station is it when the "
    "sun sets at eight o'clock in the evening, if it never stops?"
)


def noise(chance: random.Random, words: int) -> str:
    return " ".join(f"n{chance.randrange(10_000)}" for _ in range(words))


@pytest.fixture
def sets(tmp_path):
    rows = [{"question": QUESTION, "answer": "320"}, {"question": "Eight short words are all that this has."}]
    (tmp_path / "small.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return (EvaluationSet("small", str(tmp_path / "small.jsonl")),)


def rows_of(stage, texts):
    return stage.hits(batch_of(texts)).to_pylist()


def test_a_run_of_thirteen_words_is_a_hit_and_twelve_are_none(sets):
    stage, chance = Decontamination(sets, similarity=0), random.Random(0)
    words = QUESTION.split()
    before, after = noise(chance, 50), noise(chance, 50)
    (hit,) = rows_of(stage, [f"{before} {' '.join(words[3:16]).upper().replace(' ', ' — ')} {after}"])
    assert (hit["benchmark"], hit["item"], hit["kind"]) == ("small", "small.jsonl:1 question", "13-gram")
    assert hit["found"].split(" — ") == [word.upper() for word in words[3:16]]
    assert hit["start"] == len(before) + 1 and hit["before"] == f"{before} "[-80:] and hit["after"] == f" {after}"[:80]
    assert rows_of(stage, [f"{before} {' '.join(words[3:15])} {after}"]) == []
    # A longer run is one hit; and runs do not reach from one document into the next.
    (whole,) = rows_of(stage, [f"é {QUESTION} {after}"])
    assert whole["found"] == QUESTION.rstrip("?")
    assert rows_of(stage, [" ".join(words[:7]), " ".join(words[7:15])]) == []


def test_short_items_are_looked_for_as_a_whole(sets):
    stage = Decontamination(sets)
    (hit,) = rows_of(stage, ["He said: eight short words are, all that this has!"])
    assert (hit["kind"], hit["item"]) == ("8-gram", "small.jsonl:2 question")
    assert rows_of(stage, ["short words are all that this has", "the answer is 320"]) == []


@pytest.mark.parametrize("every", [5, 8])
def test_an_item_with_words_changed_is_found_by_its_window(sets, every):
    chance = random.Random(1)
    words = QUESTION.split()
    changed = " ".join("other" if row % every == 0 else word for row, word in enumerate(words))
    text = f"{noise(chance, 300)} {changed} {noise(chance, 300)}"
    assert rows_of(Decontamination(sets, similarity=0), [text]) == []
    (hit,) = rows_of(Decontamination(sets, similarity=0.2), [text])
    ours, theirs = (set(zip(one, one[1:], one[2:], strict=False)) for one in (_bare(words), _bare(changed.split())))
    assert hit["kind"] == "window"
    assert hit["similarity"] == pytest.approx(len(ours & theirs) / len(ours | theirs))
    assert hit["found"] == changed.rstrip("?")


def test_a_window_stays_within_its_document(sets):
    stage, words = Decontamination(sets, words=20), QUESTION.rstrip("?").split()
    tail, head = " ".join(words[4:18]), " ".join(words[9:21])
    hits = rows_of(Decontamination(sets, words=13, similarity=0.3), ["one more word", tail, head, "and another"])
    windows = [hit for hit in hits if hit["kind"] == "window"]
    assert [(hit["id"], hit["found"]) for hit in windows] == [("d000001", tail), ("d000002", head)]
    assert stage.hits(batch_of([tail])).num_rows == 0


def _bare(words):
    return [part for word in words for part in word.replace("'", " ").strip("?,;").split()]


def test_dropping_and_counting(sets):
    stage = Decontamination(sets)
    outcome = stage(batch_of(["all is well here", QUESTION, f"{QUESTION} {QUESTION}"]))
    assert outcome.kept["id"].to_pylist() == ["d000000"]
    assert outcome.dropped["reason"].to_pylist() == ["overlaps small"] * 2
    assert outcome.counts == {"documents with small": 2}


def test_cutting_takes_the_text_around_and_makes_documents_of_the_pieces(sets):
    stage, chance = Decontamination(sets, action="cut", around=50), random.Random(2)
    first, second = noise(chance, 100), noise(chance, 100)
    texts = [
        f"{first}é {QUESTION} é{second}",
        f"{first} {QUESTION} end",
        QUESTION,
        "clean",
        f"{first} {QUESTION} " * 12,
    ]
    outcome = stage(batch_of(texts))
    assert outcome.kept["id"].to_pylist() == ["d000000#1", "d000000#2", "d000001", "d000003"]
    bare = QUESTION.rstrip("?")
    left, right = texts[0].split(bare)
    assert outcome.kept["text"].to_pylist() == [left[:-50], right[50:], f"{first} "[:-50], "clean"]
    assert outcome.dropped["id"].to_pylist() == ["d000002", "d000004"]
    assert set(outcome.dropped["reason"].to_pylist()) == {"little left between hits"}


def test_a_huge_document_in_parts_is_no_different(sets, monkeypatch):
    stage, chance = Decontamination(sets), random.Random(3)
    texts = [f"{noise(chance, 200)} é {QUESTION} {noise(chance, 200)} {QUESTION.replace('noon', 'one')}", QUESTION]
    expected = rows_of(stage, texts)
    assert {row["id"] for row in expected} == {"d000000", "d000001"} and len(expected) > 3
    monkeypatch.setattr(module, "_OVERLAP", 400)
    monkeypatch.setattr(module, "slices", lambda *a: words_module.slices(*a, num_bytes=50))
    for size in range(600, 900, 30):
        monkeypatch.setattr(words_module, "MOST_BYTES", size)
        assert rows_of(stage, texts) == expected


def test_the_summary_names_benchmark_item_and_text(sets):
    report = summary(Decontamination(sets).hits(batch_of([f"before it {QUESTION} after"])))
    assert "| small | 1 | 1 | 2 |" in report
    assert "- small, small.jsonl:1 question in d000000 (13-gram, similarity 1.00):" in report
    assert "> before it **A train leaves" in report


def test_every_kind_of_file_is_read(tmp_path):
    rows = [{"q": {"stem": "one two"}, "choices": [{"text": "three"}, {"text": "four"}], "n": 5}]
    (tmp_path / "a.jsonl.gz").parent.mkdir(exist_ok=True)
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write("\n" + json.dumps(rows[0]) + "\n")
    (tmp_path / "b.csv").write_text('Question,Answer\n"a ""b"", c",d\n')
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.txt").write_text("line one\nline two\n")
    pq.write_table(pa.table({"q": ["x", "y"], "tags": [["z"], []]}), tmp_path / "d.parquet")
    found = [(one.item, one.text.strip()) for one in evaluation_texts(EvaluationSet("all", str(tmp_path)))]
    assert found == [
        ("a.jsonl.gz:2 q.stem", "one two"),
        ("a.jsonl.gz:2 choices.text", "three"),
        ("a.jsonl.gz:2 choices.text", "four"),
        ("b.csv:1 Question", "Question"),
        ("b.csv:1 Answer", "Answer"),
        ("b.csv:2 Question", 'a "b", c'),
        ("b.csv:2 Answer", "d"),
        ("d.parquet:1 q", "x"),
        ("d.parquet:1 tags", "z"),
        ("d.parquet:2 q", "y"),
        ("sub/c.txt:1", "line one"),
        ("sub/c.txt:2", "line two"),
    ]
    chosen = evaluation_texts(EvaluationSet("all", str(tmp_path), fields=("q",)))
    assert [one.text for one in chosen] == ["one two", "x", "y"]


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("a.jsonl", b'{"q": "x"}\n{"q"\n', r"a.jsonl, line 2: is not valid JSON"),
        ("a.jsonl.gz", gzip.compress(b'{"q": "x"}\n' * 999)[:-12], "a.jsonl.gz: can't be read"),
        ("a.txt", b"\xff\xfe", "a.txt: can't be read: 'utf-8' codec"),
        ("a.parquet", b"PAR1", "a.parquet: is not a readable Parquet file"),
        ("a.jsonl", b'{"n": 3}\n', "the evaluation set 'set' has no text"),
        ("a.pdf", b"", "a.pdf: is of no supported kind"),
    ],
)
def test_bad_sets_are_refused(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EvaluationSetError, match=complaint):
        list(evaluation_texts(EvaluationSet("set", str(tmp_path / name))))
    with pytest.raises(EvaluationSetError, match="no file of the kinds"):
        list(evaluation_texts(EvaluationSet("set", str(tmp_path / "none"))))


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"sets": ()}, "nothing to look for"),
        ({"shortest": 14}, r"between 1 and words \(13\), got 14"),
        ({"similarity": 2}, "between 0 and 1, got 2"),
        ({"action": "hide"}, "'drop' or 'cut', got 'hide'"),
        ({"around": -1}, "around must not be negative"),
    ],
)
def test_wrong_settings_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        Decontamination(**{"sets": (EvaluationSet("a", "b"),), **settings})


@pytest.mark.skipif(not EVALS.is_dir(), reason=f"{EVALS} is not there; JAXLLM_SHARED_DATA can name another folder")
def test_planted_items_of_real_sets_are_found_and_clean_text_is_left_alone():
    sets = (
        EvaluationSet("gsm8k", str(EVALS / "gsm8k" / "test.jsonl"), ("question",)),
        EvaluationSet("arc", str(EVALS / "ARC-Challenge-Test.jsonl"), ("question",)),
        EvaluationSet("humaneval", str(EVALS / "HumanEval.jsonl.gz"), ("prompt",)),
    )
    stage, chance = Decontamination(sets), random.Random(4)
    texts = [one for chosen in sets for one in evaluation_texts(chosen) if len(one.text.split()) >= 20]
    planted = chance.sample(texts, 150)
    filler = (SHARED / "corpora" / "wiki_demo.txt").read_text(encoding="utf-8")
    clean = [filler[at : at + 3000] for at in range(0, 600_000, 3000)]
    exact = [f"{clean[row]}\n{one.text}\n{clean[row + 1]}" for row, one in enumerate(planted[:75])]
    other = [f"{clean[row]}\n{paraphrased(one.text, chance)}\n{clean[row + 1]}" for row, one in enumerate(planted[75:])]
    found = stage.hits(batch_of([*exact, *other, *clean]))
    hit = {(row["id"], row["item"]) for row in found.to_pylist()}
    names = [f"d{row:06d}" for row in range(150)]
    assert np.mean([(name, one.item) in hit for name, one in zip(names[:75], planted, strict=False)]) == 1
    assert np.mean([(name, one.item) in hit for name, one in zip(names[75:], planted[75:], strict=True)]) > 0.9
    assert {name for name, _ in hit} <= set(names)


def paraphrased(text: str, chance: random.Random) -> str:
    """Every tenth word is another, dropped or doubled, so that few runs of 13 words are left."""
    words = text.split(" ")
    for at in range(len(words) - 1 - chance.randrange(5), 0, -10):
        words[at : at + 1] = chance.choice([["thing"], [], [words[at], "rather"]])
    return " ".join(words)
