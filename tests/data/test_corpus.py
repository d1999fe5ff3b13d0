import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxllm.data import corpus as corpus_file
from jaxllm.data.config import DataConfig
from jaxllm.data.corpus import SplitDocuments, open_corpus, prepare_corpus, report_corpus
from jaxllm.data.documents import Document, DocumentError
from jaxllm.data.split import split_of
from jaxllm.data.token_store import TokenStoreError


def many(count=60) -> list[Document]:
    return [Document(f"doc{i}", f"text of document {i} " * (1 + i % 7)) for i in range(count)]


def text_in(store) -> list[str]:
    return [bytes(store.tokens_of(i).tolist()).decode() for i in range(store.documents)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "text").mkdir()
    for document in many():
        (tmp_path / "text" / f"{document.name}.txt").write_text(document.text)
    return tmp_path / "text"


@pytest.fixture
def config(folder):
    return DataConfig(path=str(folder), validation_fraction=0.2)


# Splitting


def test_whole_documents_are_split_by_name_and_none_is_lost(config):
    documents = SplitDocuments(config)
    assert documents.method == "name"
    parts = list(documents)
    assert sorted(document.text for _, document in parts) == sorted(document.text for document in many())
    assert all(part == split_of(document.name, 0.2) for part, document in parts)
    assert {part for part, _ in parts} == {"train", "validation"}


def test_going_through_again_gives_the_same(config):
    documents = SplitDocuments(config)
    assert list(documents) == list(documents)
    assert list(documents.texts("train")) == [document.text for part, document in documents if part == "train"]
    assert list(documents.texts("validation")) == [
        document.text for part, document in documents if part == "validation"
    ]


def test_a_document_keeps_its_part_when_others_come_and_go(config, folder):
    before = {document.name: part for part, document in SplitDocuments(config)}
    (folder / "doc7.txt").unlink()
    (folder / "another.txt").write_text("new")
    after = {document.name: part for part, document in SplitDocuments(config)}
    assert {name: part for name, part in after.items() if name in before} == {
        name: part for name, part in before.items() if name in after
    }


@pytest.mark.parametrize(("fraction", "share"), [(0.1, 0.9), (0.05, 0.95)])
def test_the_tail_of_one_text_is_cut_where_nanogpt_cuts(fraction, share):
    text = "".join(chr(97 + i % 26) for i in range(111_539)) + "é🙂"
    documents = SplitDocuments(DataConfig(validation_fraction=fraction), [Document("a", text)])
    assert documents.method == "tail"
    assert list(documents) == [
        ("train", Document("a", text[: int(share * len(text))])),
        ("validation", Document("a", text[int(share * len(text)) :])),
    ]


