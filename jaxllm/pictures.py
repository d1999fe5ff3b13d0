"""A picture in a file: drawn without a window, written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")


def check_ending(path: Path) -> None:
    """Raises ValueError for a name with another ending than FORMATS."""
    if path.suffix not in FORMATS:
        raise ValueError(f"can't draw into {path}: its name must end in {', '.join(FORMATS)}")


@contextmanager
def picture(path: str | PathLike[str], width: float, height: float) -> Iterator[Figure]:
    """A figure of this size in inches, to draw on; when that is done, it is in the file.

    Raises ValueError for a name with another ending than FORMATS, before anything is drawn, and for a file that can't
    be written.
    """
    path = Path(path)
    check_ending(path)
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Figure without pyplot: no window, no global state, whatever backend is configured.
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    unfinished = path.with_name(f".{path.name}.unfinished")
    # Text stays text, and equal pictures are equal files.
    try:
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxllm"}):
            figure.savefig(unfinished, format=path.suffix[1:])
        unfinished.replace(path)
    except OSError as error:
        raise ValueError(f"can't write {path}: {error.strerror}") from error
