"""What encoders of several families share: their heads in config.json, and the names of their parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.weight_map import Tensor, tensor
from jaxllm.models.config import EncoderConfig


def read_heads(hf: ConfigFile, name: str, *, pooler: str = "tanh", model_pooler: str = "tanh") -> dict[str, Any]:
    """What stands on the trunk, by the class that the directory was written from. `pooler` is that of a classifier,
    `model_pooler` that of the model without heads."""
    classes = hf.list("architectures", [f"{name}Model"])
    match str(classes[0]).removeprefix(name) if classes else "Model":
        case "Model":
            return {"pooler": model_pooler}
        case "ForMaskedLM" | "ForPreTraining":
            return {"masked_head": True}
        case "ForSequenceClassification":
            return {"pooler": pooler, "num_classes": len(hf.object("id2label")) or hf.integer("num_labels", 2)}
    supported = ", ".join(f"{name}{rest}" for rest in ("Model", "ForMaskedLM", "ForSequenceClassification"))
    raise hf.error(f"architectures={classes} is not supported; supported: {supported}")


def written_heads(config: EncoderConfig, name: str) -> dict[str, Any]:
    """`architectures`, and the labels of a classifier."""
    if config.num_classes:
        labels = {str(number): f"LABEL_{number}" for number in range(config.num_classes)}
        return {"architectures": [f"{name}ForSequenceClassification"], "id2label": labels}
    return {"architectures": [f"{name}{'ForMaskedLM' if config.masked_head else 'Model'}"]}


def linear(ours: str, theirs: str) -> tuple[Tensor, Tensor]:
    """A Dense."""
    return tensor(f"{ours}.weight", f"{theirs}.weight", "O I -> I O"), tensor(f"{ours}.bias", f"{theirs}.bias")


def norm(ours: str, theirs: str) -> tuple[Tensor, Tensor]:
    return tensor(f"{ours}.scale", f"{theirs}.weight"), tensor(f"{ours}.bias", f"{theirs}.bias")


def attention(query: str, key: str, value: str, out: str) -> tuple[Tensor, ...]:
    """Four products under these names."""
    inward = (("query", query), ("key", key), ("value", value))
    return (
        *(tensor(ours, f"{theirs}.weight", "(H K) D -> D H K") for ours, theirs in inward),
        *(tensor(f"{ours}_bias", f"{theirs}.bias", "(H K) -> H K") for ours, theirs in inward),
        tensor("out", f"{out}.weight", "D (H K) -> H K D"),
        tensor("out_bias", f"{out}.bias"),
    )


def mlp(up: str, down: str) -> tuple[Tensor, ...]:
    """Two products under these names."""
    return (
        tensor("up", f"{up}.weight", "O I -> I O"),
        tensor("up_bias", f"{up}.bias"),
        tensor("down", f"{down}.weight", "O I -> I O"),
        tensor("down_bias", f"{down}.bias"),
    )


def packed(names: Sequence[str], weight: str, bias: str, axes: str) -> tuple[Tensor, ...]:
    """Products of these names that lie one after another in one matrix; `axes` are those each of them goes out to."""
    parts = [(name, (place, place + 1, len(names))) for place, name in enumerate(names)]
    return (
        *(tensor(name, weight, f"(p {axes}) D -> D {axes}", p=part) for name, part in parts),
        *(tensor(f"{name}_bias", bias, f"(p {axes}) -> {axes}", p=part) for name, part in parts),
    )
