import random

import pytest

from jaxllm.tokenizers import END_OF_TEXT, PipelineTokenizer, Tokenizer, TokenizerConfig, load, train
from jaxllm.tokenizers.config import Kind
from jaxllm.tokenizers.preparation.cuts import Split
from jaxllm.tokenizers.preparation.patterns import Regex
from jaxllm.tokenizers.preparation.split_patterns import SPLIT_PATTERNS, SPLIT_SEQUENCES

KINDS = Kind.__args__
LOSSLESS = ("byte_bpe", "unigram", "sentencepiece_bpe", "byte")
UNSEEN = [
    "",
    " ",
    "  two  spaces ",
    "\n\ttab",
    "日本語 é e\u0301 🦙\x00",
    f"a {END_OF_TEXT} b",
    "▁already",
    "<0x41><unk>",
]


@pytest.fixture(scope="module", params=KINDS)
def trained(request, texts) -> tuple[str, PipelineTokenizer]:
    return request.param, train(TokenizerConfig(kind=request.param, vocab_size=600), iter(texts))


def test_every_kind_is_saved_and_loaded(trained, texts, tmp_path):
    kind, tokenizer = trained
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.end_of_text == tokenizer.special_tokens[END_OF_TEXT] == tokenizer.vocab_size - 1
    assert kind in ("byte", "character") or tokenizer.vocab_size == 600
    tokenizer.save(tmp_path / "t")
    loaded = load(tmp_path / "t")
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.encode_batch(texts) == tokenizer.encode_batch(texts)
    assert loaded.roles == tokenizer.roles and loaded.end_of_text == tokenizer.end_of_text


def test_text_comes_back(trained, texts):
    kind, tokenizer = trained
    for text in texts:
        ids = tokenizer.encode(text)
        if kind in ("wordpiece", "word"):
            assert "[UNK]" not in text and "".join(tokenizer.decode(ids).split())
        else:
            assert tokenizer.decode(ids) == text
    for text in UNSEEN if kind in LOSSLESS else ():
        # The symbol for a space is itself no text in the kinds that write spaces so.
        expected = text.replace("▁", " ") if "unigram" in kind or "sentencepiece" in kind else text
        assert tokenizer.decode(tokenizer.encode(text)) == expected


def test_files_are_read_alike_by_the_tokenizers_library(trained, texts, tmp_path):
    hf = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    kind, tokenizer = trained
    tokenizer.save(tmp_path)
    library = hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    choose = random.Random(0)
    seen = sorted(set("".join(texts)))
    strings = [*texts, *("".join(choose.choices(seen, k=choose.randint(1, 30))) for _ in range(500))]
    if kind in LOSSLESS:  # the library makes special tokens of text that looks like one
        strings += [text.replace("<unk>", "") for text in UNSEEN if END_OF_TEXT not in text]
    for text in strings:
        encoding = library.encode(text, add_special_tokens=False)
        ids = tokenizer.encode(text)
        assert ids == encoding.ids, repr(text[:80])
        assert tokenizer.decode(ids) == library.decode(ids), repr(text[:80])
        assert tokenizer.encode(text, add_special_tokens=True) == library.encode(text).ids


def test_ids_drawn_at_random_are_the_same_text(trained, texts):
    kind, tokenizer = trained
    settings = {"unigram": {"alpha": 0.2}, "sentencepiece_bpe": {"dropout": 0.5}}.get(kind)
    if settings is None:
        with pytest.raises(ValueError, match="has one way to encode a text, none to draw from"):
            tokenizer.sample("text", random.Random(0))
        return
    drawn = {tuple(tokenizer.sample(texts[0][:60], random.Random(seed), **settings)) for seed in range(20)}
    assert len(drawn) > 10 and {tokenizer.decode(ids) for ids in drawn} == {texts[0][:60]}
    again = tuple(tokenizer.sample(texts[0][:60], random.Random(3), **settings))
    assert again in drawn


def test_the_order_of_texts_changes_nothing(trained, texts):
    kind, tokenizer = trained
    again = train(TokenizerConfig(kind=kind, vocab_size=600), reversed(texts))
    assert again.fingerprint() == tokenizer.fingerprint()


def test_several_processes_give_the_same(texts):
    config = TokenizerConfig(vocab_size=400)
    assert train(config, texts, processes=2).fingerprint() == train(config, texts).fingerprint()


def test_kinds_differ_in_their_fingerprints(texts):
    made = [train(TokenizerConfig(kind=kind, vocab_size=600), texts[:2]).fingerprint() for kind in ("byte", "byte_bpe")]
    assert len(set(made)) == 2


def test_the_config_is_followed(texts):
    config = TokenizerConfig(vocab_size=300, split="gpt2", special_tokens=("<|user|>", END_OF_TEXT))
    tokenizer = train(config, texts)
    assert tokenizer.vocab_size == 300
    assert tokenizer.pre_tokenizer == (Split(Regex(SPLIT_PATTERNS["gpt2"])),)
    assert tokenizer.special_tokens == {"<|user|>": 298, END_OF_TEXT: 299}
    characters = train(TokenizerConfig(kind="character", special_tokens=("<|user|>", END_OF_TEXT)), ["ab"])
    assert characters.special_tokens == {"<|user|>": 2, END_OF_TEXT: 3}
    several = train(TokenizerConfig(vocab_size=300, split="deepseek-v3"), texts)
    assert len(several.pre_tokenizer) == len(SPLIT_SEQUENCES["deepseek-v3"]) > 1


def test_normalization_is_a_choice(texts):
    plain = train(TokenizerConfig(vocab_size=300), texts)
    assert plain.decode(plain.encode("ﬁ É")) == "ﬁ É"
    config = TokenizerConfig(vocab_size=300, normalization=("nfkd", "lowercase", "strip_accents"))
    assert train(config, texts).decode(train(config, texts).encode("ﬁ É")) == "fi e"


def test_characters_that_were_not_seen_are_refused():
    tokenizer = train(TokenizerConfig(kind="character"), ["ab"])
    with pytest.raises(ValueError, match="'c' can't be made of the vocabulary's 2 tokens"):
        tokenizer.encode("abc")


def test_words_that_were_not_seen_are_unknown(texts):
    tokenizer = train(TokenizerConfig(kind="word", vocab_size=100), texts)
    assert tokenizer.encode("unheardof") == [tokenizer.special_tokens["<unk>"]]


def test_a_path_is_loaded_in_place_of_training(tokenizer, tmp_path):
    tokenizer.save(tmp_path)

    def no_texts():
        raise AssertionError("the texts are not needed")
        yield

    assert train(TokenizerConfig(path=str(tmp_path)), no_texts()).fingerprint() == tokenizer.fingerprint()
    with pytest.raises(ValueError, match="nowhere: there is no tokenizer here"):
        train(TokenizerConfig(path=str(tmp_path / "nowhere")), no_texts())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "byte"])
def test_an_empty_corpus_is_refused(kind):
    for texts in ([], [""]):
        with pytest.raises(ValueError, match="there is no text to train a tokenizer on"):
            train(TokenizerConfig(kind=kind), texts)


def test_a_vocabulary_larger_than_the_text_supports_is_refused():
    with pytest.raises(ValueError, match=r"the text supports \d merges, so tokenizer.vocab_size can be at most"):
        train(TokenizerConfig(vocab_size=5000), ["a few words, a few words"])
