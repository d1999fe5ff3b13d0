import builtins
from dataclasses import replace

import numpy as np
import pytest

from jaxllm.data.images import CLIP, SIGLIP, ImageConfig, prepare_image, read_image, resize

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(31, 29), (50, 70), (64, 200), (7, 3)])
def test_resizing_is_that_of_pillow(height, width):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    theirs = np.asarray(image.fromarray(PIXELS).resize((width, height), image.Resampling.BICUBIC))
    ours = resize(PIXELS, height, width)
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert (ours == theirs).mean() > 0.99


def test_what_resizing_leaves_alone():
    np.testing.assert_array_equal(resize(PIXELS, 50, 70), PIXELS)
    assert (resize(np.full((9, 5, 3), 130, np.uint8), 20, 3) == 130).all()
    ramp = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[:, None, None], 3, 2)
    halved = resize(ramp, 30, 1)[2:-2, 0, 0].astype(int)
    np.testing.assert_array_equal(np.diff(halved), 8)


def test_stretched_and_normalized():
    small = prepare_image(PIXELS, ImageConfig(size=10))
    assert small.shape == (10, 10, 3) and small.dtype == np.float32
    np.testing.assert_allclose(small, resize(PIXELS, 10, 10) / 127.5 - 1, atol=1e-6)
    black = prepare_image(np.zeros((30, 20, 3), np.uint8), CLIP)
    np.testing.assert_allclose(
        black[0, 0], [-0.48145466 / 0.26862954, -0.4578275 / 0.26130258, -0.40821073 / 0.27577711]
    )


def test_cropped_to_the_middle():
    whole = resize(PIXELS, 10, 14)
    cropped = prepare_image(PIXELS, replace(SIGLIP, size=10, fit="crop"))
    np.testing.assert_allclose(cropped, whole[:, 2:12] / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_it_prepares_as_transformers_does(fit):
    pytest.importorskip("torch", reason="the parity tests need requirements/parity.txt")
    pytest.importorskip("transformers", reason="the parity tests need requirements/parity.txt")
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    config = replace(CLIP if fit == "crop" else SIGLIP, size=18)
    sizes = {"size": {"shortest_edge": 18}, "crop_size": 18} if fit == "crop" else {"size": {"height": 18, "width": 18}}
    processor = CLIPImageProcessorPil(**sizes) if fit == "crop" else SiglipImageProcessorPil(**sizes, resample=3)
    theirs = np.asarray(processor(image.fromarray(PIXELS))["pixel_values"][0]).transpose(1, 2, 0)
    level = 1 / 255 / min(config.deviation)
    np.testing.assert_allclose(prepare_image(PIXELS, config), theirs, atol=1.01 * level)


def test_reading_a_file(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    image.fromarray(PIXELS).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), PIXELS)
    image.fromarray(PIXELS[:, :, 0]).save(tmp_path / "gray.png")
    assert read_image(tmp_path / "gray.png").shape == (50, 70, 3)
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(ValueError, match="b.png can't be read as an image"):
        read_image(tmp_path / "b.png")
    importing = builtins.__import__
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *rest: exec("raise ImportError") if name == "PIL" else importing(name, *rest),
    )
    with pytest.raises(ValueError, match=r"needs Pillow: pip install 'jaxllm\[images\]'"):
        read_image(tmp_path / "a.png")


def test_what_is_refused():
    for pixels in (PIXELS / 255, PIXELS[:, :, 0], PIXELS[:0]):
        with pytest.raises(ValueError, match=r"an image is uint8 \[height, width, 3\], got"):
            prepare_image(pixels, SIGLIP)
    with pytest.raises(ValueError, match="image.size must be at least 1, got 0"):
        ImageConfig(size=0)
    with pytest.raises(ValueError, match="image.deviation must be above 0"):
        ImageConfig(deviation=(0.5, 0.0, 0.5))
