"""Every layer with a state, in each of its variants: its forms agree, and nothing leaks."""

import numpy as np
import pytest

from jaxllm.models.config import RWKVChannelConfig
from tests.models.mixers import recurrent_forms as forms
from tests.models.mixers import test_gated_delta, test_mamba, test_mamba2, test_rwkv

CONFIGS = {
    f"{module.__name__.rpartition('test_')[2]}-{name}": config
    for module in (test_mamba, test_mamba2, test_gated_delta, test_rwkv)
    for name, config in module.CONFIGS.items()
}
# The differences between the others lie in the step of one token, which all forms share.
DIFFERENT_OVER_TIME = [name for name in CONFIGS if name not in ("gated_delta-delta", "gated_delta-decaying")]


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def test_pieces_equal_the_whole(config):
    forms.check_pieces_equal_the_whole(config)


def test_types_and_layout(config):
    forms.check_types_and_layout(config)


def test_padding_leaves_no_trace(config):
    forms.check_padding_leaves_no_trace(config)


@pytest.mark.parametrize("name", DIFFERENT_OVER_TIME)
def test_packed_documents_equal_separate_ones(name):
    forms.check_packed_equals_separate(CONFIGS[name])


@pytest.mark.parametrize("name", DIFFERENT_OVER_TIME)
def test_no_output_depends_on_a_later_token_or_another_document(name):
    config = CONFIGS[name]
    reach, seen = forms.check_causality(config)
    index = np.arange(len(reach))
    near = index[:, None] - index <= (1 if isinstance(config, RWKVChannelConfig) else len(reach))
    # What a norm makes of the first token's output hardly depends on its size: a gradient is small there, not nothing.
    assert (reach[seen & near] > 0).all() and (reach[seen & ~near] == 0).all()
