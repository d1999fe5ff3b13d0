import pytest

from jaxllm.tokenizers.vocabularies.unknown_characters import UnknownCharacters

_IDS = {"<unk>": 0, "a": 1} | {f"<0x{byte:02X}>": 2 + byte for byte in range(256)}
_SEGMENTS = [(0, 1, 1), (1, 3, None), (3, 4, None), (4, 5, 1)]


def test_they_become_one_token_or_several():
    fused, apart = (UnknownCharacters(_IDS, 0, False, fuse) for fuse in (True, False))
    assert list(fused.resolve("aéxya", _SEGMENTS)) == [(1, (0, 1)), (0, (1, 4)), (1, (4, 5))]
    assert list(apart.resolve("aéxya", _SEGMENTS)) == [(1, (0, 1)), (0, (1, 3)), (0, (3, 4)), (1, (4, 5))]
    assert list(fused.resolve("é", [(0, 1, None)])) == [(0, (0, 1))]


def test_they_become_bytes_each_of_its_own_character():
    found = UnknownCharacters(_IDS, 0, True, True).resolve("aéxya", _SEGMENTS)
    expected = [
        (1, (0, 1)),
        (2 + 0xC3, (1, 2)),
        (2 + 0xA9, (1, 2)),
        (2 + 0x78, (2, 3)),
        (2 + 0x79, (3, 4)),
        (1, (4, 5)),
    ]
    assert list(found) == expected


def test_they_are_refused():
    with pytest.raises(ValueError, match="^the vocabulary has no token for 'éx', and none for unknown characters$"):
        list(UnknownCharacters(_IDS, None, False, True).resolve("aéxya", _SEGMENTS))
    with pytest.raises(ValueError, match="but there is no <0x00>$"):
        UnknownCharacters({"a": 0}, None, True, True)
