"""YAML readers get back what was written."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.manifest import drop_empty, to_yaml

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
SCALARS = (
    st.none() | st.booleans() | st.integers() | TEXT | st.sampled_from(["yes", "1e3", "0x1", "~", "- a", "a: b", "*x"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=20
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_what_is_read_is_what_was_written(value):
    assert yaml.safe_load(to_yaml(value)) == value


@pytest.mark.parametrize("key", ["on", "No", "y", "null", "1", "a b", "", "google.com/tpu", "a/b/c"])
def test_keys_stay_strings(key):
    assert yaml.safe_load(to_yaml({key: 1})) == {key: 1}


def test_nested_lists_and_dicts_are_indented():
    assert (
        to_yaml({"a": [{"b": ["c", 1], "d": {}}], "e": []}) == 'a:\n  - b:\n      - "c"\n      - 1\n    d: {}\ne: []\n'
    )


def test_what_was_not_asked_for_is_left_out():
    assert drop_empty({"a": None, "b": {"c": None}, "d": [], "e": 0, "f": False, "g": [{"h": None, "i": ""}]}) == {
        "e": 0,
        "f": False,
        "g": [{"i": ""}],
    }
