"""Running a layer where rows lie on several devices: one that goes along the text is given all of it, in its order.

Shape letters: B batch, T time, D model width.
"""

from __future__ import annotations

from typing import Any

import jax

from jaxllm.models.layer import Context, Layer, Statistics
from jaxllm.parallel.sharding import constrain, current_layout, gather_stream, scatter_stream, use_layout
from jaxllm.parallel.text_order import in_placed_order, in_text_order, splits_text


def run_layer(
    layer: Layer, params: Any, model: Any, config: Any, x_BTD: jax.Array, context: Context, cache: Any
) -> tuple[jax.Array, Any, Statistics]:
    """`layer.apply`, its input and output [B, T, D] lying as the layout says.

    Layers for which `along_text` is true get whole rows, and the devices that split the text take more channels apart
    instead: the same work for each, for the price of gathering the stream and reducing the result.
    """
    layout = current_layout()
    if cache is not None or not splits_text(layout) or not layer.along_text(config):
        out_BTD, cache, statistics = layer.apply(params, model, config, gather_stream(x_BTD), context, cache)
        return scatter_stream(out_BTD), cache, statistics
    whole = context.replace(
        positions_BT=in_text_order(context.positions_BT),
        segment_ids_BT=None if context.segment_ids_BT is None else in_text_order(context.segment_ids_BT),
        valid_BT=None if context.valid_BT is None else in_text_order(context.valid_BT),
    )
    x_BTD = in_text_order(x_BTD)
    with use_layout(layout.with_whole_rows()):
        out_BTD, _, statistics = layer.apply(params, model, config, x_BTD, whole, None)
    return constrain(in_placed_order(out_BTD), "batch", "stream", None), None, statistics
