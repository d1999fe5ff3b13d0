"""Training on tokens that are there already, split as text is."""

import numpy as np
import pytest

from jaxllm.data.config import DataConfig, FillInTheMiddleConfig, SourceConfig
from jaxllm.data.corpus import open_corpus, prepare_corpora, prepare_corpus, split_documents
from jaxllm.data.documents import Document
from jaxllm.data.imports.mapped import TokenFileError
from jaxllm.data.loader import TrainLoader
from jaxllm.data.prepared import is_prepared
from jaxllm.data.split import split_of
from jaxllm.data.token_store import Layout, TokenStoreError, write_token_store

DOCUMENTS = [Document(f"d{i}", "abcdefghij"[: 1 + i % 10] * 3) for i in range(60)]


def texts(source) -> list[str]:
    return [bytes(source.read(i, 0, 10**9).tolist()).decode() for i in range(source.documents)]


@pytest.fixture
def store(tmp_path, tokenizer):
    return write_token_store(tmp_path / "store", DOCUMENTS, tokenizer, layout=Layout(shard_tokens=200))


@pytest.mark.parametrize("split", ["auto", "name"])
def test_a_store_is_split_by_the_ids_of_its_documents(store, tokenizer, tmp_path, split):
    config = DataConfig(path=str(store.directory), validation_fraction=0.2, split=split)
    corpus = prepare_corpus(split_documents(config), tokenizer, tmp_path / "run")
    parts = {part: [d for d in DOCUMENTS if split_of(d.name, 0.2) == part] for part in ("train", "validation")}
    assert corpus.method == "name"
    for part, view in (("train", corpus.train), ("validation", corpus.validation)):
        assert texts(view) == [document.text for document in parts[part]]
        assert view.lengths.tolist() == [len(document.text) for document in parts[part]]
        assert view.num_bytes == view.num_tokens == sum(len(document.text) for document in parts[part])
        assert view.lengths_of(2, 5).tolist() == view.lengths[2:5].tolist()
    assert not (tmp_path / "run").exists(), "nothing is copied"
    again = open_corpus(tmp_path / "run", config, tokenizer)
    assert again.train.fingerprint == corpus.train.fingerprint != corpus.validation.fingerprint
    assert list(store.ids()) == [document.name for document in DOCUMENTS]


def test_a_store_is_split_by_tail(store, tokenizer, tmp_path):
    config = DataConfig(path=str(store.directory), validation_fraction=0.25, split="tail")
    corpus = prepare_corpus(split_documents(config), tokenizer, tmp_path / "run")
    cuts = [int(0.75 * len(document.text)) for document in DOCUMENTS]
    assert texts(corpus.train) == [d.text[:cut] for d, cut in zip(DOCUMENTS, cuts, strict=True)]
    assert texts(corpus.validation) == [d.text[cut:] for d, cut in zip(DOCUMENTS, cuts, strict=True)]
    assert corpus.train.read(3, 1, 99).tolist() == list(DOCUMENTS[3].text[1 : cuts[3]].encode())
    assert corpus.train.num_bytes == 0, "of parts of documents it is not known"
    with TrainLoader(corpus.train, config, row_length=16, batch_size=2) as loader:
        pairs = sum(cuts) + len(cuts)
        assert loader.plan.num_pairs == pairs


def test_files_of_other_programs_by_path(tokenizer, tmp_path):
    ids = [i for document in DOCUMENTS for i in [*document.text.encode(), tokenizer.end_of_text]]
    np.array(ids, "<u2").tofile(tmp_path / "train.bin")
    config = DataConfig(path=str(tmp_path / "train.bin"), validation_fraction=0.2)
    corpus = prepare_corpus(split_documents(config), tokenizer, tmp_path / "run")
    assert sorted(texts(corpus.train) + texts(corpus.validation)) == sorted(d.text for d in DOCUMENTS)
    np.array([1, 300], "<u2").tofile(tmp_path / "train.bin")
    with pytest.raises(TokenFileError, match="token 1 is 300, outside a vocabulary of 257"):
        prepare_corpus(split_documents(config), tokenizer, tmp_path / "run")


def test_a_mixture_of_text_and_tokens(store, tokenizer, tmp_path):
    (tmp_path / "text.txt").write_text("some words " * 30)
    sources = (SourceConfig("stored", str(store.directory)), SourceConfig("written", str(tmp_path / "text.txt")))
    corpora = prepare_corpora(split_documents(DataConfig(sources=sources)), tokenizer, tmp_path / "run")
    assert list(corpora) == ["stored", "written"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["written"]


def test_which_paths_name_tokens(store, tmp_path):
    assert is_prepared(str(store.directory)) and is_prepared("x.bin") and is_prepared("x.idx")
    assert not is_prepared("stdlib") and not is_prepared(str(tmp_path))
    for content in ('{"format": 1, "documents": 3}', "[]", "{"):
        (tmp_path / "manifest.json").write_text(content)
        assert not is_prepared(str(tmp_path)), "a folder of text with a manifest of its own"


def test_what_tokens_can_not_give(store, tokenizer, tmp_path):
    config = DataConfig(path=str(store.directory))
    with pytest.raises(ValueError, match="on which no tokenizer can be trained: name the one that made them in tok"):
        next(iter(split_documents(config).texts("train")))
    turned = DataConfig(path=str(store.directory), fill_in_the_middle=FillInTheMiddleConfig(rate=0.5))
    with pytest.raises(ValueError, match="set data.fill_in_the_middle.scope=context"):
        split_documents(turned)
    with pytest.raises(TokenStoreError, match="but the tokenizer in use is"):
        prepare_corpus(split_documents(config), type(tokenizer)(salt="other"), tmp_path / "run")
    one = write_token_store(tmp_path / "one", [Document("d", "a")], tokenizer)
    for split in ("name", "tail"):
        config = DataConfig(path=str(one.directory), split=split)
        with pytest.raises(ValueError, match=rf"part of '.*one' has no tokens \(split by {split}"):
            prepare_corpus(split_documents(config), tokenizer, tmp_path / "run")


def test_what_a_recipe_dropped_is_not_trained_on(tmp_path):
    (tmp_path / "manifest.json").write_text('{"made_from": {}, "levels": [], "problems": [], "files": {}}')
    (tmp_path / "dropped").mkdir()
    (tmp_path / "dropped/a.txt").write_text("of no use")
    with pytest.raises(ValueError, match="also holds what was dropped: name .*tokens or .*documents"):
        split_documents(DataConfig(path=str(tmp_path)))
