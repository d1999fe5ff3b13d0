import jax
import numpy as np
import pytest

from jaxllm.inference.vision_language import write_about_images
from jaxllm.models.declare import initialize
from jaxllm.models.vision_language import forward, vision_language_spec
from tests.models.test_vision import LLAVA, PIXELS, prompts


@pytest.mark.long
def test_it_writes_what_a_loop_without_a_cache_writes():
    params, tokens = initialize(vision_language_spec(LLAVA), jax.random.key(1)), prompts()
    lengths, step = np.array([26, 15]), jax.jit(forward, static_argnums=1)
    wanted = []
    for row, length in enumerate(lengths):
        text = np.zeros((1, 36), int)
        text[0, :length] = tokens[row, :length]
        for place in range(length, length + 10):
            text[0, place] = step(params, LLAVA, text, PIXELS[row : row + 1])[0, place - 1, :30].argmax()
        wanted.append(text[0, length : length + 10].tolist())
    got = write_about_images(params, LLAVA, tokens, PIXELS, lengths=lengths, max_new_tokens=10)
    assert got.tolist() == wanted
    ended = write_about_images(
        params, LLAVA, tokens, PIXELS, lengths=lengths, max_new_tokens=10, end_token=wanted[0][2], pad_token=7
    )
    stop = wanted[0].index(wanted[0][2]) + 1
    assert ended[0].tolist() == wanted[0][:stop] + [7] * (10 - stop)


def test_what_is_refused():
    params = initialize(vision_language_spec(LLAVA), jax.random.key(0))
    with pytest.raises(ValueError, match="1 images need 9"):
        write_about_images(params, LLAVA, prompts(), PIXELS[:1])
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        write_about_images(params, LLAVA, prompts(), PIXELS, max_new_tokens=0)
    with pytest.raises(ValueError, match=r"lengths must be between 1 and 26, got \[26, 27\]"):
        write_about_images(params, LLAVA, prompts(), PIXELS, lengths=np.array([26, 27]))
