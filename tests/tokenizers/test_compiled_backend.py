import pickle
import sys

import pytest

from jaxllm.tokenizers import END_OF_TEXT, Tokenizer, TokenizerConfig, compiled_backend, train
from jaxllm.tokenizers.added_tokens import AddedToken
from jaxllm.tokenizers.compiled_backend import PROBE, CompiledTokenizer
from jaxllm.tokenizers.formats.tiktoken_files import read_tiktoken
from jaxllm.tokenizers.preparation.cuts import Split
from jaxllm.tokenizers.preparation.normalizers import NFC
from jaxllm.tokenizers.preparation.patterns import Regex
from jaxllm.tokenizers.vocabularies.byte_bpe import ByteLevelBPE
from tests.tokenizers.fuzz_texts import fuzz_texts

tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed (make parity)")


@pytest.fixture(scope="module")
def compiled(tokenizer) -> CompiledTokenizer:
    return CompiledTokenizer(tokenizer)


def test_ids_are_those_of_the_pipeline(tokenizer, compiled):
    texts = [PROBE, *fuzz_texts(2000, seed=5)]
    expected = [tokenizer.encode(text) for text in texts]
    assert [compiled.encode(text) for text in texts] == expected
    assert compiled.encode_batch(texts) == compiled.encode_batch(texts, processes=2) == expected


def test_a_real_vocabulary(shared):
    tokenizer = read_tiktoken(shared("tokenizers/tiktoken/cl100k_base.tiktoken"), "cl100k_base")
    assert CompiledTokenizer(tokenizer).encode(PROBE) == tokenizer.encode(PROBE)


def test_everything_else_is_the_pipelines(tokenizer, compiled):
    assert isinstance(compiled, Tokenizer)
    assert compiled.vocab_size == tokenizer.vocab_size and compiled.fingerprint() == tokenizer.fingerprint()
    assert compiled.decode(compiled.encode("Hello")) == "Hello"
    assert compiled.encode(END_OF_TEXT) != [tokenizer.end_of_text]
    assert compiled.encode(END_OF_TEXT, allowed_special="all") == [tokenizer.end_of_text]
    with pytest.raises(ValueError, match="the text has the special token"):
        compiled.encode(END_OF_TEXT, disallowed_special="all")
    assert pickle.loads(pickle.dumps(compiled)).encode(PROBE) == tokenizer.encode(PROBE)
    with pytest.raises(AttributeError):
        _ = compiled.nothing


def test_what_is_no_text_is_refused_as_by_the_pipeline(compiled):
    """tiktoken replaces it."""
    for use in (compiled.encode, lambda text: compiled.encode_batch([text])):
        with pytest.raises(ValueError, match="^character 1 of the text is .* half of a UTF-16 pair"):
            use("a\ud800")


def test_other_ids_are_found_out(tokenizer, monkeypatch):
    """A back end whose ids are other ones, in a token and in a probe."""
    encoding = compiled_backend._tiktoken_encoding(tokenizer)
    monkeypatch.setattr(type(encoding), "encode_ordinary", lambda self, text: [*tokenizer.encode(text)[:-1], 0])
    with pytest.raises(ValueError, match="^tiktoken gives other ids than this tokenizer for 'Once upon .* id number"):
        CompiledTokenizer(tokenizer)
    monkeypatch.undo()
    # By merges "abc" is never reached, and tiktoken takes it as it is.
    merges = [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")]
    with pytest.raises(ValueError, match="^tiktoken gives other ids than this tokenizer for b'abc': from id number 0"):
        CompiledTokenizer(tokenizer.replace(vocabulary=ByteLevelBPE.from_merges(merges), added_tokens=(), roles={}))


def test_what_it_can_not_do(tokenizer, texts):
    word = AddedToken("word", tokenizer.vocab_size, special=False)
    letters = ByteLevelBPE({bytes([byte]): i for i, byte in enumerate(b"abc")}, [])
    swapped = ByteLevelBPE.from_merges([(b"a", b"b"), (b"c", b"d")])
    swapped = ByteLevelBPE(swapped.vocabulary, swapped.merges[::-1])
    for other, message in [
        (
            train(TokenizerConfig(kind="word", vocab_size=100), texts),
            "^tiktoken can only stand in for a tokenizer that cuts",
        ),
        (
            train(TokenizerConfig(vocab_size=300, split="deepseek-v3"), texts),
            "that cuts text by one of the patterns known",
        ),
        (tokenizer.replace(pre_tokenizer=[Split(Regex("[a-z]+"))]), "that cuts text by one of the patterns known"),
        (tokenizer.replace(normalizer=[NFC()]), "a tokenizer that normalizes text or has added words$"),
        (tokenizer.replace(added_tokens=[*tokenizer.added_tokens, word]), "normalizes text or has added words$"),
        (tokenizer.replace(vocabulary=letters, added_tokens=(), roles={}), "a byte-level BPE that has all 256 bytes$"),
        (
            tokenizer.replace(vocabulary=swapped, added_tokens=(), roles={}),
            "for this vocabulary: the merges don't make",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            CompiledTokenizer(other)


def test_without_the_package(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ValueError, match="^the compiled back end is the package tiktoken, which is not installed"):
        CompiledTokenizer(tokenizer)


@pytest.mark.parametrize("processes", [0, -1])
def test_too_few_processes(compiled, processes):
    with pytest.raises(ValueError, match=f"^processes must be at least 1, got {processes}$"):
        compiled.encode_batch([""], processes=processes)
