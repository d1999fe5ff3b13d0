import pytest

from jaxllm.tokenizers.decoders import (
    ByteFallback,
    ByteLevel,
    Decoder,
    Fuse,
    Metaspace,
    Replace,
    Strip,
    WordPiece,
    Words,
)

LLAMA = [Replace("▁", " "), ByteFallback(), Fuse(), Strip(" ", 1, 0)]
WORDS = ["the", "cat", "##s", "do", "not", "n't", ",", "'", "s", "'s", ".", "##.", "'re"]


def decode(steps, tokens) -> str:
    decoder = Decoder(steps)
    text = b"".join(map(decoder.token_bytes, tokens)).decode("utf-8", errors="replace")
    return text.removeprefix(" ") if decoder.strips_space else text


@pytest.mark.parametrize(
    ("steps", "tokens", "text"),
    [
        ([ByteLevel()], ["Ġthe", "Ãī", "日", "<|x|>"], " theÉ日<|x|>"),
        (LLAMA, ["▁▁The", "▁caf", "<0xC3>", "<0xA9>", "<0x0a>", "<0xZZ>"], " The café\n<0xZZ>"),
        ([Metaspace()], ["▁Hello", "▁world", "!"], "Hello world!"),
        ([Metaspace("▁", "never")], ["▁Hello"], " Hello"),
        ([WordPiece()], ["un", "##aff", "##able", ",", "is", "n't", "it"], "unaffable, isn't it"),
        ([WordPiece("##", False)], ["un", "##aff", ","], "unaff ,"),
        ([Words()], ["a", "b"], "a b"),
        ([Fuse()], ["a", "b"], "ab"),
    ],
)
def test_text_of_tokens(steps, tokens, text):
    assert decode(steps, tokens) == text


@pytest.mark.parametrize("cleanup", [True, False])
def test_the_tokenizers_library_joins_words_so(cleanup):
    hf = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    library = hf.decoders.WordPiece(prefix="##", cleanup=cleanup)
    for first in WORDS:
        if first.startswith("##"):
            continue  # the library shows the prefix there, where no word could be continued
        for second in WORDS:
            for third in WORDS:
                tokens = [first, second, third]
                assert decode([WordPiece("##", cleanup)], tokens) == library.decode(tokens), tokens


@pytest.mark.parametrize("steps", [[Strip(" ", 1, 0)], [Fuse(), Strip(" ", 2, 0)], [Fuse(), Replace("a", "b")]])
def test_steps_that_would_look_at_neighbours_are_refused(steps):
    with pytest.raises(ValueError, match="is not supported: what follows Fuse may only be a Strip of one space"):
        Decoder(steps)
