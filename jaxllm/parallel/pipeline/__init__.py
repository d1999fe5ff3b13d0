"""Pipeline schedules, executed: a training step in which ranks hold different layers."""

from jaxllm.parallel.pipeline.config import PipelineConfig
from jaxllm.parallel.pipeline.executor import StagedModel, Totals, run_pipeline
from jaxllm.parallel.pipeline.instructions import Instructions, instructions

__all__ = ["Instructions", "PipelineConfig", "StagedModel", "Totals", "instructions", "run_pipeline"]
