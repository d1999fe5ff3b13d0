"""The same encoder, encoder-decoder or model that sees in transformers and here; needs requirements/parity.txt."""

import numpy as np
import pytest

from jaxllm.inference.sequence_to_sequence import write_target
from jaxllm.inference.vision_language import write_about_images
from jaxllm.interop.huggingface.beyond_decoders import load_other, read_other_config, save_other
from jaxllm.models import encoder, encoder_decoder, vision, vision_language

torch = pytest.importorskip("torch", reason="the parity tests need requirements/parity.txt")
pytest.importorskip("transformers", reason="the parity tests need requirements/parity.txt")

RANDOM = np.random.default_rng(0)
TEXT_ENCODERS = ["bert", "bert-classifier", "bert-model", "roberta", "roberta-classifier", "modernbert"]
TEXT_ENCODERS += ["modernbert-classifier"]


@pytest.fixture
def both(request, tmp_path):
    """Theirs; ours, read from what theirs wrote; and theirs again, read from what ours wrote."""
    from tests.interop.huggingface import small_models

    model = small_models.make(request.param)
    model.save_pretrained(tmp_path / "theirs")
    ours = load_other(tmp_path / "theirs")
    save_other(tmp_path / "ours", ours.config, ours.params)
    assert read_other_config(tmp_path / "ours") == ours.config
    back = type(model).from_pretrained(tmp_path / "ours").eval()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name
    with torch.no_grad():
        yield back, ours.config, ours.params


def close(ours, theirs):
    # Of float32 numbers, next to their spread: rounding differs with the order of sums.
    theirs = theirs.numpy()
    assert np.std(theirs) > 0.1, "outputs that differ clearly"
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * max(1, np.std(theirs)))


def padded(rows, length, pad):
    """Ids of rows that grow shorter, and which of them are real."""
    mask = np.arange(length)[None] < length - 5 * np.arange(rows)[:, None]
    return np.where(mask, RANDOM.integers(3, 60, (rows, length)), pad), mask


@pytest.mark.parametrize("both", TEXT_ENCODERS, indirect=True)
def test_encoders(both):
    model, config, params = both
    tokens, mask = padded(3, 17, pad=1 if config.padding_positions else 0)
    types = np.arange(17)[None].repeat(3, 0) % max(config.trunk.embedding.token_types, 1)
    theirs = {"token_type_ids": torch.tensor(types)} if config.trunk.embedding.token_types else {}
    output = model(torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(int)), **theirs)
    x = encoder.encode(params, config, tokens, mask=mask, token_types=types)
    if config.num_classes:
        close(encoder.classify(params, config, x, mask), output.logits)
    elif config.masked_head:
        close(encoder.masked_logits(params, config, x)[mask], output.logits[torch.tensor(mask)])
    else:
        close(x[mask], output.last_hidden_state[torch.tensor(mask)])


@pytest.mark.parametrize("both", ["t5", "t5-gated", "bart"], indirect=True)
def test_encoder_decoders(both):
    model, config, params = both
    source, mask = padded(3, 23, config.pad_token)
    target = RANDOM.integers(3, 61, (3, 19))
    theirs = {"attention_mask": torch.tensor(mask.astype(int))}
    output = model(torch.tensor(source), decoder_input_ids=torch.tensor(target), **theirs)
    close(encoder_decoder.forward(params, config, source, target, mask=mask), output.logits)
    settings = {"max_new_tokens": 40, "do_sample": False, "num_beams": 1, "min_new_tokens": None}
    wanted = model.generate(torch.tensor(source), **theirs, **settings, forced_eos_token_id=None).numpy()[:, 1:]
    assert len(np.unique(wanted)) > 3, "a text that says something"
    written = np.asarray(write_target(params, config, source, mask=mask, max_new_tokens=40))
    np.testing.assert_array_equal(written[:, : wanted.shape[1]], wanted)
    assert (written[:, wanted.shape[1] :] == config.pad_token).all()


@pytest.mark.parametrize("both", ["siglip", "clip", "vit"], indirect=True)
def test_image_encoders(both):
    model, config, params = both
    pixels = RANDOM.normal(size=(2, config.image_size, config.image_size, 3)).astype(np.float32)
    output = model(torch.tensor(pixels.transpose(0, 3, 1, 2)))
    x = vision.encode_images(params, config, pixels)
    close(x, output.last_hidden_state)
    close(vision.pool_images(params, config, x), output.pooler_output)


@pytest.mark.parametrize("both", ["llava", "llava-siglip"], indirect=True)
def test_models_that_see(both):
    model, config, params = both
    pixels, tokens = RANDOM.normal(size=(3, 16, 16, 3)).astype(np.float32), RANDOM.integers(3, 60, (2, 30))
    assert config.tokens_per_image == 9
    tokens[0, 2:11] = tokens[1, 1:10] = tokens[1, 14:23] = 60
    theirs = {"pixel_values": torch.tensor(pixels.transpose(0, 3, 1, 2))}
    output = model(torch.tensor(tokens), **theirs)
    close(vision_language.forward(params, config, tokens, pixels), output.logits)
    settings = {"max_new_tokens": 40, "do_sample": False, "eos_token_id": None}
    wanted = model.generate(torch.tensor(tokens), **theirs, **settings).numpy()[:, 30:]
    assert len(np.unique(wanted)) > 3, "a text that says something"
    np.testing.assert_array_equal(write_about_images(params, config, tokens, pixels, max_new_tokens=40), wanted)
