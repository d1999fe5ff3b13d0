import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, NormConfig, forward, vision, vision_language
from jaxllm.models.config import VisionConfig, VisionLanguageConfig
from jaxllm.models.declare import initialize
from jaxllm.models.decoder import hidden_states, make_cache
from jaxllm.models.vision import cut_patches, encode_images, pool_images, vision_spec
from jaxllm.models.vision_language import embed_with_images, image_features, read, vision_language_spec

TRUNK = ModelConfig(
    context_length=17,
    d_model=18,
    num_layers=3,
    attention=AttentionConfig(num_heads=3, causal=False, qkv_bias=True, out_bias=True),
    mlp=MLPConfig(d_ff=25, activation="gelu_tanh", bias=True),
    norm=NormConfig(kind="layernorm", bias=True, epsilon=1e-6),
    positions="none",
)
SIGLIP = VisionConfig(trunk=TRUNK, image_size=11, patch_size=3, pooler="attention")
CLIP = VisionConfig(
    trunk=replace(TRUNK, mlp=replace(TRUNK.mlp, activation="quick_gelu")),
    image_size=11,
    patch_size=3,
    patch_bias=False,
    class_token=True,
    first_norm=True,
    final_norm="pooled",
    pooler="class",
)
VIT = VisionConfig(trunk=TRUNK, image_size=9, patch_size=3, class_token=True, pooler="tanh")
TEXT = ModelConfig(
    vocab_size=31,
    context_length=40,
    d_model=16,
    num_layers=2,
    attention=AttentionConfig(num_heads=2, num_kv_heads=1),
    mlp=MLPConfig(d_ff=20, activation="silu", gated=True),
    norm=NormConfig(epsilon=1e-6),
    tie_embeddings=False,
    init_std=0.2,
)
LLAVA = VisionLanguageConfig(vision=CLIP, text=TEXT, image_token=30)

