import copy
import json
import random
import sys
import unicodedata
from pydoc_data.topics import topics

import pytest

from jaxllm.tokenizers import END_OF_TEXT, PipelineTokenizer, load, train_byte_bpe
from jaxllm.tokenizers.formats.tokenizer_json import describe, parse
from jaxllm.tokenizers.preparation.split_patterns import SPLIT_PATTERNS

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
def trained(request, texts) -> PipelineTokenizer:
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
    assert loaded.fingerprint() == trained.fingerprint()
    assert (loaded.special_tokens, loaded.vocabulary.merges) == (trained.special_tokens, trained.vocabulary.merges)
    assert loaded.encode_batch(texts) == trained.encode_batch(texts)


def test_merges_may_be_lists(trained):
    description = describe(trained)
    description["model"]["merges"] = [merge.split(" ") for merge in description["model"]["merges"]]
    assert parse(description, roles=trained.roles).fingerprint() == trained.fingerprint()


REAL = ("qwen/qwen2_5_tokenizer.json", "bert/tokenizer.json")


@pytest.mark.parametrize("name", REAL)
def test_a_real_file_gives_the_ids_text_and_offsets_of_the_tokenizers_library(shared, name):
    hf = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    file = shared(f"tokenizers/{name}")
    tokenizer, library = load(file), hf.Tokenizer.from_file(str(file))
    library.no_truncation()
    library.no_padding()
    strings = [*AWKWARD, *(topics[name] for name in ("class", "try")), *latin(2000)]
    for text in strings:
        expected = library.encode(text, add_special_tokens=False)
        ids, offsets = tokenizer.encode_with_offsets(text, allowed_special="all")
        assert ids == expected.ids == tokenizer.encode(text, allowed_special="all"), repr(text)
        if unicodedata.is_normalized("NFC", text):  # where marks compose, the library leaves out some of their sources
            assert offsets == expected.offsets, repr(text)
        assert tokenizer.decode(ids) == library.decode(ids), repr(text)
        framed = tokenizer.encode(text, allowed_special="all", add_special_tokens=True)
        assert framed == library.encode(text).ids, repr(text)


@pytest.mark.parametrize("name", REAL)
def test_a_real_file_comes_back_as_it_was(shared, name):
    original = json.loads(shared(f"tokenizers/{name}").read_text(encoding="utf-8"))
    written = describe(parse(original))
    assert written["model"]["vocab"].items() >= original["model"]["vocab"].items()
    for part in ("added_tokens", "normalizer", "truncation", "padding"):
        assert written[part] == original[part], part
    assert written["model"].get("merges") == original["model"].get("merges")
    assert describe(parse(written)) == written


def latin(count: int) -> list[str]:
    """Strings of characters that every version of Unicode tables knows alike."""
    choose = random.Random(1)
    characters = [chr(i) for i in (*range(0x20, 0x250), *range(0x370, 0x460), *range(0x4E00, 0x4F00))] + [" "] * 200
    return ["".join(choose.choices(characters, k=choose.randint(1, 40))) for _ in range(count)]


SPLIT = 0
LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
BERT = {"type": "BertProcessing", "cls": ["a", 1], "sep": ["b", 2]}
TWICE = {"type": "Sequence", "processors": [BERT, BERT]}
NESTED: dict = {"type": "NFC"}
for _ in range(12):
    NESTED = {"type": "Sequence", "normalizers": [NESTED]}
EOT = {"id": 999, "content": END_OF_TEXT, "special": True}


