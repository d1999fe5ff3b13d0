"""Turned texts read back to the texts they were made from, whatever the order, level and scope."""

import numpy as np
import pytest

from jaxllm import tokenizers
from jaxllm.data.config import DataConfig, FillInTheMiddleConfig
from jaxllm.data.corpus import SplitDocuments, open_corpus, prepare_corpus
from jaxllm.data.documents import Document
from jaxllm.data.fill_in_the_middle import Sentinels, TurnPieces, document_encoding, piece_rewrite
from jaxllm.data.loader import TrainLoader
from jaxllm.data.token_store import Layout, TokenStoreError, write_token_store
from jaxllm.tokenizers.config import TokenizerConfig

TEXTS = ["".join(chr(97 + (7 * i + j * j) % 26) for j in range(n)) + "ü" for i, n in enumerate([30, 3, 55, 0, 12] * 8)]
DOCUMENTS = [Document(f"d{i}", text) for i, text in enumerate(TEXTS)]
SPECIAL = ("<|endoftext|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


@pytest.fixture(scope="module")
def tokenizer():
    config = TokenizerConfig(kind="byte_bpe", vocab_size=268, special_tokens=SPECIAL)
    return tokenizers.train(config, ["abc abd the cat " * 30])


def read_back(ids, tokenizer) -> tuple[str, str]:
    """(text, order) of turned ids; order "" for those that were not."""
    prefix, suffix, middle = (tokenizer.special_tokens[name] for name in SPECIAL[1:])
    ids = list(map(int, ids))
    if prefix not in ids:
        return tokenizer.decode(ids), ""
    assert ids[0] == prefix and ids.count(suffix) == ids.count(middle) == ids.count(prefix) == 1
    s, m = ids.index(suffix), ids.index(middle)
    text = tokenizer.decode_bytes(ids[1:s] + ids[m + 1 :] + ids[s + 1 : m]).decode(errors="replace")
    # With an empty prefix the two orders are one, and so they are read as spm.
    return text, "spm" if s == 1 else "psm"


def test_the_two_orders_are_the_papers():
    arrange = Sentinels(prefix=91, suffix=92, middle=93).arrange
    assert arrange([1, 2], [3], [4, 5], spm=False) == [91, 1, 2, 92, 4, 5, 93, 3]
    assert arrange([1, 2], [3], [4, 5], spm=True) == [91, 92, 4, 5, 93, 1, 2, 3]


@pytest.mark.parametrize("level", ["character", "token"])
@pytest.mark.parametrize("rate, spm_rate", [(1.0, 0.5), (0.5, 0.0), (0.7, 1.0)])
def test_documents_read_back_to_themselves(tokenizer, level, rate, spm_rate):
    config = FillInTheMiddleConfig(rate=rate, spm_rate=spm_rate, level=level)
    encode = document_encoding(config, tokenizer, seed=3).encode
    ids = encode(DOCUMENTS)
    back = [read_back(each, tokenizer) for each in ids]
    assert [text for text, _ in back] == TEXTS
    orders = [order for _, order in back]
    assert (orders.count("") == 0) == (rate == 1.0)
    assert ("psm" in orders) == (spm_rate < 1)
    assert orders.count("spm") > 12 if spm_rate else orders.count("spm") < 10
    assert [list(one) for (one,) in ([encode([document])[0]] for document in DOCUMENTS[::-1])] == [
        list(each) for each in ids[::-1]
    ], "a document's draw is its own"
    if level == "token":
        lengths = [len(tokenizer.encode(text)) for text in TEXTS]
        assert [len(each) for each in ids] == [n + 3 * bool(o) for n, o in zip(lengths, orders, strict=True)]


def test_rates_and_cuts_are_drawn_evenly(tokenizer):
    config = FillInTheMiddleConfig(rate=0.5, level="token")
    documents = [Document(str(i), "abcdefghi") for i in range(2000)]
    ids = document_encoding(config, tokenizer, 0).encode(documents)
    plain = len(tokenizer.encode("abcdefghi"))
    turned = [each for each in ids if len(each) > plain]
    assert len(turned) / 2000 == pytest.approx(0.5, abs=0.04)
    lengths = [len(each) - each.index(tokenizer.special_tokens[SPECIAL[3]]) - 1 for each in turned if each[1] != 0]
    assert min(lengths) == 0 and max(lengths) == plain


def test_a_store_of_turned_documents(tmp_path, tokenizer):
    config = FillInTheMiddleConfig(rate=1.0)
    encoding = document_encoding(config, tokenizer, 0)
    store = write_token_store(tmp_path / "s", DOCUMENTS, tokenizer, layout=Layout(encoding=encoding))
    assert [read_back(store.tokens_of(i), tokenizer)[0] for i in range(store.documents)] == TEXTS
    assert store.manifest.encoding == encoding.fingerprint != ""
    assert write_token_store(tmp_path / "p", DOCUMENTS, tokenizer).manifest.encoding == ""


def test_an_empty_document_stays_empty(tokenizer):
    for level in ("character", "token"):
        encoding = document_encoding(FillInTheMiddleConfig(rate=1.0, level=level), tokenizer, 0)
        assert [len(ids) for ids in encoding.encode([Document("a", ""), Document("b", "xy")])] == [0, 5]


# Pieces of a row


@pytest.mark.parametrize("level", ["character", "token"])
def test_pieces_keep_their_end_of_text_and_never_grow(tokenizer, level):
    turn = TurnPieces(FillInTheMiddleConfig(rate=1.0, level=level, spm_rate=0.5), tokenizer, seed=1)
    end = tokenizer.end_of_text
    orders = set()
    for i, text in enumerate(TEXTS):
        ids = tokenizer.encode(text)
        for begins in (True, False):
            line = np.array([*[end] * begins, *ids, end], np.int32)
            turned = turn(line, i, 0)
            assert len(turned) <= len(line) and turned.dtype == line.dtype
            if len(ids) < 4:
                np.testing.assert_array_equal(turned, line)
                continue
            assert (turned[0] == end) == begins and turned[-1] == end
            got, order = read_back(turned[begins:-1], tokenizer)
            assert len(got) <= len(text) and set(got) <= set(text) | {"\ufffd"}
            orders.add(order)
            np.testing.assert_array_equal(turn(line, i, 0), turned)
    assert orders == {"psm", "spm"}


def test_room_is_taken_from_the_suffix_then_from_the_prefix(tokenizer, monkeypatch):
    turn = TurnPieces(FillInTheMiddleConfig(rate=1.0, level="token", spm_rate=0.0), tokenizer, seed=1)
    p, s, m = (tokenizer.special_tokens[name] for name in SPECIAL[1:])
    end = tokenizer.end_of_text
    line = np.array([end, *range(1, 11), end], np.int32)
    for cut, expected in {
        (4, 6): [end, p, 1, 2, 3, 4, s, 7, m, 5, 6, end],
        (6, 9): [end, p, 3, 4, 5, 6, s, m, 7, 8, 9, end],
        (0, 10): [end, p, s, m, *range(1, 8), end],
    }.items():
        monkeypatch.setattr("jaxllm.data.fill_in_the_middle._places", lambda draw, length, cut=cut: cut)
        assert turn(line, 0, 0).tolist() == expected


def test_batches_of_turned_pieces(tmp_path, tokenizer):
    store = write_token_store(tmp_path / "s", DOCUMENTS, tokenizer)
    config = DataConfig(fill_in_the_middle=FillInTheMiddleConfig(rate=1.0, scope="context"))
    rewrite = piece_rewrite(config.fill_in_the_middle, tokenizer, 0)
    with TrainLoader(store, config, row_length=64, batch_size=4, rewrite=rewrite) as loader:
        batch = loader.batch_at(0)
    middle = tokenizer.special_tokens["<|fim_middle|>"]
    for row in range(4):
        used = batch["segment_ids"][row] > 0
        assert (batch["weights"][row] == used).all()
        for segment in range(1, batch["segment_ids"][row].max() + 1):
            inside = batch["segment_ids"][row] == segment
            assert batch["positions"][row][inside].tolist() == list(range(inside.sum()))
            np.testing.assert_array_equal(batch["tokens"][row][inside][1:], batch["targets"][row][inside][:-1])
    assert (batch["tokens"] == middle).any()


# Configs and corpora


def test_a_tokenizer_without_the_tokens_is_told_how_to_get_them():
    plain = tokenizers.train(TokenizerConfig(kind="byte"), [])
    config = FillInTheMiddleConfig(rate=0.5, suffix="<|endoftext|>")
    complaint = (
        r"needs the special tokens .*this tokenizer has no <\|fim_prefix\|>, <\|fim_middle\|>: add them to "
        r"tokenizer.special_tokens, or name its own .*its special tokens are <\|endoftext\|>"
    )
    with pytest.raises(ValueError, match=complaint):
        document_encoding(config, plain, 0)
    with pytest.raises(ValueError, match="this tokenizer has no"):
        piece_rewrite(FillInTheMiddleConfig(rate=0.5, scope="context"), plain, 0)
    with pytest.raises(ValueError, match="needs the tokenizer"):
        piece_rewrite(FillInTheMiddleConfig(rate=0.5, scope="context"), None, 0)
    assert document_encoding(FillInTheMiddleConfig(), plain, 0) is None
    assert piece_rewrite(FillInTheMiddleConfig(), plain, 0) is None


def test_the_training_part_alone_is_turned_and_other_settings_are_refused(tmp_path, tokenizer):
    config = DataConfig(validation_fraction=0.3, split="name", fill_in_the_middle=FillInTheMiddleConfig(rate=1.0))
    corpus = prepare_corpus(SplitDocuments(config, DOCUMENTS), tokenizer, tmp_path / "corpus")
    prefix = tokenizer.special_tokens["<|fim_prefix|>"]
    assert all(prefix in corpus.train.tokens_of(i) for i in range(corpus.train.documents))
    assert not any(prefix in corpus.validation.tokens_of(i) for i in range(corpus.validation.documents))
    open_corpus(tmp_path / "corpus", config, tokenizer)
    with pytest.raises(TokenStoreError, match="was prepared with other settings of data.fill_in_the_middle"):
        open_corpus(tmp_path / "corpus", DataConfig(validation_fraction=0.3, split="name"), tokenizer)


@pytest.mark.parametrize(
    "fields, complaint",
    [
        ({"rate": 1.1}, "rate and spm_rate must lie in 0 .. 1, got 1.1"),
        ({"spm_rate": float("nan")}, "got 0.0 and nan"),
        ({"level": "word"}, "data.fill_in_the_middle.level must be character or token, got 'word'"),
        ({"scope": "row"}, "data.fill_in_the_middle.scope must be document or context, got 'row'"),
    ],
)
def test_impossible_settings(fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        FillInTheMiddleConfig(**fields)