look = partial(jax.jit, static_argnums=1, static_argnames="layers")(vision.look)
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.normal(size=(2, 11, 11, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def llava():
    return initialize(vision_language_spec(LLAVA), jax.random.key(0))


def test_patches_are_a_convolution():
    kernel = RANDOM.normal(size=(3, 3, 3, 5)).astype(np.float32)
    convolved = jax.lax.conv_general_dilated(
        PIXELS, kernel, (3, 3), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    patches = cut_patches(jnp.asarray(PIXELS), 3)
    assert patches.shape == (2, 9, 27)
    np.testing.assert_allclose(patches @ kernel.reshape(27, 5), convolved.reshape(2, 9, 5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["siglip", "clip", "vit"])
def test_shapes_and_norms(name):
    config = {"siglip": SIGLIP, "clip": CLIP, "vit": VIT}[name]
    params = initialize(vision_spec(config), jax.random.key(0))
    pixels = PIXELS[:, : config.image_size, : config.image_size]
    encoded = encode_images(params, config, pixels)
    assert encoded.shape == (2, config.num_positions, 18)
    pooled = pool_images(params, config, encoded)
    assert pooled.shape == (2, 18)
    normalized = np.abs(encoded.mean(-1)).max() < 1e-4
    assert normalized == (config.final_norm == "all")
    if name == "clip":
        assert np.abs(pooled.mean(-1)).max() < 1e-4


def test_fewer_layers_are_the_first_ones():
    params = initialize(vision_spec(CLIP), jax.random.key(0))
    fewer = replace(CLIP, trunk=replace(CLIP.trunk, num_layers=2))
    cut = params.replace(segments=jax.tree.map(lambda x: x[:2], params.segments))
    np.testing.assert_allclose(look(params, CLIP, PIXELS, layers=2), look(cut, fewer, PIXELS), atol=1e-6)
    np.testing.assert_array_equal(look(params, CLIP, PIXELS, layers=3), look(params, CLIP, PIXELS))
    start = look(params, CLIP, PIXELS, layers=0)
    assert np.abs(start.mean(-1)).max() < 1e-4, "the first norm"
    with pytest.raises(ValueError, match="layers=4, but the image encoder has 3"):
        look(params, CLIP, PIXELS, layers=4)


def prompts():
    tokens = RANDOM.integers(1, 30, (2, 26))
    tokens[0, 3:12] = tokens[1, 2:11] = 30
    return tokens


def test_features_stand_where_the_placeholders_were(llava):
    tokens, features = prompts(), image_features(llava, LLAVA, PIXELS)
    assert features.shape == (2, 9, 16) and LLAVA.tokens_per_image == 9
    embedded = embed_with_images(llava, LLAVA, tokens, features)
    np.testing.assert_array_equal(embedded[0, 3:12], features[0])
    np.testing.assert_array_equal(embedded[1, 2:11], features[1])
    np.testing.assert_array_equal(embedded[tokens != 30], llava.text.embedding[tokens[tokens != 30]])


def test_the_images_are_read_in_order_and_only_later_tokens_see_them(llava):
    tokens = prompts()
    see = jax.jit(vision_language.forward, static_argnums=1)
    logits, other = (
        see(llava, LLAVA, tokens, PIXELS),
        see(llava, LLAVA, tokens, PIXELS * np.array([1, 2])[:, None, None, None]),
    )
    np.testing.assert_array_equal(logits[0], other[0])
    np.testing.assert_array_equal(logits[1, :2], other[1, :2])
    assert (np.abs(logits - other)[1, 2:].max(-1) > 1e-4).all()


def test_without_images_it_is_the_decoder(llava):
    tokens = RANDOM.integers(1, 30, (2, 9))
    np.testing.assert_array_equal(vision_language.forward(llava, LLAVA, tokens), forward(llava.text, TEXT, tokens))


def test_prefill_with_images_then_text_is_the_whole(llava):
    tokens = prompts()
    whole = read(llava, LLAVA, tokens, PIXELS).x_BTD
    hidden = read(llava, LLAVA, tokens[:, :20], PIXELS, cache=make_cache(TEXT, 2, 30))
    after = hidden_states(llava.text, TEXT, tokens[:, 20:], cache=hidden.cache)
    np.testing.assert_allclose(np.concatenate([hidden.x_BTD, after.x_BTD], 1), whole, rtol=1e-4, atol=1e-4)


def test_what_is_refused(llava):
    with pytest.raises(ValueError, match="the text has 18 placeholders .* 1 images need 9: write 9 for each image"):
        vision_language.forward(llava, LLAVA, prompts(), PIXELS[:1])
    with pytest.raises(ValueError, match=r"images must be .* got \[2, 11, 10, 3\]"):
        look(llava.vision, CLIP, PIXELS[:, :, :10])
    with pytest.raises(ValueError, match="has no pooler"):
        pool_images(llava.vision, replace(CLIP, pooler="none"), look(llava.vision, CLIP, PIXELS))
    for config, values, complaint in [
        (SIGLIP, {"pooler": "class"}, "set class_token=true"),
        (SIGLIP, {"patch_size": 12}, "patch_size=12 must be between 1 and image_size=11"),
        (SIGLIP, {"trunk": replace(TRUNK, positions="rope")}, "set trunk.positions=none"),
        (SIGLIP, {"trunk": replace(TRUNK, attention=AttentionConfig(num_heads=3))}, "trunk.attention.causal=false"),
        (LLAVA, {"feature_layer": -5}, "feature_layer=-5, but the image encoder has 3 layers"),
        (LLAVA, {"image_token": 31}, "image_token=31 is no id below 31"),
    ]:
        with pytest.raises(ValueError, match=re.escape(complaint)):
            replace(config, **values)
    assert [replace(LLAVA, feature_layer=layer).layers_used for layer in (-1, -2, -4, 0, 3)] == [3, 2, 0, 0, 3]
