from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxllm.inference.sequence_to_sequence import write_target
from jaxllm.models.declare import initialize
from jaxllm.models.encoder_decoder import encoder_decoder_spec, forward
from tests.models.test_encoder_decoder import BART, MASK, SOURCE, T5


def one_by_one(params, config, source, mask, prompt, steps):
    """The slow twin: everything anew for each token, one row."""
    step = jax.jit(forward, static_argnums=1)
    tokens, written = np.zeros((1, len(prompt) + steps), int), list(prompt)
    while len(written) < len(prompt) + steps:
        tokens[0, : len(written)] = written
        logits = step(params, config, source[None], tokens, mask=mask[None])
        written.append(int(logits[0, len(written) - 1].argmax()))
        if written[-1] == config.end_token:
            break
    return written[len(prompt) :]


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_it_writes_what_a_loop_without_a_cache_writes(name):
    config = {"t5": T5, "bart": BART}[name]
    params = initialize(encoder_decoder_spec(config), jax.random.key(3))
    prompt = np.array([[config.start_token, 7]] * 2)
    wanted = [one_by_one(params, config, SOURCE[row], MASK[row], prompt[row], 12) for row in range(2)]
    # One that comes up early ends its row; the other goes on.
    ending = replace(config, end_token=wanted[0][3], pad_token=50)
    wanted = [one_by_one(params, ending, SOURCE[row], MASK[row], prompt[row], 12) for row in range(2)]
    got = write_target(params, ending, SOURCE, mask=MASK, prompt=prompt, max_new_tokens=12)
    assert got.shape == (2, 12)
    for row in range(2):
        assert got[row].tolist() == wanted[row] + [50] * (12 - len(wanted[row]))
    assert len(wanted[0]) <= 4


def test_what_is_refused():
    params = initialize(encoder_decoder_spec(BART), jax.random.key(0))
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        write_target(params, BART, SOURCE, max_new_tokens=0)
    with pytest.raises(ValueError, match="a prompt of 1 and 21 new tokens exceed the decoder's 20 positions"):
        write_target(params, BART, SOURCE, max_new_tokens=21)