def test_tiny_shakespeare_is_split_as_nanogpt_splits_it(tokenizer, tmp_path):
    shared = Path(os.environ.get("JAXLLM_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    path = shared / "corpora" / "tinyshakespeare.txt"
    if not path.exists():
        pytest.skip(f"needs {path}; set JAXLLM_SHARED_DATA to the folder that holds corpora/")
    config = DataConfig(path=str(path), validation_fraction=0.1)
    corpus = prepare_corpus(SplitDocuments(config), tokenizer, tmp_path / "corpus")
    # The numbers that nanoGPT's data/shakespeare_char prints.
    assert (corpus.train.num_tokens, corpus.validation.num_tokens) == (1_003_854, 111_540)


def test_tail_of_many_documents_where_asked_for():
    documents = SplitDocuments(DataConfig(split="tail", validation_fraction=0.5), [*many(30), Document("tiny", "x")])
    parts = list(documents)
    for document in many(30):
        assert "".join(d.text for _, d in parts if d.name == document.name) == document.text
    assert [(part, d.text) for part, d in parts if d.name == "tiny"] == [("validation", "x")]


def test_auto_needs_twenty_documents_and_text_in_both_parts():
    config = DataConfig(validation_fraction=0.2)
    assert SplitDocuments(config, many(19)).method == "tail"
    assert SplitDocuments(config, many(20)).method == "name"
    only_train = [document for document in many(200) if split_of(document.name, 0.2) == "train"]
    assert SplitDocuments(config, only_train).method == "tail"
    assert SplitDocuments(DataConfig(split="name"), many(2)).method == "name"


def test_nothing_is_read_before_it_is_needed(tmp_path):
    documents = SplitDocuments(DataConfig(path=str(tmp_path / "missing.txt")))
    texts = documents.texts("train")
    with pytest.raises(DocumentError, match=r"missing\.txt: no such file or folder"):
        next(texts)


def test_documents_that_can_be_read_only_once_are_refused():
    with pytest.raises(ValueError, match="only once; pass a list"):
        SplitDocuments(DataConfig(), iter(many()))


def test_stdlib_is_the_corpus_of_this_python(monkeypatch):
    asked = []
    module = type(sys)("jaxllm.data.stdlib")
    module.stdlib_documents = lambda include_source: asked.append(include_source) or iter(many())
    monkeypatch.setitem(sys.modules, "jaxllm.data.stdlib", module)
    assert [document for _, document in SplitDocuments(DataConfig(path="stdlib+source", split="name"))] == many()
    assert [document for _, document in SplitDocuments(DataConfig(path="stdlib", split="name"))] == many()
    assert asked == [True, False]


# Preparing


def test_both_parts_are_stored_and_counted(config, tokenizer, tmp_path):
    documents = SplitDocuments(config)
    corpus = prepare_corpus(documents, tokenizer, tmp_path / "run" / "corpus")
    assert text_in(corpus.train) == list(documents.texts("train"))
    assert text_in(corpus.validation) == list(documents.texts("validation"))
    assert corpus.method == "name" and corpus.train.manifest.source == config.path
    assert os.listdir(tmp_path / "run") == ["corpus"]

    train, validation = report_corpus(corpus, config, row_length=64)
    assert train.documents + validation.documents == 60
    assert train.bytes == train.tokens == sum(len(text) for text in documents.texts("train"))
    assert train.bytes_per_token == 1.0
    assert train.utilization == pytest.approx((train.tokens + train.documents) / (train.rows * 64))
    assert str(train) == (
        f"train: {train.documents} documents, {train.bytes:,} bytes, {train.tokens:,} tokens (1.00 bytes each), "
        f"{train.rows} rows of 64, {train.utilization:.1%} full"
    )
    assert validation.part == "validation"


def test_empty_documents_are_skipped_and_counted(tokenizer, tmp_path):
    with_empty = [*many(), *(Document(f"empty{i}", "") for i in range(50))]
    config = DataConfig(validation_fraction=0.2, split="name")
    corpus = prepare_corpus(SplitDocuments(config, with_empty), tokenizer, tmp_path / "corpus")
    reports = report_corpus(corpus, config, 64)
    assert sum(report.empty_documents for report in reports) == 50
    assert sum(report.documents for report in reports) == 60
    assert f"({reports[0].empty_documents} empty ones skipped)" in str(reports[0])


def test_a_prepared_corpus_is_used_again_without_its_source(config, tokenizer, tmp_path, folder):
    first = prepare_corpus(SplitDocuments(config), tokenizer, tmp_path / "corpus")
    for file in folder.iterdir():
        file.unlink()
    again = prepare_corpus(SplitDocuments(config), tokenizer, tmp_path / "corpus")
    assert text_in(again.train) == text_in(first.train) and again.method == first.method
    assert text_in(open_corpus(tmp_path / "corpus", config, tokenizer).validation) == text_in(first.validation)


def test_settings_that_do_not_change_the_text_may_change(config, folder, tokenizer, tmp_path):
    prepare_corpus(SplitDocuments(config), tokenizer, tmp_path / "corpus")
    other = DataConfig(
        path=str(folder), validation_fraction=0.2, packing="concat", shuffle_seed=9, read_threads=0, prefetch_batches=1
    )
    prepare_corpus(SplitDocuments(other), tokenizer, tmp_path / "corpus")


def test_another_tokenizer_or_other_settings_are_refused_by_name(config, folder, tokenizer, tmp_path):
    prepare_corpus(SplitDocuments(config), tokenizer, tmp_path / "corpus")
    other = type(tokenizer)(salt="other")
    with pytest.raises(
        TokenStoreError, match=f"{tokenizer.fingerprint()}, but the tokenizer in use is {other.fingerprint()}"
    ):
        prepare_corpus(SplitDocuments(config), other, tmp_path / "corpus")
    changed = DataConfig(path=str(folder), validation_fraction=0.1, split="tail")
    with pytest.raises(
        TokenStoreError,
        match="data.validation_fraction was 0.2, is 0.1; data.split was 'auto', is 'tail'; use those settings",
    ):
        prepare_corpus(SplitDocuments(changed), tokenizer, tmp_path / "corpus")


def test_an_error_in_the_middle_leaves_nothing(config, folder, tokenizer, tmp_path):
    (folder / "zzz.txt").write_bytes(b"\xff")
    with pytest.raises(DocumentError, match=r"zzz\.txt: is not UTF-8 text"):
        prepare_corpus(SplitDocuments(config), tokenizer, tmp_path / "run" / "corpus")
    assert os.listdir(tmp_path / "run") == []


def test_something_else_in_the_way_is_not_touched(config, tokenizer, tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "diary.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="already exists"):
        prepare_corpus(SplitDocuments(config), tokenizer, tmp_path / "corpus")
    assert os.listdir(tmp_path / "corpus") == ["diary.txt"]


def test_when_another_process_was_first_its_corpus_is_used(config, tokenizer, tmp_path, monkeypatch):
    write = corpus_file._write_corpus

    def write_second(documents, tokenizer, directory):
        write(documents, tokenizer, directory)
        write(documents, tokenizer, directory)

    monkeypatch.setattr(corpus_file, "_write_corpus", write_second)
    corpus = prepare_corpus(SplitDocuments(config), tokenizer, tmp_path / "corpus")
    assert corpus.train.documents + corpus.validation.documents == 60
    assert sorted(os.listdir(tmp_path)) == ["corpus", "text"]


def test_when_another_process_is_first_in_the_middle_its_corpus_is_used(config, tokenizer, tmp_path):
    class Overtaken:
        """Prepares the same corpus elsewhere while its documents are being read here."""

        def __iter__(self):
            yield from many()
            prepare_corpus(SplitDocuments(config, many()), tokenizer, tmp_path / "corpus")

    config = DataConfig(validation_fraction=0.2, split="name")
    corpus = prepare_corpus(SplitDocuments(config, Overtaken()), tokenizer, tmp_path / "corpus")
    assert corpus.train.documents + corpus.validation.documents == 60
    assert sorted(os.listdir(tmp_path)) == ["corpus", "text"]


@pytest.mark.parametrize(
    ("split", "documents", "complaint", "fix"),
    [
        ("name", "train", "the validation part of 'stdlib'", "raise data.validation_fraction, or use data.split=tail"),
        ("name", "validation", "the train part of 'stdlib'", "lower data.validation_fraction, or use data.split=tail"),
        ("tail", "tiny", "the train part of 'stdlib'", "lower data.validation_fraction, or give more text"),
        ("name", "none", "the train part of 'stdlib'", "lower data.validation_fraction"),
    ],
)
def test_a_part_without_text_says_what_to_change(tokenizer, tmp_path, split, documents, complaint, fix):
    chosen = {
        "tiny": [Document("a", "x")],
        "none": [],
    }.get(documents, [document for document in many() if split_of(document.name, 0.2) == documents])
    config = DataConfig(split=split, validation_fraction=0.2)
    with pytest.raises(ValueError, match=rf"{complaint} has no text \(split by {split}.*{fix}"):
        prepare_corpus(SplitDocuments(config, chosen), tokenizer, tmp_path / "corpus")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 1, "config": {}, "method": "name"}'])
def test_a_damaged_description_is_refused(config, tokenizer, tmp_path, content):
    prepare_corpus(SplitDocuments(config), tokenizer, tmp_path / "corpus")
    (tmp_path / "corpus" / "corpus.json").write_text(content)
    with pytest.raises(TokenStoreError, match=r"corpus\.json: (is damaged|has format None)"):
        prepare_corpus(SplitDocuments(config), tokenizer, tmp_path / "corpus")


def test_another_format_is_refused(config, tokenizer, tmp_path):
    prepare_corpus(SplitDocuments(config), tokenizer, tmp_path / "corpus")
    (tmp_path / "corpus" / "corpus.json").write_text('{"format": 2}')
    with pytest.raises(TokenStoreError, match="has format 2, this version reads format 1; prepare the corpus again"):
        prepare_corpus(SplitDocuments(config), tokenizer, tmp_path / "corpus")


def test_opening_what_is_no_corpus(config, tokenizer, tmp_path):
    with pytest.raises(TokenStoreError, match="is not a prepared corpus: it has no corpus.json"):
        open_corpus(tmp_path, config, tokenizer)


def test_corpus_json_says_how_it_was_made(config, tokenizer, tmp_path):
    prepare_corpus(SplitDocuments(config), tokenizer, tmp_path / "corpus")
    assert json.loads((tmp_path / "corpus" / "corpus.json").read_text()) == {
        "format": 1,
        "config": {"path": config.path, "validation_fraction": 0.2, "split": "auto"},
        "method": "name",
        "tokenizer": tokenizer.fingerprint(),
    }


# The config and the room itself


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"path": ""}, "data.path is empty"),
        ({"validation_fraction": 0.0}, "data.validation_fraction must lie between 0 and 1, got 0.0"),
        ({"validation_fraction": 1.0}, "data.validation_fraction must lie between 0 and 1, got 1.0"),
        ({"validation_fraction": float("nan")}, "data.validation_fraction must lie between 0 and 1, got nan"),
        ({"split": "random"}, 'data.split must be "auto", "name" or "tail", got \'random\''),
        ({"packing": "none"}, 'data.packing must be "best_fit", "first_fit" or "concat", got \'none\''),
        ({"compression": "gzip"}, "data.compression must be"),
        ({"packing_window": -1}, "data.packing_window must not be negative, got -1"),
        ({"device_prefetch": -1}, "data.device_prefetch must not be negative, got -1"),
        ({"shuffle_seed": -1}, "data.shuffle_seed must lie in"),
        ({"read_threads": -1}, "data.read_threads must not be negative, got -1"),
        ({"prefetch_batches": -2}, "data.prefetch_batches must not be negative, got -2"),
    ],
)
def test_impossible_configs(fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        DataConfig(**fields)


def test_importing_the_room_imports_nothing_heavy():
    program = (
        "import sys, jaxllm.data, jaxllm.data.config, jaxllm.data.documents, jaxllm.data.loader, jaxllm.data.corpus\n"
        "print([m for m in ('grain', 'pyarrow', 'zstandard', 'jax', 'pydoc') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60).stdout == "[]\n"


def test_every_public_name_is_there():
    import jaxllm.data

    for name in jaxllm.data.__all__:
        assert getattr(jaxllm.data, name) is not None
        assert name in dir(jaxllm.data)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = jaxllm.data.nothing
