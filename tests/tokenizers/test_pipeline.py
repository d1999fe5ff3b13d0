"""The stages together: special tokens, offsets, decoding, and what is refused."""

import pickle
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.added_tokens import AddedToken
from jaxllm.tokenizers.decoders import ByteLevel, Decoder, Fuse, Replace, Strip
from jaxllm.tokenizers.pipeline import PipelineTokenizer
from jaxllm.tokenizers.preparation.cuts import Split
from jaxllm.tokenizers.preparation.metaspace import Metaspace
from jaxllm.tokenizers.preparation.normalizers import NFC, NFKC, Lowercase
from jaxllm.tokenizers.preparation.patterns import Regex
from jaxllm.tokenizers.preparation.split_patterns import SPLIT_PATTERNS
from jaxllm.tokenizers.protocol import Tokenizer
from jaxllm.tokenizers.streaming import StreamingDecoder
from jaxllm.tokenizers.template import Template
from jaxllm.tokenizers.training.train_byte_bpe import learn_merges
from jaxllm.tokenizers.vocabularies.byte_bpe import ByteLevelBPE

END, USER = "<|end|>", "<|user|>"
CUT = Split(Regex(SPLIT_PATTERNS["gpt2"]))
WORDS = Counter({" the": 9, " then": 5, "the": 4, " caf\u00e9": 6, " 日本": 5, "ing": 7, " sing": 3})


@pytest.fixture(scope="module")
def vocabulary() -> ByteLevelBPE:
    return ByteLevelBPE.from_merges(learn_merges(WORDS, 30)[1])


def build(vocabulary, **settings) -> PipelineTokenizer:
    size = len(vocabulary.vocabulary)
    added = [AddedToken(END, size), AddedToken(USER, size + 1), AddedToken("日本国", size + 2, special=False)]
    defaults = {"added_tokens": added, "pre_tokenizer": [CUT], "decoder": Decoder([ByteLevel()])}
    return PipelineTokenizer(vocabulary, **{**defaults, "roles": {"eos_token": END}, **settings})


@pytest.fixture(scope="module")
def tokenizer(vocabulary) -> PipelineTokenizer:
    return build(vocabulary)


def test_it_is_a_tokenizer(tokenizer, vocabulary):
    assert isinstance(tokenizer, Tokenizer)
    size = len(vocabulary.vocabulary)
    assert tokenizer.vocab_size == size + 3
    assert tokenizer.special_tokens == {END: size, USER: size + 1}
    assert tokenizer.end_of_text == size
    assert tokenizer.token_text(size + 2) == "日本国" and tokenizer.token_bytes(size) == b""


def test_special_tokens_have_to_be_allowed(tokenizer):
    text = f"the{END} the{USER}"
    ordinary = tokenizer.encode(text)
    assert not {tokenizer.end_of_text, tokenizer.special_tokens[USER]} & set(ordinary)
    assert tokenizer.decode(ordinary) == text
    assert tokenizer.encode(text, allowed_special="all").count(tokenizer.end_of_text) == 1
    only = tokenizer.encode(text, allowed_special={USER})
    assert only[-1] == tokenizer.special_tokens[USER] and tokenizer.end_of_text not in only
    assert tokenizer.decode(only) == f"the{END} the"
    assert tokenizer.decode(only, skip_special_tokens=False) == text


def test_special_tokens_can_be_disallowed(tokenizer):
    with pytest.raises(ValueError, match=r"the text has the special token '<\|user\|>' at character 4"):
        tokenizer.encode(f"the {USER}", disallowed_special="all")
    with pytest.raises(ValueError, match=r"special token '<\|end\|>' at character 0"):
        tokenizer.encode(f"{END}{USER}", allowed_special={USER}, disallowed_special="all")
    assert tokenizer.encode(USER, disallowed_special={END}) == tokenizer.encode(USER)
    assert tokenizer.encode(USER, allowed_special={USER}, disallowed_special="all") == [tokenizer.special_tokens[USER]]


