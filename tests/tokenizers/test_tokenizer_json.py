import copy
import json
import random
import sys
import unicodedata

import pytest

from jaxllm.tokenizers import END_OF_TEXT, ByteBPE, load, train_byte_bpe
from jaxllm.tokenizers.split_patterns import SPLIT_PATTERNS

AWKWARD = [
    "",
    " ",
    "  \n\n \t x",
    "\r\n\r\n  a\r b",
    "it's IT'S 'll'LL 'ſ don’t",
    "123456789 1,234.5 ٣٤٥ ½²",
    "🦙 👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 ﬁ ß İ",
    "日本語テキスト 한국어 עברית العربية हिन्दी ไทย",
    "\x00\x01\x1c\x85\xa0\u2028\u3000\ufeff\U0010ffff",
    "def f(x):\n    return x**2  # comment\n\n\n",
    "-" * 300 + "=" * 7,
    f"{END_OF_TEXT}x{END_OF_TEXT[:-1]} <|endoftext",
]


def fuzz(count: int, seed: int) -> list[str]:
    """Strings over all planes, of ASCII, of white space, and of both mixed."""
    choose = random.Random(seed)
    # Characters that an engine's tables of Unicode may not have yet are letters to one and nothing to the other.
    assigned = [chr(i) for i in range(sys.maxunicode) if unicodedata.category(chr(i)) not in ("Cn", "Cs")]
    ascii_characters = [chr(i) for i in range(128)]
    white = list(" \t\n\r\x0b\x0c\x1c\x85\xa0\u2003\u2028\u3000") + ["'s", "'LL", "'re", "42", "the", "--", "é"]
    alphabets = [assigned, ascii_characters, white, assigned[:3000], white + assigned[:700]]
    return ["".join(choose.choices(choose.choice(alphabets), k=choose.randint(1, 40))) for _ in range(count)]


@pytest.fixture(scope="module", params=list(SPLIT_PATTERNS))
def trained(request, texts) -> ByteBPE:
    return train_byte_bpe([*texts, *AWKWARD * 2], 1500, split_pattern=SPLIT_PATTERNS[request.param])


@pytest.fixture
def library(trained, tmp_path):
    """The same tokenizer, as the tokenizers library reads it."""
    hf = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    trained.save(tmp_path)
    return hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))


def test_the_tokenizers_library_gives_the_same_ids(trained, library, texts):
    library.encode_special_tokens = True  # the text of a special token is text, which is the default here
    strings = [*AWKWARD, *texts, *fuzz(20_000, seed=0)]
    for text, found, expected in zip(
        strings, trained.encode_batch(strings), library.encode_batch(strings), strict=True
    ):
        assert found == expected.ids, repr(text)


def test_the_tokenizers_library_gives_the_same_special_tokens_and_text(trained, library):
    text = f"a{END_OF_TEXT} b 🦙{END_OF_TEXT}"
    ids = trained.encode(text, allowed_special="all")
    assert ids == library.encode(text).ids and ids.count(trained.end_of_text) == 2
    assert trained.decode(ids) == library.decode(ids, skip_special_tokens=True) == "a b 🦙"


def test_a_file_comes_back(trained, texts, tmp_path):
    trained.save(tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded, ByteBPE)
    assert loaded.fingerprint() == trained.fingerprint()
    assert (loaded.special_tokens, loaded.merges) == (trained.special_tokens, trained.merges)
    assert loaded.encode_batch(texts) == trained.encode_batch(texts)


def test_merges_may_be_lists(trained):
    description = trained.description()
    description["model"]["merges"] = [merge.split(" ") for merge in description["model"]["merges"]]
    assert ByteBPE.from_description(description).fingerprint() == trained.fingerprint()


def test_a_real_file_with_more_features_is_refused_by_their_name(shared):
    with pytest.raises(ValueError, match=r"qwen2_5_tokenizer.json: the normalizer NFC is not supported$"):
        load(shared("tokenizers/qwen/qwen2_5_tokenizer.json"))
    with pytest.raises(
        ValueError, match="tokenizer.json: the model is of type 'WordPiece'; only \"BPE\" is supported$"
    ):
        load(shared("tokenizers/bert"))