@pytest.mark.parametrize(
    "path, value, message",
    [
        (["model"], None, "model must be an object, found NoneType"),
        (["model", "type"], "Unigram", "the model 'Unigram' with the pre_tokenizer ByteLevel is not supported"),
        (["model", "type"], "Odd", "the model 'Odd' with the pre_tokenizer ByteLevel is not supported; only BPE is"),
        (["model", "dropout"], 0.1, "the model's feature dropout=0.1 is not supported"),
        (
            ["model", "byte_fallback"],
            True,
            "the model's feature byte_fallback=True is not supported in",
        ),
        (["model", "byte_fallback"], 3, "the model's byte_fallback must be bool, found 3"),
        (["model", "end_of_word_suffix"], "</w>", "the model's feature end_of_word_suffix='</w>' is not supported in"),
        (["model", "vocab"], [], "vocab must be an object, found list"),
        (["model", "vocab", "Ġ"], "3", "the id of 'Ġ' is '3', not an integer"),
        (["model", "vocab", "日"], 3, "'日' is not written in the byte alphabet: it has the character '日'"),
        (["model", "vocab", "Ġ"], 5000, "1000 tokens must have ids from 0 on with few gaps, but theirs are 0 to 5000"),
        (["model", "vocab", "Ġ"], 5, "the tokens b'.*' and b'.*' have the same id 5"),
        (
            ["model", "vocab", END_OF_TEXT],
            5,
            r"the added token '<\|endoftext\|>' has the id 999, but another",
        ),
        (["model", "merges"], None, "merges must be a list, found NoneType"),
        (["model", "merges", 3], "Ġ", "merge 3 must be two tokens, found 'Ġ'"),
        (["model", "merges", 3], ["Ġ", 7], r"merge 3 must be two tokens, found \['Ġ', 7\]"),
        (["model", "merges", 0], "Ġ Ā", r"merge 0, of b' ' and b'\\x00': b' \\x00' is not in the vocabulary"),
        (["normalizer"], {"type": "Odd"}, "the normalizer 'Odd' is not supported"),
        (
            ["normalizer"],
            {"type": "Replace", "pattern": "x", "content": ""},
            "the normalizer Replace: the pattern",
        ),
        (["normalizer"], {"type": "NFC", "extra": 1}, "the normalizer NFC: NFC has no setting extra"),
        (["normalizer"], NESTED, "the normalizer has Sequences nested more than 8 deep"),
        (["normalizer"], {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 101}, "the normalizer has 101 steps"),
        (["normalizer"], {"type": "Precompiled", "precompiled_charsmap": "$"}, "the normalizer Precompiled: .* base64"),
        (
            ["post_processor"],
            {"type": "TemplateProcessing"},
            "the post_processor TemplateProcessing is not supported in",
        ),
        (["post_processor"], TWICE, "the post_processor BertProcessing comes after another one that adds tokens"),
        (["truncation"], 5, "truncation must be an object, found int"),
        (["decoder"], {"type": "CTC"}, "the decoder 'CTC' is not supported"),
        (
            ["decoder"],
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            "the decoder Strip is not supported",
        ),
        (["pre_tokenizer"], {"type": "UnicodeScripts"}, "the pre_tokenizer 'UnicodeScripts' is not supported"),
        (
            ["pre_tokenizer", "pretokenizers"],
            [LEVEL, LEVEL],
            "the pre_tokenizer ByteLevel is supported as the",
        ),
        (
            ["pre_tokenizer", "pretokenizers", SPLIT, "behavior"],
            "Odd",
            "the pre_tokenizer Split: the behavior",
        ),
        (
            ["pre_tokenizer", "pretokenizers", SPLIT, "pattern", "Regex"],
            "(",
            r"the pre_tokenizer Split: '\(' is not",
        ),
        (["added_tokens"], [EOT, EOT], r"the added token '<\|endoftext\|>' occurs twice"),
        (["added_tokens"], [{**EOT, "lstrip": 1}], r"the added token '<\|endoftext\|>': lstrip must be true or false"),
        (["added_tokens"], [{**EOT, "id": True}], "an added token must have a content and an id, found"),
        (["added_tokens"], ["x"], "an added token must have a content and an id, found 'x'"),
        (
            ["added_tokens"],
            [{**EOT, "id": 10**9}],
            "the added token .* has the id 1000000000, but another",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tokenizer, tmp_path, path, value, message):
    description = copy.deepcopy(describe(tokenizer))
    place = description
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{file}: ({message})"):
        load(tmp_path)