def test_wrong_names_of_special_tokens(tokenizer):
    with pytest.raises(ValueError, match=r"unknown special tokens \['<s>'\]; this tokenizer has"):
        tokenizer.encode("x", allowed_special={"<s>"})
    with pytest.raises(ValueError, match='disallowed_special must be "all" or a set of names, got the string'):
        tokenizer.encode("x", disallowed_special=END)


def test_words_added_by_hand_are_always_found(tokenizer):
    assert tokenizer.encode("a 日本国 日本")[2] == tokenizer.vocab_size - 1
    assert tokenizer.decode(tokenizer.encode("a 日本国 日本")) == "a 日本国 日本"


def test_words_added_by_hand_are_not_in_the_byte_alphabet(vocabulary):
    """ "é" is the byte 0xE9 there, which is no text."""
    word = AddedToken("é", len(vocabulary.vocabulary), special=False)
    added = build(vocabulary, added_tokens=[word], roles={})
    assert added.decode(added.encode("café")) == "café" and added.encode("é") == [word.id]


@given(text=st.text())
def test_any_text_comes_back_and_offsets_cover_it(tokenizer, text):
    ids, offsets = tokenizer.encode_with_offsets(text, allowed_special="all")
    assert ids == tokenizer.encode(text, allowed_special="all")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    # Ascending, without gaps: tokens of one character's bytes overlap in it.
    ends = [0, *(end for _, end in offsets)]
    assert all(begin <= last <= end for (begin, end), last in zip(offsets, ends, strict=False))
    assert ends[-1] == len(text)


def test_offsets_go_back_through_rewrites(vocabulary):
    rewriting = build(vocabulary, normalizer=[NFKC(), Lowercase()])
    text = "ﬁ THE cafe\u0301" + END
    ids, offsets = rewriting.encode_with_offsets(text, allowed_special="all")
    assert ids == [*rewriting.encode("fi the café"), rewriting.end_of_text]
    by_token = {rewriting.token_bytes(i): text[a:b] for i, (a, b) in zip(ids, offsets, strict=True)}
    assert by_token[b" the"] == " THE" and by_token[" café".encode()] == " cafe\u0301" and by_token[b""] == END
    assert by_token[b"f"] == by_token[b"i"] == "ﬁ"


def test_normalized_words_are_found_after_normalization(vocabulary):
    size = len(vocabulary.vocabulary)
    words = [AddedToken("É", size, special=False, normalized=True), AddedToken(END, size + 1)]
    rewriting = build(vocabulary, added_tokens=words, normalizer=[NFC(), Lowercase()])
    ids, offsets = rewriting.encode_with_offsets("e\u0301 É")
    assert ids.count(size) == 2 and offsets[0] == (0, 2)
    assert rewriting.encode("e\u0301 É") == ids


def test_a_space_before_the_first_word_only(vocabulary):
    decoder = Decoder([Replace("▁", " "), Fuse(), Strip(" ", 1, 0)])
    first = build(vocabulary, pre_tokenizer=[*Metaspace("▁", "first").stages()], decoder=decoder)
    always = build(vocabulary, pre_tokenizer=[*Metaspace("▁", "always").stages()], decoder=decoder)
    text = f"ab{END}cd"
    meta = vocabulary.encode_piece("▁")
    count = lambda ids: sum(tuple(ids[i : i + len(meta)]) == meta for i in range(len(ids)))  # noqa: E731
    assert count(first.encode(text, allowed_special="all")) == 1
    assert count(always.encode(text, allowed_special="all")) == 2
    assert first.encode(text, allowed_special="all") == first.encode_with_offsets(text, allowed_special="all").ids


def test_the_template_stands_around_a_text(vocabulary):
    size = len(vocabulary.vocabulary)
    framed = build(vocabulary, template=Template(((size + 1, 0), ("A", 0), (size, 0))))
    assert framed.encode("the", add_special_tokens=True) == [size + 1, *framed.encode("the"), size]
    with pytest.raises(ValueError, match="the template names the id 9999, which no token has"):
        build(vocabulary, template=Template(((9999, 0), ("A", 0))))


