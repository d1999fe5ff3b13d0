import pickle
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers import END_OF_TEXT, ByteBPE, byte_bpe
from jaxllm.tokenizers.byte_alphabet import to_bytes
from jaxllm.tokenizers.byte_bpe import merge_slowly
from jaxllm.tokenizers.split_patterns import SPLIT_PATTERNS

CL100K = SPLIT_PATTERNS["cl100k"]
# Text in which merges meet, overlap and compete; and text of any kind.
DENSE = st.text(alphabet="ab \n'stхй🦙")
ANY = st.text()


def bpe(merges, special_tokens=(END_OF_TEXT,)) -> ByteBPE:
    return ByteBPE.from_merges(merges, CL100K, special_tokens)


def tokens(tokenizer: ByteBPE, text: str) -> list[bytes]:
    return [tokenizer.token_bytes(token) for token in tokenizer.encode(text)]


def random_merges(seed: int, count: int, letters: bytes) -> list[tuple[bytes, bytes]]:
    """Merges of tokens that exist, in an order that no training would give."""
    choose = random.Random(seed)
    known, merges = [bytes([letter]) for letter in letters], []
    while len(merges) < count:
        merge = choose.choice(known), choose.choice(known)
        if merge not in merges and len(merge[0] + merge[1]) <= 8:
            merges.append(merge)
            known.append(merge[0] + merge[1])
    choose.shuffle(merges)
    return merges


@given(ANY | DENSE)
def test_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= token < tokenizer.end_of_text for token in ids)


@given(st.binary() | st.lists(st.binary(max_size=4) | ANY.map(str.encode)).map(b"".join))
def test_bytes_come_back(tokenizer, data):
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


def test_all_beginnings_of_characters_come_back(tokenizer):
    """Among them overlong forms, encoded surrogates and code points beyond U+10FFFF, which no decoder may accept."""
    for lead in range(0xC0, 0x100):
        for second in (0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0):
            for data in (bytes([lead, second]), bytes([lead, second, 0x80]), bytes([lead, second, 0xBF, 0x80])):
                assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


@pytest.mark.parametrize("start", [0x0, 0x80, 0x800, 0xD7F0, 0xE000, 0xFFF0, 0x10FFF0])
def test_bytes_that_are_text_are_encoded_as_text(tokenizer, texts, start):
    text = texts[0][:3000] + "".join(map(chr, range(start, start + 16)))
    assert tokenizer.encode_bytes(text.encode()) == tokenizer.encode(text)


def test_bytes_that_are_no_text_are_merged_too():
    # A truncated character between two texts: its two bytes are one piece.
    tokenizer = bpe([(b"\xf0", b"\x9f"), (b"\x9f", b"a"), (b"o", b"k")])
    ids = tokenizer.encode_bytes(b"ok\xf0\x9fa")
    assert [tokenizer.token_bytes(token) for token in ids] == [b"ok", b"\xf0\x9f", b"a"]


@given(DENSE)
def test_merging_follows_the_definition(tokenizer, text):
    pieces = tokenizer._split(text)
    assert tokens(tokenizer, text) == [t for piece in pieces for t in merge_slowly(piece.encode(), tokenizer.merges)]


@given(st.integers(0, 200), st.binary(max_size=80).map(lambda data: bytes(97 + byte % 4 for byte in data)))
def test_merging_follows_the_definition_for_merges_in_any_order(seed, letters):
    merges = random_merges(seed, 30, b"abcd")
    assert tokens(bpe(merges), letters.decode()) == merge_slowly(letters, merges)


