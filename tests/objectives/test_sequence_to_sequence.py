import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllm.models import encoder_decoder, vision_language
from jaxllm.models.declare import initialize
from jaxllm.models.encoder_decoder import encoder_decoder_spec
from jaxllm.models.vision_language import vision_language_spec
from jaxllm.objectives import vision_language as seeing
from jaxllm.objectives.sequence_to_sequence import sequence_to_sequence
from tests.models.test_encoder_decoder import BART, MASK, SOURCE, T5, TARGET
from tests.models.test_vision import LLAVA, PIXELS, prompts

cross_entropy = optax.softmax_cross_entropy_with_integer_labels


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_the_loss_is_that_of_the_targets(name):
    config = {"t5": T5, "bart": BART}[name]
    params = initialize(encoder_decoder_spec(config), jax.random.key(0))
    if name == "bart":
        params = params.replace(decoder=params.decoder.replace(head_bias=jnp.linspace(-2, 2, 51)))
    weights = np.array([[1] * 7, [1] * 4 + [0] * 3], np.float32)
    batch = {"source": SOURCE, "source_segment_ids": MASK.astype(int), "targets": TARGET, "weights": weights}
    loss, metrics = jax.jit(sequence_to_sequence(config))(params, batch)
    inputs = np.concatenate([np.full((2, 1), config.start_token), TARGET[:, :-1]], 1)
    nll = cross_entropy(encoder_decoder.forward(params, config, SOURCE, inputs, mask=MASK), TARGET)
    assert float(loss) == pytest.approx(float((nll * weights).sum() / 11), rel=1e-5)
    assert float(metrics["weight"]) == 11


@pytest.mark.long
def test_text_around_images_counts_and_placeholders_do_not():
    params, tokens = initialize(vision_language_spec(LLAVA), jax.random.key(0)), prompts()
    ones = np.ones((2, 25), np.int32)
    batch = {
        "tokens": np.concatenate([tokens[:, :-1]], 1),
        "targets": tokens[:, 1:],
        "weights": ones.astype(np.float32),
        "segment_ids": ones,
        "positions": np.arange(25)[None] * ones,
        "pixels": PIXELS,
    }
    loss, metrics = jax.jit(seeing.vision_language(LLAVA))(params, batch)
    text = tokens[:, 1:] != 30
    nll = cross_entropy(vision_language.forward(params, LLAVA, tokens[:, :-1], PIXELS), tokens[:, 1:])
    assert float(metrics["weight"]) == text.sum() == 32
    assert float(loss) == pytest.approx(float(nll[text].mean()), rel=1e-5)
    grads = jax.grad(lambda p: seeing.vision_language(LLAVA)(p, batch)[0])(params)
    assert jnp.abs(grads.vision.patch.weight).max() > 0 and jnp.abs(grads.projector.first.weight).max() > 0
