import pytest

from jaxllm.tokenizers.template import Template

BERT = Template(((101, 0), ("A", 0), (102, 0)), ((101, 0), ("A", 0), (102, 0), ("B", 1), (102, 1)))


def test_one_text_and_two():
    assert BERT.apply([7, 8]) == ([101, 7, 8, 102], [0, 0, 0, 0])
    assert BERT.apply([7, 8], [9]) == ([101, 7, 8, 102, 9, 102], [0, 0, 0, 0, 1, 1])
    assert BERT.apply([], []) == ([101, 102, 102], [0, 0, 1])
    assert Template().apply([1], [2]) == ([1, 2], [0, 1])
    assert BERT.around() == ([101], [102])


def test_each_text_must_be_there_once():
    with pytest.raises(ValueError, match=r"the template for single must have each of \['A'\] once"):
        Template(((101, 0),))
    with pytest.raises(ValueError, match=r"the template for pair must have each of \['A', 'B'\] once"):
        Template(pair=(("A", 0), ("A", 1)))
