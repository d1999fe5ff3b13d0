from jaxllm.tokenizers.training.character_coverage import covered_characters, cut_at_others

_PIECES = {"bba": 5, "ac": 3, "e": 1, "d": 1}


def test_the_most_frequent_characters_are_covered():
    assert covered_characters(_PIECES, 1.0) == ["b", "a", "c", "d", "e"]
    assert covered_characters(_PIECES, 18 / 23) == ["b", "a"]
    assert covered_characters(_PIECES, 18.1 / 23) == ["b", "a", "c"]
    assert covered_characters(_PIECES, 22 / 23) == ["b", "a", "c", "d"]
    assert covered_characters({}, 1.0) == []


def test_pieces_are_cut_at_other_characters():
    assert cut_at_others({"aab": 5, "xab": 2, "ayyb": 3, "z": 1}, ["a", "b"]) == {"aab": 5, "ab": 2, "a": 3, "b": 3}
