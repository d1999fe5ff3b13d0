import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.preparation.metaspace import Metaspace, MetaspaceSplit
from jaxllm.tokenizers.stages import Cut, Rewrite

_SCHEMES = ("always", "first", "never")


@given(text=st.text(" ▁ab漢\n", max_size=12), scheme=st.sampled_from(_SCHEMES), split=st.booleans())
def test_it_is_what_the_tokenizers_library_does(text, scheme, split):
    hf = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    theirs = hf.pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split).pre_tokenize_str(text)
    rewrite, *cuts = Metaspace(prepend_scheme=scheme, split=split).stages()
    rewritten, spans = rewrite.aligned(text)
    assert rewritten == rewrite(text)
    found = cuts[0].spans(rewritten) if cuts else [(0, len(rewritten))] if rewritten else []
    assert [(rewritten[a:b], (spans[a][0], spans[b - 1][1])) for a, b in found] == theirs
    assert spans == sorted(spans) and (len(rewritten) == len(text) or spans[0] == (0, 0))
    if cuts:
        assert cuts[0](rewritten) == [piece for piece, _ in theirs]


def test_another_symbol():
    rewrite, cut = Metaspace(replacement="]").stages()
    assert cut(rewrite("a b ]c")) == ["]a", "]b", "]", "]c"]
    assert isinstance(rewrite, Rewrite) and not isinstance(rewrite, Cut) and isinstance(cut, Cut)


def test_bad_settings():
    with pytest.raises(ValueError, match="^Metaspace's replacement must be one character, got '__'$"):
        Metaspace(replacement="__")
    with pytest.raises(ValueError, match='must be "always", "first" or "never", got \'often\'$'):
        Metaspace(prepend_scheme="often")
    assert MetaspaceSplit()("") == []
