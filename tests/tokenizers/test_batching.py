import numpy as np
import pytest

from jaxllm.tokenizers.batching import pad, truncate


def test_what_is_too_much_is_cut_off():
    assert truncate([1, 2, 3], 2) == [1, 2] and truncate([1, 2, 3], 2, "left") == [2, 3]
    assert truncate([1], 2) == [1] and truncate([1, 2], 0) == truncate([1, 2], 0, "left") == []
    with pytest.raises(ValueError, match="can't be cut to a length of -1"):
        truncate([1], -1)


def test_rows_are_filled_up():
    ids, mask = pad([[1, 2, 3], [4], []], 9)
    assert ids.tolist() == [[1, 2, 3], [4, 9, 9], [9, 9, 9]] and ids.dtype == np.int32
    assert mask.tolist() == [[True] * 3, [True, False, False], [False] * 3]
    ids, mask = pad([[1, 2, 3], [4]], 9, multiple=4, side="left")
    assert ids.tolist() == [[9, 1, 2, 3], [9, 9, 9, 4]] and mask[1].tolist() == [False] * 3 + [True]
    assert pad([[1]], 9, length=3, multiple=2)[0].shape == (1, 4)
    assert pad([], 9)[0].shape == (0, 0)
    with pytest.raises(ValueError, match="a row of 3 ids is longer than 2: truncate it first"):
        pad([[1, 2, 3]], 9, length=2)


def test_the_tokenizers_library_fills_up_so():
    hf = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    words = {"[PAD]": 0, "a": 1, "b": 2}
    library = hf.Tokenizer(hf.models.WordLevel(words, unk_token="[PAD]"))
    library.pre_tokenizer = hf.pre_tokenizers.WhitespaceSplit()
    texts = ["a b a", "b", "a b a b a"]
    for side in ("left", "right"):
        library.no_padding()
        library.enable_truncation(4, direction=side)
        rows = [[words[word] for word in text.split()] for text in texts]
        assert [truncate(row, 4, side) for row in rows] == [e.ids for e in library.encode_batch(texts)]
        library.enable_padding(direction=side, pad_to_multiple_of=8)
        ids, mask = pad([truncate(row, 4, side) for row in rows], 0, multiple=8, side=side)
        expected = library.encode_batch(texts)
        assert ids.tolist() == [e.ids for e in expected]
        assert mask.astype(int).tolist() == [e.attention_mask for e in expected]
