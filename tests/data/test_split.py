import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.data.split import split_of

FRACTIONS = st.floats(0, 1)


def test_published_digest():
    """RFC 7693, appendix A: BLAKE2b of "abc" begins with BA80A53F981C4D0D, which is 0.7285... of 2**64."""
    place = 0xBA80A53F981C4D0D / 2**64
    assert split_of("abc", place - 1e-9) == "train"
    assert split_of("abc", place + 1e-9) == "validation"


def test_where_documents_of_the_stdlib_are():
    """If this changes, results on the one corpus that everybody has can no longer be compared."""
    names = ["asyncore", "collections", "argparse", "re", "syslog", "this", "tracemalloc", "json", "os", "tkinter"]
    kept = [name for name in names if split_of(f"pydoc/{name}", 0.05) == "validation"]
    assert kept == ["asyncore", "collections", "argparse", "re", "syslog", "this", "tracemalloc"]
    assert [split_of(f"topics/{name}", 0.05) for name in ("return", "for")] == ["validation", "train"]


@given(st.text(st.characters()), FRACTIONS, FRACTIONS)
def test_a_larger_fraction_only_moves_documents_out_of_train(name, one, other):
    small, large = sorted((one, other))
    if split_of(name, small) == "validation":
        assert split_of(name, large) == "validation"
    assert split_of(name, 0) == "train"
    assert split_of(name, 1) == "validation"


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.5])
def test_the_fraction_is_that_of_the_names(fraction):
    count = 20_000
    kept = sum(split_of(f"document {i}", fraction) == "validation" for i in range(count))
    # Five standard deviations of the binomial distribution.
    assert abs(kept - fraction * count) < 5 * (count * fraction * (1 - fraction)) ** 0.5


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_impossible_fractions(fraction):
    with pytest.raises(ValueError, match=f"^validation_fraction must lie between 0 and 1, got {fraction}$"):
        split_of("name", fraction)
