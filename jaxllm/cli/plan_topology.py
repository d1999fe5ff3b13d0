"""`jaxllm plan EXPERIMENT --topology`: the step compiled for a slice of a TPU pod, as tables."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from jaxllm.cli.plan_tables import console, table
from jaxllm.plan.units import show_bytes, show_seconds


def plan_topology(experiment: Any, options: argparse.Namespace) -> int:
    """Compile, or search first, and print."""
    from jaxllm.plan.ahead import compile_for
    from jaxllm.plan.ahead_report import to_json
    from jaxllm.plan.topology import read_topology

    topology = read_topology(options.topology, options.slices)
    candidates = ()
    if options.search:
        from jaxllm.plan.memory_search import search

        candidates = search(experiment, topology, most=options.search, say=lambda line: print(line, file=sys.stderr))
    compiled = candidates[0].compiled if candidates else compile_for(experiment, topology)
    if options.hlo:
        Path(options.hlo).write_text(compiled.hlo, encoding="utf-8")
    if options.json:
        found = {"candidates": [candidate.to_json() for candidate in candidates]} if candidates else {}
        print(json.dumps(to_json(compiled, options.dollars_per_hour) | found, indent=2))
        return 0
    if candidates:
        console().print(_candidates(candidates))
    print_compiled(compiled, options.dollars_per_hour)
    return 0


def print_compiled(compiled: Any, dollars_per_hour: float | None) -> None:
    """Everything, with the rules under the tables they belong to."""
    from jaxllm.plan.ahead_report import rules, verdict

    page, said = console(), rules()
    topology, training, model = compiled.topology, compiled.experiment.training, compiled.experiment.model
    axes = " x ".join(f"{name}={size}" for name, size in compiled.mesh.items() if size > 1) or "one device"
    several = f"{topology.slices} slices of " if topology.slices > 1 else ""
    page.print(
        f"[bold]{compiled.experiment.name}[/bold] on {several}{topology.name} ({topology.accelerator}): "
        f"{topology.chips:,} chips, {axes}\n"
        f"{training.batch_size:,} rows of {model.context_length:,} tokens in {training.accumulation} microbatch(es), "
        f"remat {training.remat}, {model.compute_dtype}\n"
        f"lowered in {show_seconds(compiled.lower_seconds)}, compiled in {show_seconds(compiled.compile_seconds)}\n"
    )
    page.print(_memory(compiled.memory))
    page.print(*verdict(compiled), sep="\n")
    _rules(page, said["memory"])
    page.print(_operations(compiled))
    page.print(_collectives(compiled))
    page.print(_time(compiled, dollars_per_hour))
    _rules(page, said["time"])
    page.print(_kernels(compiled))
    for name in compiled.timing.silent:
        page.print(f"{name}: a hand-written kernel that states no operations; they are missing above")


def _candidates(candidates: Any) -> Any:
    from jaxllm.plan.memory_search import RULE

    sheet = table("candidates", "needs", "of what there is", "step at worst", title=RULE)
    for candidate in candidates:
        seconds = show_seconds(candidate.seconds) if candidate.compiled else "does not fit"
        sheet.add_row(candidate.describe(), *_share(candidate.needed, candidate.limit), seconds)
    return sheet


def _rules(page: Any, rules: dict[str, str]) -> None:
    from rich.text import Text

    page.print(*(Text(f"{name}: {rule}", style="dim") for name, rule in rules.items()), sep="\n", end="\n\n")


def _memory(memory: Any) -> Any:
    sheet = table("memory of a device", "size", "of what there is")
    kinds = ("parameters", "optimizer", "average", "batch", "padding", "results", "temporaries")
    for kind in kinds:
        sheet.add_row(kind, *_share(getattr(memory, kind), memory.limit))
        if kind == "temporaries":
            for part in ("gradients", "activations"):
                sheet.add_row(f"  {part}, by rule", *_share(getattr(memory, part), memory.limit))
    sheet.add_row("code", *_share(memory.code, memory.limit))
    sheet.add_row("together", *_share(memory.total, memory.limit))
    sheet.add_row("[bold]peak", *_share(memory.peak, memory.limit))
    sheet.add_row("left to programs by the compiler", show_bytes(memory.limit), "")
    return sheet


def _share(size: int, limit: int) -> tuple[str, str]:
    return show_bytes(size), f"{size / limit:.1%}"


def _operations(compiled: Any) -> Any:
    sheet = table("FLOPs of a device and step", "")
    sheet.add_row("of the model: 3 forward passes, causal scores half", f"{compiled.model_flops:.4g}")
    sheet.add_row("of the program: every product, also recomputed and masked", f"{compiled.timing.flops:.4g}")
    sheet.add_row("by the compiler's cost_analysis: each loop's body once", f"{compiled.xla_flops:.4g}")
    return sheet


def _collectives(compiled: Any) -> Any:
    sheet = table("collectives of a step", "over", "runs", "bytes", "sent", "time", title="\n")
    for row in compiled.traffic:
        over = "other groups" if row.axes is None else ", ".join(row.axes) or "itself"
        over += " (between slices)" if row.between_slices else ""
        sizes = (show_bytes(row.bytes), show_bytes(row.sent), show_seconds(row.seconds))
        sheet.add_row(row.kind, over, f"{row.runs:,}", *sizes)
    if not compiled.traffic:
        sheet.add_row("none", "", "", "", "", "")
    return sheet


def _time(compiled: Any, dollars_per_hour: float | None) -> Any:
    from jaxllm.plan.ahead_report import cost

    timing, topology = compiled.timing, compiled.topology
    sheet = table("time of a step, by roofline", "at best", "at worst", title="\n")
    for name in ("compute", "memory", "kernels", "links", "network"):
        if getattr(timing, name):
            sheet.add_row(name, show_seconds(getattr(timing, name)), "")
    sheet.add_row(f"[bold]step (waits for {timing.bound})", show_seconds(timing.best), show_seconds(timing.worst))
    sheet.add_row("[bold]MFU", f"{timing.best_mfu:.1%}", f"{timing.worst_mfu:.1%}")
    each = [compiled.tokens / topology.chips / seconds for seconds in (timing.best, timing.worst)]
    sheet.add_row("tokens/s of a chip", *(f"{n:,.0f}" for n in each))
    price = cost(compiled, dollars_per_hour)
    if price:
        sheet.add_row(
            f"cost of a million tokens at ${price.dollars_per_chip_hour:g} a chip hour ({price.source})",
            f"${price.best_per_million_tokens:,.4f}",
            f"${price.worst_per_million_tokens:,.4f}",
        )
    else:
        sheet.add_row("cost: no price is known here; name one with --dollars-per-hour", "", "")
    return sheet


def _kernels(compiled: Any) -> Any:
    hardware = compiled.topology.generation.hardware
    sheet = table("kernels that take longest", "runs", "FLOPs of a run", "bytes of a run", "time of all", "waits for")
    for kernel in compiled.timing.slowest:
        bound = "compute" if kernel.flops / hardware.flops >= kernel.bytes / hardware.bandwidth else "memory"
        work = (f"{kernel.flops:.3g}", show_bytes(kernel.bytes), show_seconds(kernel.seconds(hardware)))
        sheet.add_row(_short(kernel.op_name) or kernel.name, f"{kernel.runs:,}", *work, bound)
    return sheet


def _short(op_name: str) -> str:
    """The end of a JAX operation's path, and whether it is of the backward pass."""
    parts = [part for part in op_name.split("/") if part not in ("while", "body", "closed_call")]
    direction = "backward: " if "transpose" in op_name else ""
    direction = "again: " if "rematted" in op_name else direction
    return direction + "/".join(parts[-3:]) if op_name else ""
