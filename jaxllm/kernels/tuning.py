"""Tile sizes, by device and shape, each with where it came from.

A kernel's tiles are no part of an experiment: they change its speed and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxllm.kernels.platform import device_kind


@dataclass(frozen=True)
class FlashTiles:
    """Of splash attention: tokens of queries and of keys in a tile of the forward and of the backward kernels."""

    queries: int
    keys: int
    backward_queries: int
    backward_keys: int
    source: str


@dataclass(frozen=True)
class ProductTiles:
    """Of megablox: rows, contracted width and output width of a tile."""

    rows: int
    inner: int
    outer: int
    source: str


# Looked up by the longest prefix of the device's kind; "" is any. Nothing here has been timed on a TPU by this project:
# where a row says so, it has been compiled for one, which shows that its tiles fit into VMEM.
FLASH = {
    "": FlashTiles(512, 512, 512, 512, "MaxText's default for every TPU; compiled for v5e, v5p and v6e, not timed"),
}
PRODUCT = {
    "": ProductTiles(512, 1024, 1024, "MaxText's default for every TPU; compiled for v5e, v5p and v6e, not timed"),
}
# A tile of the matrices' gradients, inner x outer, lies in VMEM three times in float32: two on their way, one at work.
WEIGHT_GRADIENT = {
    "": ProductTiles(512, 1024, 512, "half of PRODUCT, too large here; compiled for v5e, v5p and v6e, not timed"),
}


def flash_tiles(length: int, width: int) -> FlashTiles:
    """For rows of `length` tokens, a multiple of 128, and heads `width` wide: the table's, halved until they divide the
    length and, for heads wider than 256, once more, since a tile of queries is as wide as a head."""
    tiles = _for_this_device(FLASH)
    fit = lambda size: _dividing(length, size if width <= 256 else size // 2)  # noqa: E731
    return FlashTiles(
        fit(tiles.queries), fit(tiles.keys), fit(tiles.backward_queries), fit(tiles.backward_keys), tiles.source
    )


def product_tiles(rows: int, inner: int, outer: int) -> ProductTiles:
    """For `rows` rows in all and matrices [inner, outer]: the table's, no larger than the shape asks for."""
    return _no_larger(_for_this_device(PRODUCT), rows, inner, outer)


def weight_gradient_tiles(rows: int, inner: int, outer: int) -> ProductTiles:
    """The same for the gradients of these matrices."""
    return _no_larger(_for_this_device(WEIGHT_GRADIENT), rows, inner, outer)


def _no_larger(tiles: ProductTiles, rows: int, inner: int, outer: int) -> ProductTiles:
    fit = lambda size, wanted: min(wanted, -(-size // 128) * 128)  # noqa: E731
    return ProductTiles(fit(rows, tiles.rows), fit(inner, tiles.inner), fit(outer, tiles.outer), tiles.source)


def _for_this_device(table: dict):
    kind = device_kind()
    return table[max((prefix for prefix in table if kind.startswith(prefix)), key=len)]


def _dividing(length: int, size: int) -> int:
    while length % size:
        size //= 2
    return size
