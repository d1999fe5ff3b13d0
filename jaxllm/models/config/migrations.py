"""How configs of older versions read today."""

from __future__ import annotations

from typing import Any


def model_from_version_1(model: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had one `rope_theta` instead of `rope`, and `qk_norm` was a yes or no."""
    attention = dict(model.get("attention", {}))
    if "rope_theta" in attention:
        attention["rope"] = {"theta": attention.pop("rope_theta")}
    if "qk_norm" in attention:
        attention["qk_norm"] = "shared" if attention["qk_norm"] else "none"
    return {**model, "attention": attention}
