"""Image encoders, and language models that see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxllm.models.config.channel import Activation
from jaxllm.models.config.model import ModelConfig


@dataclass(frozen=True)
class VisionConfig:
    """A Vision Transformer (Dosovitskiy et al. 2021): patches of an image as the tokens of an encoder."""

    trunk: ModelConfig
    """The blocks: positions="none" (they are added to the patches) and causal=false; its vocabulary is not used."""
    image_size: int = 224
    """Height and width of an image in pixels."""
    patch_size: int = 16
    """Height and width of a patch in pixels."""
    channels: int = 3
    """Numbers a pixel."""
    patch_bias: bool = True
    """The projection of patches has a bias (not in CLIP)."""
    class_token: bool = False
    """A learned token stands before the patches (ViT, CLIP)."""
    first_norm: bool = False
    """Normalize patches and positions before the first block (CLIP)."""
    final_norm: Literal["all", "pooled"] = "all"
    """The last norm is for every position (ViT, SigLIP), or for the pooled one only (CLIP)."""
    pooler: Literal["none", "class", "tanh", "attention"] = "none"
    """One vector for an image: none, the class token, tanh(class token W + b) (ViT), or what a learned query finds
    (SigLIP)."""

    def __post_init__(self):
        if not 1 <= self.patch_size <= self.image_size:
            raise ValueError(f"patch_size={self.patch_size} must be between 1 and image_size={self.image_size}")
        if self.pooler in ("class", "tanh") and not self.class_token:
            raise ValueError(f"pooler={self.pooler} reads the class token: set class_token=true")
        if self.trunk.positions != "none":
            raise ValueError("positions of patches are added before the trunk: set trunk.positions=none")
        if self.trunk.residual.norm == "post":
            raise ValueError("an image encoder ends with a norm of its own: set trunk.residual.norm=pre")
        if any(block.mixer != "none" and getattr(block.mixer, "causal", True) for block in self.trunk.blocks()):
            raise ValueError("an image encoder looks both ways: set trunk.attention.causal=false")

    @property
    def num_patches(self) -> int:
        """Patches of an image; what is left over at the right and bottom edge is not seen."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_positions(self) -> int:
        """Patches, and the class token."""
        return self.num_patches + self.class_token


@dataclass(frozen=True)
class VisionLanguageConfig:
    """A decoder that reads images in the place of placeholder tokens (LLaVA, Liu et al. 2023)."""

    vision: VisionConfig
    """What looks at the images."""
    text: ModelConfig
    """What reads and writes."""
    image_token: int = 0
    """The placeholder: each one in the text stands for one patch."""
    feature_layer: int = -2
    """The image's features are the stream after this many layers; negative counts from the end, -1 the last layer."""
    keep_class: bool = False
    """The class token is one of the features."""
    projector_activation: Activation = "gelu"
    """Nonlinearity between the projector's two products."""
    projector_bias: bool = True
    """The projector's products have biases."""

    def __post_init__(self):
        layers = self.vision.trunk.num_layers
        if not -layers - 1 <= self.feature_layer <= layers:
            raise ValueError(f"feature_layer={self.feature_layer}, but the image encoder has {layers} layers")
        if not 0 <= self.image_token < self.text.vocab_size:
            raise ValueError(f"image_token={self.image_token} is no id below {self.text.vocab_size}")

    @property
    def layers_used(self) -> int:
        """Blocks of the image encoder that are run."""
        layers = self.vision.trunk.num_layers
        return self.feature_layer if self.feature_layer >= 0 else layers + 1 + self.feature_layer

    @property
    def tokens_per_image(self) -> int:
        """Placeholders that one image takes."""
        return self.vision.num_patches + (self.keep_class and self.vision.class_token)