SPLIT, BYTE_LEVEL = 0, 1
EOT = {"id": 999, "content": END_OF_TEXT, "special": True}


@pytest.mark.parametrize(
    "path, value, message",
    [
        (["model"], None, "model must be an object, found NoneType"),
        (["model", "type"], "Unigram", "the model is of type 'Unigram'; only \"BPE\" is supported"),
        (["model", "dropout"], 0.1, "the model's feature dropout=0.1 is not supported"),
        (["model", "byte_fallback"], True, "the model's feature byte_fallback=True is not supported"),
        (["model", "ignore_merges"], True, "the model's feature ignore_merges=True is not supported"),
        (["model", "end_of_word_suffix"], "</w>", "the model's feature end_of_word_suffix='</w>' is not supported"),
        (["model", "vocab"], [], "vocab must be an object, found list"),
        (["model", "vocab", "Ġ"], "3", "the id of 'Ġ' is '3', not an integer"),
        (["model", "vocab", "日"], 3, "'日' is not written in the byte alphabet: it has the character '日'"),
        (["model", "vocab", "Ġ"], 5000, "1000 tokens must have the ids 0 .. 999, each once, but none has 220"),
        (["model", "vocab", END_OF_TEXT], 5, r"the added token '<\|endoftext\|>' has the id 999, but 5 in the vocab"),
        (["model", "merges"], None, "merges must be a list, found NoneType"),
        (["model", "merges", 3], "Ġ", "merge 3 must be two tokens, found 'Ġ'"),
        (["model", "merges", 3], ["Ġ", 7], r"merge 3 must be two tokens, found \['Ġ', 7\]"),
        (["model", "merges", 0], "Ġ Ā", r"merge 0, of b' ' and b'\\x00': b' \\x00' is not in the vocabulary"),
        (["normalizer"], {"type": "NFC"}, "the normalizer NFC is not supported"),
        (["post_processor"], {"type": "TemplateProcessing"}, "the post_processor TemplateProcessing is not supported"),
        (["truncation"], {"max_length": 5}, r"the truncation \{'max_length': 5\} is not supported"),
        (["decoder"], {"type": "WordPiece"}, "the decoder WordPiece is not supported; expected ByteLevel"),
        (["decoder"], None, "decoder must be an object, found NoneType"),
        (["pre_tokenizer"], {"type": "Metaspace"}, "the pre_tokenizer Metaspace is not supported in this form"),
        (
            ["pre_tokenizer", "pretokenizers", SPLIT, "behavior"],
            "Removed",
            "the pre_tokenizer Sequence of Split, ByteLevel is not supported in this form; expected a Sequence of an",
        ),
        (
            ["pre_tokenizer", "pretokenizers", BYTE_LEVEL, "add_prefix_space"],
            True,
            "the pre_tokenizer Sequence of Split, ",
        ),
        (
            ["pre_tokenizer", "pretokenizers", SPLIT, "pattern", "Regex"],
            "(",
            r"the split pattern '\(' is not a regular",
        ),
        (["added_tokens"], [EOT, EOT], r"the added token '<\|endoftext\|>' occurs twice"),
        (["added_tokens"], [{**EOT, "lstrip": True}], r"the added token '<\|endoftext\|>' is lstrip, which is not"),
        (["added_tokens"], [{**EOT, "special": False}], r"the added token '<\|endoftext\|>' is not special, which is"),
        (["added_tokens"], ["x"], "an added token must have a content and an id, found 'x'"),
        (["added_tokens"], [], r"the special tokens must include '<\|endoftext\|>', got \[\]"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tokenizer, tmp_path, path, value, message):
    description = copy.deepcopy(tokenizer.description())
    place = description
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{file}: ({message})"):
        load(tmp_path)
