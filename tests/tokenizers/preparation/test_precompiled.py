import struct
from random import Random

import pytest

from jaxllm.tokenizers.preparation.precompiled import Precompiled, parse_charsmap
from tests.tokenizers.library_models import charsmap
from tests.tokenizers.mixed_texts import mixed_texts


@pytest.fixture(scope="module")
def table() -> bytes:
    return charsmap("nmt_nfkc")


def _unit(offset: int = 0, label: int = 0, leaf: bool = False) -> int:
    return offset << 10 | leaf << 8 | label


# "a" becomes "b": the root's children begin at 0, so that of "a" (0x61) is unit 0x61; its leaf is at 0x61 ^ 0x60 = 1.
def _table_of_a(value: int = 0, replacements: bytes = b"b\0", offset: int = 0x60) -> bytes:
    units = [0] * 0x100
    units[0x61] = _unit(offset, 0x61, leaf=True)
    units[0x61 ^ offset if offset < 0x100 else 1] = 0x80000000 | value
    return struct.pack("<I256I", 4 * len(units), *units) + replacements


def test_a_table_by_hand():
    assert parse_charsmap(_table_of_a()) == {"a": "b"}
    assert Precompiled(_table_of_a())("banana") == "bbnbnb"
    assert parse_charsmap(b"") == {}


def test_a_real_table(table):
    found = parse_charsmap(table)
    assert found["ﬁ"] == "fi" and found["e\u0301"] == "é" and found["\t"] == " " and found["\x01"] == ""
    assert len(found) > 5_000


def test_it_is_what_the_tokenizers_library_does(table, texts):
    hf = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    theirs, ours = hf.normalizers.Precompiled(table), Precompiled(table)
    keys, random = list(parse_charsmap(table)), Random(1)
    mixed = ["".join(random.choices([*keys, "a", "é", " ", "\r\n", "\u200d"], k=8)) for _ in range(700)]
    for text in [*mixed_texts(500, texts), *mixed]:
        assert ours(text) == theirs.normalize_str(text)
        assert ours.aligned(text)[0] == ours(text)


def test_spans(table):
    normalizer = Precompiled(table)
    assert normalizer.aligned("ﬁ\u0301") == ("fi", [(0, 1), (1, 2)])  # one grapheme, replaced as a whole
    # The ligature becomes two characters, the combined letter one, and of two control characters none is left.
    assert normalizer.aligned("aﬁe\u0301b\x01\x02c") == (
        "afiébc",
        [(0, 1), (1, 2), (1, 2), (2, 3), (4, 5), (7, 8)],
    )


@pytest.mark.parametrize(
    "damaged, message",
    [
        (b"\x08", "is damaged: its trie should take 1 of them"),
        (struct.pack("<I", 1 << 30) + b"\0" * 64, "its trie should take 1073741824 of them"),
        (_table_of_a()[:-1], "cut off: its last replacement does not end"),
        (_table_of_a(value=50), "is damaged: "),
        (_table_of_a(offset=0x3FFFF), "its trie points outside itself"),
        (_table_of_a(replacements=b"\xff\0"), "is damaged: 'utf-8' codec can't decode"),
    ],
)
def test_a_damaged_table(damaged, message):
    with pytest.raises(ValueError, match=message):
        Precompiled(damaged)


@pytest.mark.parametrize("letters", ["a", "ab"])
def test_a_trie_that_goes_in_circles(letters):
    units = [0] * 0x100
    for code in map(ord, letters):
        units[code] = _unit(code, code)  # below it there is what is below the root
    with pytest.raises(ValueError, match="has a loop, or keys beyond measure"):
        parse_charsmap(struct.pack("<I256I", 4 * len(units), *units) + b"b\0")
