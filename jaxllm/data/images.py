"""Images as a model wants them: resized, cropped, normalized; with NumPy alone.

Pixels are arrays [height, width, 3], uint8 from 0 to 255 as files have them.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class ImageConfig:
    """From pixels to what an image encoder was trained on."""

    size: int = 224
    """Height and width of the result."""
    fit: Literal["stretch", "crop"] = "stretch"
    """Both sides become `size` (SigLIP), or the shorter one does and the middle of the longer one is kept (CLIP)."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Taken off each channel, which goes from 0 to 1."""
    deviation: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """What each channel is divided by then."""

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"image.size must be at least 1, got {self.size}")
        if min(self.deviation) <= 0:
            raise ValueError(f"image.deviation must be above 0, got {self.deviation}")


SIGLIP = ImageConfig()
CLIP = ImageConfig(
    size=336,
    fit="crop",
    mean=(0.48145466, 0.4578275, 0.40821073),
    deviation=(0.26862954, 0.26130258, 0.27577711),
)


def read_image(path: str | PathLike[str]) -> np.ndarray:
    """The pixels of an image file, in color. Needs Pillow. Raises ValueError for a file that is no image."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ValueError("reading image files needs Pillow: pip install 'jaxllm[images]'") from error
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} can't be read as an image: {error}") from error


def prepare_image(pixels: np.ndarray, config: ImageConfig) -> np.ndarray:
    """Float32 [size, size, 3]: resized, cropped, normalized. Raises ValueError for what is not uint8 [H, W, 3]."""
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"an image is uint8 [height, width, 3], got {pixels.dtype} {list(pixels.shape)}")
    height, width = pixels.shape[:2]
    if config.fit == "crop":
        short = min(height, width)
        resized = resize(pixels, config.size * height // short, config.size * width // short)
        top, left = (resized.shape[0] - config.size) // 2, (resized.shape[1] - config.size) // 2
        resized = resized[top : top + config.size, left : left + config.size]
    else:
        resized = resize(pixels, config.size, config.size)
    scaled = resized.astype(np.float32) / 255
    return (scaled - np.asarray(config.mean, np.float32)) / np.asarray(config.deviation, np.float32)


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels of another height and width, uint8: bicubic, and where they shrink every old one counts.

    Like Pillow, first along rows and then along columns, rounded in between; so the results agree to a level.
    """
    across = _round(np.einsum("hwc,vw->hvc", pixels.astype(np.float64), _weights(pixels.shape[1], width)))
    return _round(np.einsum("hvc,uh->uvc", across, _weights(pixels.shape[0], height))).astype(np.uint8)


def _round(values: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(values + 0.5), 0, 255)


def _weights(old: int, new: int) -> np.ndarray:
    """How much of each old pixel is in each new one, [new, old] (Keys 1981 with a = -0.5)."""
    ratio = old / new
    stretch = max(ratio, 1.0)
    center = (np.arange(new) + 0.5) * ratio
    distance = np.abs((np.arange(old)[None] + 0.5 - center[:, None]) / stretch)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return weights / weights.sum(1, keepdims=True)
