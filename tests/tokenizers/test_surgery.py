import pytest

from jaxllm.tokenizers import END_OF_TEXT, TokenizerConfig, load, train
from jaxllm.tokenizers.surgery import add_tokens, prune

KINDS = ("byte_bpe", "unigram", "sentencepiece_bpe", "wordpiece", "word", "character", "byte")


def test_added_tokens_come_from_their_pieces(tokenizer):
    larger, sources = add_tokens(tokenizer, ["日本国", "pydoc"])
    assert larger.vocab_size == tokenizer.vocab_size + 2 == len(sources)
    assert sources[: tokenizer.vocab_size] == [[i] for i in range(tokenizer.vocab_size)]
    assert sources[-1] == tokenizer.encode("pydoc") and len(sources[-1]) > 1
    assert larger.encode("a pydoc") == [*tokenizer.encode("a "), larger.vocab_size - 1]
    assert larger.decode(larger.encode("pydoc 日本国")) == "pydoc 日本国"
    assert larger.encode("plain text") == tokenizer.encode("plain text")


def test_an_added_special_token_has_to_be_allowed(tokenizer, tmp_path):
    larger, _ = add_tokens(tokenizer, ["<|user|>"], special=True)
    assert larger.encode("<|user|>") == tokenizer.encode("<|user|>")
    assert larger.encode("<|user|>", allowed_special="all") == [larger.vocab_size - 1]
    larger.save(tmp_path)
    assert load(tmp_path).fingerprint() == larger.fingerprint() != tokenizer.fingerprint()


def test_a_token_is_added_once(tokenizer):
    for again in (["pydoc", "pydoc"], [END_OF_TEXT]):
        with pytest.raises(ValueError, match="is in the vocabulary already"):
            add_tokens(tokenizer, again)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pruned_tokenizer_gives_its_corpus_the_same_tokens(kind, texts, tmp_path):
    tokenizer = train(TokenizerConfig(kind=kind, vocab_size=900), texts)
    corpus = [texts[0][:3000], "for x in y:"]
    pruned, sources = prune(tokenizer, corpus)
    assert kind in ("byte", "character") or pruned.vocab_size < 0.9 * tokenizer.vocab_size
    assert len(sources) == pruned.vocab_size and all(len(old) == 1 for old in sources)
    for text in corpus:
        assert [sources[i][0] for i in pruned.encode(text)] == tokenizer.encode(text)
        assert pruned.decode(pruned.encode(text)) == tokenizer.decode(tokenizer.encode(text))
        framed = pruned.encode(text, add_special_tokens=True)
        assert [sources[i][0] for i in framed] == tokenizer.encode(text, add_special_tokens=True)
    assert pruned.special_tokens.keys() == tokenizer.special_tokens.keys()
    assert pruned.end_of_text == pruned.special_tokens[END_OF_TEXT]
    pruned.save(tmp_path)
    assert load(tmp_path).encode_batch(corpus) == pruned.encode_batch(corpus)
    if kind in ("byte_bpe", "unigram", "sentencepiece_bpe"):
        other = "något annat 日本 🦙"
        assert pruned.decode(pruned.encode(other)) == other


@pytest.mark.parametrize("name", ["tiktoken/cl100k_base.tiktoken", "mistral/tokenizer.model.v1", "bert/vocab.txt"])
def test_real_vocabularies(shared, texts, name):
    tokenizer = load(shared(f"tokenizers/{name}"))
    pruned, sources = prune(tokenizer, texts)
    assert pruned.vocab_size < tokenizer.vocab_size / 2
    for text in texts:
        assert [sources[i][0] for i in pruned.encode(text)] == tokenizer.encode(text)
