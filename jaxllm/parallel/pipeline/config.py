"""How the ranks of a pipeline take turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxllm.parallel.schedules import Schedule, build_schedule


@dataclass(frozen=True)
class PipelineConfig:
    """The schedule of a pipeline, where mesh.pipeline is more than 1. Its microbatches are training.accumulation."""

    schedule: Literal["gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zbv", "dualpipe", "dualpipe-v"] = "1f1b"
    """In which order ranks do forwards and backwards (docs/pipeline_schedules.md compares them)."""
    chunks: int = 2
    """Stages that each rank holds; read by the schedule `interleaved`, the others have a number of their own."""

    def __post_init__(self):
        if self.chunks < 1:
            raise ValueError(f"pipeline.chunks is the number of stages on each rank, at least 1; got {self.chunks}")

    def build(self, ranks: int, microbatches: int) -> Schedule:
        """The schedule. Raises ValueError, naming training.accumulation, for counts that it does not work with."""
        try:
            return build_schedule(self.schedule, ranks, microbatches, self.chunks)
        except ValueError as error:
            raise ValueError(
                f"pipeline.schedule={self.schedule} with mesh.pipeline={ranks} and training.accumulation="
                f"{microbatches}: {error} (the number of microbatches is training.accumulation)"
            ) from error
