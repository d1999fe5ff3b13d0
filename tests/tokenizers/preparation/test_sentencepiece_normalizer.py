from dataclasses import replace
from itertools import product
from random import Random

import pytest

from jaxllm.tokenizers.preparation.precompiled import parse_charsmap
from jaxllm.tokenizers.preparation.sentencepiece_normalizer import SentencePieceNormalizer
from tests.tokenizers.library_models import charsmap, library
from tests.tokenizers.mixed_texts import mixed_texts


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nfkc", "identity"])
def test_texts_and_places_are_the_librarys(rule, texts):
    table = charsmap(rule)
    keys, random = [*parse_charsmap(table), "x"], Random(2)
    parts = [*random.sample(keys, min(len(keys), 200)), " ", "  ", "▁", "a", "\x01", "\u00a0", "¨", "\u0301"]
    mixed = ["".join(random.choices(parts, k=random.randrange(10))) for _ in range(150)]
    for prefix, remove, escape in product((False, True), repeat=3):
        theirs = library().SentencePieceNormalizer(
            rule_name=rule, add_dummy_prefix=prefix, remove_extra_whitespaces=remove, escape_whitespaces=escape
        )
        ours = SentencePieceNormalizer(table, prefix, remove, escape)
        for text in [*mixed_texts(60, texts), *mixed]:
            expected, places = theirs.normalize(text, with_offsets=True)
            rewritten, spans = ours.aligned(text)
            assert ours(text) == rewritten == expected
            assert [begin for begin, _ in spans] == places[:-1]


def test_the_longest_key_from_the_left_is_replaced():
    """In tables of the library's own making, whose keys overlap."""
    schema = pytest.importorskip("sentencepiece.sentencepiece_model_pb2", reason="protobuf is not installed")
    random = Random(3)
    for _ in range(60):
        keys = {"".join(random.choices("abc", k=random.randrange(1, 5))) for _ in range(5)}
        table = {key: "".join(random.choices("xy ", k=random.randrange(3))) for key in sorted(keys)}
        theirs = library().SentencePieceNormalizer(norm_map=list(table.items()))
        model = schema.ModelProto()
        model.ParseFromString(theirs.serialized_model_proto())
        rules = model.normalizer_spec
        ours = SentencePieceNormalizer(
            rules.precompiled_charsmap, rules.add_dummy_prefix, rules.remove_extra_whitespaces, rules.escape_whitespaces
        )
        for _ in range(40):
            text = "".join(random.choices("abcd ", k=random.randrange(12)))
            assert ours(text) == ours.aligned(text)[0] == theirs.normalize(text)


def test_spans():
    normalizer = SentencePieceNormalizer(charsmap("nmt_nfkc"))
    assert normalizer.aligned(" ﬁ  e\u0301 ") == ("▁fi▁é", [(1, 1), (1, 2), (1, 2), (2, 3), (4, 6)])


def test_user_defined_tokens_are_left_alone():
    normalizer = SentencePieceNormalizer(charsmap("nmt_nfkc"), user_defined=("ﬁ", "ﬁﬀ"))
    assert normalizer("ﬁﬀ ﬁ ﬀ") == normalizer.aligned("ﬁﬀ ﬁ ﬀ")[0] == "▁ﬁﬀ▁ﬁ▁ff"


def test_a_space_after_the_text():
    normalizer = SentencePieceNormalizer(treat_whitespace_as_suffix=True)
    assert normalizer.aligned(" a b ") == ("a▁b▁", [(1, 2), (2, 3), (3, 4), (4, 4)])
    assert normalizer(" a b ") == "a▁b▁"


@pytest.mark.parametrize("remove, expected", [(True, ""), (False, "▁▁▁")])
def test_nothing_but_spaces(remove, expected):
    assert SentencePieceNormalizer(remove_extra_whitespaces=remove)("  ") == expected
    assert SentencePieceNormalizer()("") == ""


def test_quick_and_careful_agree_where_tokens_have_spaces(texts):
    plain = SentencePieceNormalizer(user_defined=("foo bar", "  "))
    for text in mixed_texts(300, texts):
        assert plain(text) == plain.aligned(text)[0]
    assert plain("a   foo bar  ") == "▁a▁▁foo▁bar"  # the two spaces are a token, the third is one too many
    assert replace(plain, remove_extra_whitespaces=False)("  ") == "▁▁▁"


def test_a_damaged_table_is_found_at_once():
    with pytest.raises(ValueError, match="^the precompiled table of 3 bytes is damaged"):
        SentencePieceNormalizer(b"abc")