def test_gpt2_ids(shared):
    """GPT-2's own merges, and the ids that llama.cpp publishes for 47 awkward strings."""
    lines = shared("tokenizers/gpt2/vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    merges = [tuple(map(to_bytes, line.split(" "))) for line in lines]
    gpt2 = ByteBPE.from_merges(merges, SPLIT_PATTERNS["gpt2"])
    assert (gpt2.vocab_size, gpt2.end_of_text) == (50257, 50256)
    golden = shared("tokenizers/llama.cpp-golden/ggml-vocab-gpt-2.gguf.inp").read_text(encoding="utf-8")
    strings = golden.split("\n__ggml_vocab_test__\n")
    expected = shared("tokenizers/llama.cpp-golden/ggml-vocab-gpt-2.gguf.out").read_text().splitlines()
    assert len(strings) >= len(expected) >= 46
    for text, line in zip(strings, expected, strict=False):
        assert gpt2.encode(text) == list(map(int, line.split())), text


def test_no_merge_crosses_pieces():
    assert tokens(bpe([(b"a", b" "), (b" ", b"b"), (b"1", b"2"), (b"12", b"3"), (b"123", b"4")]), "a b12345") == [
        b"a",
        b" b",
        b"123",
        b"4",
        b"5",
    ]


def test_special_tokens_are_ordinary_text_unless_allowed():
    tokenizer = bpe([(b"<", b"|")], special_tokens=(END_OF_TEXT, "<|end|>", "<|end|>>"))
    text = f"<|a{END_OF_TEXT}b<|end|>>"
    ordinary = tokenizer.encode(text)
    assert max(ordinary) == 256 and tokenizer.decode(ordinary) == text
    assert tokenizer.special_tokens == {END_OF_TEXT: 257, "<|end|>": 258, "<|end|>>": 259}

    def special(allowed):
        return [token for token in tokenizer.encode(text, allowed_special=allowed) if token >= 257]

    assert special("all") == [257, 259]  # of two that fit, the longer one
    assert special({"<|end|>"}) == [258]
    assert special([END_OF_TEXT]) == [257]
    assert special([]) == special("") == []
    assert tokenizer.encode(END_OF_TEXT * 2, allowed_special="all") == [257, 257]
    assert tokenizer.decode(tokenizer.encode(text, allowed_special="all")) == "<|ab"


@pytest.mark.parametrize(
    "allowed, message",
    [
        ({"<|x|>", END_OF_TEXT}, r"^unknown special tokens \['<\|x\|>'\]; this tokenizer has \['<\|endoftext\|>'\]$"),
        (END_OF_TEXT, r'^allowed_special must be "all" or a set of names, got the string \'<\|endoftext\|>\'$'),
    ],
)
def test_wrong_allowed_special(tokenizer, allowed, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.encode("text", allowed_special=allowed)


def test_a_batch_is_its_texts(tokenizer, texts):
    assert tokenizer.encode_batch(iter(texts)) == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("token", [-1, 1000, 2**40])
def test_ids_out_of_range(tokenizer, token):
    message = rf"^id {token} is not in the vocabulary, whose ids are 0 .. 999$"
    for use in (tokenizer.decode, tokenizer.decode_bytes):
        with pytest.raises(ValueError, match=message):
            use([0, token])
    with pytest.raises(ValueError, match=message):
        tokenizer.token_bytes(token)


def test_half_a_character_is_replaced(tokenizer):
    assert tokenizer.decode(tokenizer.encode_bytes(b"a\xf0\x9f\xa6")) == "a\ufffd"


def test_a_lone_surrogate_is_refused_with_its_place(tokenizer):
    with pytest.raises(
        ValueError, match=r"^character 3 of the text is '\\ud83d', half of a UTF-16 pair and not Unicode"
    ):
        tokenizer.encode("abc\ud83d def")


def test_a_full_cache_changes_nothing(tokenizer, texts, monkeypatch):
    monkeypatch.setattr(byte_bpe, "_CACHE_PIECES", 5)
    small = pickle.loads(pickle.dumps(tokenizer))
    assert small.encode(texts[0]) == tokenizer.encode(texts[0])
    assert len(small._pieces) <= 5 < len(tokenizer._pieces)


def test_a_long_piece_is_not_kept_and_takes_no_time(tokenizer):
    letters = "".join(random.Random(0).choices("etaoinsh", k=200_000))  # one piece; quadratic work would take minutes
    ids = tokenizer.encode(letters)
    assert len(ids) < 160_000 and tokenizer.decode(ids) == letters
    assert letters not in tokenizer._pieces


def test_copies_and_fingerprints(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.fingerprint() == tokenizer.fingerprint()
    merges = list(tokenizer.merges)
    others = [
        ByteBPE.from_merges(merges[:-1], CL100K),
        ByteBPE.from_merges([merges[1], merges[0], *merges[2:]], CL100K),
        ByteBPE.from_merges(merges, SPLIT_PATTERNS["gpt2"]),
        ByteBPE.from_merges(merges, CL100K, [END_OF_TEXT, "<|x|>"]),
    ]
    assert len({one.fingerprint() for one in [tokenizer, *others]}) == 5
    assert len(tokenizer.fingerprint()) == 64


def test_two_merges_may_make_one_token():
    tokenizer = bpe([(b"a", b"a"), (b"aa", b"a"), (b"a", b"aa")])
    assert tokenizer.vocab_size == 256 + 2 + 1
    assert tokenizer.vocabulary[b"aaa"] == 257


BYTES = {bytes([byte]): byte for byte in range(256)}


@pytest.mark.parametrize(
    "vocabulary, merges, special, message",
    [
        (
            {b: i for b, i in BYTES.items() if i < 255},
            [],
            {END_OF_TEXT: 255},
            "lacks 1 of the 256 bytes, the first is 0xff",
        ),
        (BYTES, [(b"a", b"b")], {END_OF_TEXT: 256}, r"merge 0, of b'a' and b'b': b'ab' is not in the vocabulary"),
        ({**BYTES, b"ab": 256}, [(b"a", b"b")] * 2, {END_OF_TEXT: 257}, "merge 1, .* is there already, as merge 0"),
        ({**BYTES, b"ab": 97}, [], {END_OF_TEXT: 256}, "the tokens b'a' and b'ab' have the same id 97"),
        (BYTES, [], {END_OF_TEXT: 257}, "257 tokens must have the ids 0 .. 256, each once, but none has 256"),
        (BYTES, [], {END_OF_TEXT: 3}, "257 tokens must have the ids 0 .. 256, each once, but none has 256"),
        (BYTES, [], {"<|end|>": 256}, r"the special tokens must include '<\|endoftext\|>', got \['<\|end\|>'\]"),
    ],
)
def test_vocabularies_that_do_not_fit_together(vocabulary, merges, special, message):
    with pytest.raises(ValueError, match=message):
        ByteBPE(vocabulary, merges, CL100K, special)