def test_a_stream_gives_what_decoding_gives(vocabulary):
    decoder = Decoder([Replace("Ġ", " "), Fuse(), Strip(" ", 1, 0)])
    plain = build(vocabulary, decoder=decoder)
    ids = [plain.end_of_text, *plain.encode(" the cat"), plain.end_of_text]
    stream = StreamingDecoder(plain)
    for _ in range(2):
        assert "".join(map(stream.push, ids)) + stream.flush() == plain.decode(ids) == "the cat"


@given(text=st.text())
def test_a_stream_never_shows_half_a_character(tokenizer, text):
    stream = StreamingDecoder(tokenizer)
    shown = [stream.push(i) for i in tokenizer.encode(text)]
    assert "".join(shown) + stream.flush() == text


def test_a_copy_in_another_process(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode(f"the café{END}", allowed_special="all") == tokenizer.encode(
        f"the café{END}", allowed_special="all"
    )


def test_half_a_utf_16_pair_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"character 3 of the text is '\\udc80', half of a UTF-16 pair"):
        tokenizer.encode("the\udc80")


@pytest.mark.parametrize("call", ["decode", "token_bytes", "token_text"])
def test_ids_out_of_range(tokenizer, call):
    for wrong in (-1, tokenizer.vocab_size, 10**9):
        with pytest.raises(
            ValueError, match=rf"id {wrong} is not in the vocabulary, whose ids are 0 .. {tokenizer.vocab_size - 1}"
        ):
            getattr(tokenizer, call)([wrong] if call == "decode" else wrong)


def test_ids_may_have_gaps_but_not_more_than_tokens(vocabulary):
    size = len(vocabulary.vocabulary)
    gaps = build(vocabulary, added_tokens=[AddedToken(END, size + 5)])
    assert gaps.vocab_size == size + 6
    with pytest.raises(ValueError, match=f"no token of the vocabulary has the id {size}"):
        gaps.decode([size])
    with pytest.raises(ValueError, match="must have ids from 0 on with few gaps, but theirs are 0 to 1000000000"):
        build(vocabulary, added_tokens=[AddedToken(END, 10**9)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"added_tokens": [AddedToken(END, 400), AddedToken(END, 401)]}, "has two ids, 400 and 401"),
        ({"added_tokens": [AddedToken(END, 65)]}, "the id 65 stands for two tokens, 'b' and the added '<|end|>'"),
        ({"roles": {"eos_token": "</s>"}}, "the eos_token is '</s>', but the vocabulary has no such token"),
    ],
)
def test_tokens_that_do_not_go_together(vocabulary, settings, message):
    with pytest.raises(ValueError) as refused:
        build(vocabulary, **settings)
    assert message in str(refused.value)


def test_the_end_of_a_text_must_be_known_when_it_is_asked_for(vocabulary):
    with pytest.raises(ValueError, match="it is not known which token ends a document: name one of the special tokens"):
        build(vocabulary, roles={}).end_of_text  # noqa: B018


def test_its_own_chat_template(vocabulary):
    with pytest.raises(ValueError, match="this tokenizer has no chat template; choose one of"):
        build(vocabulary).apply_chat_template([{"role": "user", "content": "the"}])
    source = "{% for m in messages %}<|user|>{{ m.content }}{{ eos_token }}{% endfor %}"
    chat = build(vocabulary, chat_template=source)
    found = chat.apply_chat_template([{"role": "user", "content": f"the{END}"}])
    assert found.text == f"{USER}the{END}{END}"
    assert found.ids == [chat.special_tokens[USER], *chat.encode(f"the{END}"), chat.end_of_text]


def test_pieces_are_what_a_vocabulary_is_trained_on(vocabulary):
    assert build(vocabulary, normalizer=[Lowercase()]).pieces("The CAT") == ["the", " cat"]
