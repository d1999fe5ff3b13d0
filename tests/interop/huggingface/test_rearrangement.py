"""Patterns beside what they say, written out with numpy; and back."""

import numpy as np
import pytest

from jaxllm.interop.huggingface.rearrangement import arrange

D, H, G, K, V = 5, 6, 2, 4, 3


def numbered(*shape):
    return np.arange(np.prod(shape), dtype=np.int64).reshape(shape)


CASES = {
    "same": ("", (3, 4), {}, (3, 4), lambda x: x),
    "transposed": ("O I -> I O", (3, 4), {}, (4, 3), lambda x: x.T),
    "heads": ("(H K) D -> D H K", (D, H, K), {}, (H * K, D), lambda x: x.T.reshape(D, H, K)),
    "out of heads": ("D (H K) -> H K D", (H, K, D), {}, (D, H * K), lambda x: x.T.reshape(H, K, D)),
    "GPT-2": ("D (p H K) -> D H K", (D, H, K), {"p": (1, 2, 3)}, (D, 3 * H * K), lambda x: x.reshape(D, 3, H, K)[:, 1]),
    "NeoX": (
        "(H p K) D -> D H K",
        (D, H, K),
        {"p": (2, 3, 3)},
        (H * 3 * K, D),
        lambda x: x.reshape(H, 3, K, D)[:, 2].transpose(2, 0, 1),
    ),
    "Falcon": (
        "(G r K) D -> D (G r) K",
        (D, H, K),
        {"r": (0, 3, 5)},
        (G * 5 * K, D),
        lambda x: x.reshape(G, 5, K, D)[:, :3].transpose(3, 0, 1, 2).reshape(D, H, K),
    ),
    "Phi-3": (
        "(H K) D -> D H K",
        (D, G, K),
        {"H": (H, H + G, H + 2 * G)},
        ((H + 2 * G) * K, D),
        lambda x: x.reshape(H + 2 * G, K, D)[H : H + G].transpose(2, 0, 1),
    ),
    "interleaved": ("E D (F p) -> E D F", (2, 3, 4), {"p": (1, 2, 2)}, (2, 3, 8), lambda x: x[..., 1::2]),
    "part split further": (
        "(G p:(R V)) D -> D (G R) V",
        (D, G * 3, V),
        {"p": (4, 4 + 3 * V, 20)},
        (G * 20, D),
        lambda x: x.reshape(G, 20, D)[:, 4 : 4 + 3 * V].reshape(G * 3, V, D).transpose(2, 0, 1),
    ),
    "convolution": ("C 1 W -> W C", (4, 7), {}, (7, 1, 4), lambda x: x[:, 0].T),
    "one more axis": ("D -> 1 D", (1, D), {}, (D,), lambda x: x[None]),
    "rotary pairs": (
        "(H K p) D -> D H (p K)",
        (D, H, 2 * K),
        {"p": (0, 2, 2)},
        (H * K * 2, D),
        lambda x: x.reshape(H, K, 2, D).transpose(3, 0, 2, 1).reshape(D, H, 2 * K),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_both_directions(name):
    pattern, ours, parts, theirs, written_out = CASES[name]
    rearrangement = arrange(pattern, ours, parts)
    assert rearrangement.theirs_shape == theirs
    source = numbered(*theirs)
    result = rearrangement.to_ours(source)
    np.testing.assert_array_equal(result, written_out(source))
    assert result.shape == ours

    back = np.full(theirs, -1)
    rearrangement.put(result, back)
    kept = back >= 0
    np.testing.assert_array_equal(back[kept], source[kept])
    assert kept.sum() == np.prod(ours)


@pytest.mark.parametrize("name", ["transposed", "heads", "GPT-2", "NeoX", "Phi-3", "convolution"])
def test_nothing_is_copied(name):
    pattern, ours, parts, theirs, _ = CASES[name]
    source = numbered(*theirs)
    assert np.shares_memory(arrange(pattern, ours, parts).to_ours(source), source)


@pytest.mark.parametrize(
    ("pattern", "ours", "parts", "complaint"),
    [
        ("a b", (1, 2), {}, "has no '->'"),
        ("a b -> a b", (2,), {}, "it has 2 axes"),
        ("(a b) -> (a b)", (6,), {}, "the sizes of ['a', 'b'] are open"),
        ("(p a) -> a", (6,), {}, "theirs has axes ['p'] of unknown size"),
        ("(p a) -> a", (6,), {"p": (0, 2, 3)}, "theirs has ['p'], which ours has not"),
        ("a -> a b", (2, 3), {}, "ours has ['b'], which theirs has not"),
        ("(G r) -> (G r)", (7,), {"r": (0, 2, 4)}, "7 is no multiple of 2"),
        ("p -> p", (3,), {"p": (0, 2, 3)}, "axis (p)"),
        ("p a -> a", (3,), {"p": (2, 2, 3)}, "the part p=(2, 2, 3) is empty"),
        ("a* -> a", (3,), {}, "can't be read at 'a*'"),
    ],
)
def test_patterns_that_do_not_fit(pattern, ours, parts, complaint):
    with pytest.raises(ValueError) as error:
        arrange(pattern, ours, parts)
    assert complaint in str(error.value)
