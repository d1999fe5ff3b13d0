"""A plan as tables."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from jaxllm.plan.summary import Plan, Scenario, rules
from jaxllm.plan.units import show_bytes, show_seconds
from jaxllm.training.amounts import short_count


def console() -> Any:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a file or another program takes lines of any length
    return console


def table(first: str, *headings: str, title: str = "") -> Any:
    """A table whose further columns hold numbers."""
    from rich import box
    from rich.table import Table

    sheet = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=title or None, title_justify="left")
    sheet.add_column(first, no_wrap=True)
    for heading in headings:
        sheet.add_column(heading, justify="right", no_wrap=True)
    return sheet


def print_plan(plan: Plan, scenario: Scenario) -> None:
    """Everything, with the rules under the tables they belong to."""
    page, said = console(), rules()
    page.print(f"[bold]{plan.name}[/bold], {plan.dtype}, {plan.batch} x {plan.context:,} tokens\n")
    page.print(_parameters(plan), f"[dim]{said['parameters']['active']}[/dim]\n")
    page.print(_operations(plan))
    kinds = [kind for kind in said["flops"] if kind in plan.forward_flops]
    page.print(*(_rule(kind, said["flops"][kind]) for kind in kinds), sep="\n", end="\n\n")
    page.print(_memory(plan), "")
    page.print(_times(plan, scenario))
    phases = [phase for phase in said["roofline"] if phase != "train" or plan.training]
    page.print(*(_rule(phase, said["roofline"][phase]) for phase in phases), sep="\n", end="\n\n")
    if plan.training:
        page.print(_training(plan))
        page.print(*(_rule(part, rule) for part, rule in said["memory"].items()), sep="\n", end="\n\n")
        page.print(_run(plan, scenario))


def _rule(name: str, rule: str) -> Any:
    from rich.text import Text

    return Text(f"{name}: {rule}", style="dim")


def _parameters(plan: Plan) -> Any:
    sheet = table("parameters", "all", "active", "of all")
    for part in plan.components:
        sheet.add_row(part.name, f"{part.total:,}", f"{part.active:,}", f"{part.total / plan.total:.1%}")
    share = f"{plan.active / plan.total:.1%} active" if plan.active < plan.total else "100.0%"
    sheet.add_row("[bold]together", f"[bold]{plan.total:,}", f"[bold]{plan.active:,}", share)
    return sheet


def _operations(plan: Plan) -> Any:
    sheet = table(
        "FLOPs per token", f"forward, mean over {plan.context:,}", "training", f"decoding after {plan.context:,}"
    )
    for kind, forward in plan.forward_flops.items():
        row = (forward, 3 * forward, plan.decode_flops.get(kind, 0.0))
        sheet.add_row(kind, *(f"{value:.4g}" for value in row))
    sums = (sum(plan.forward_flops.values()), plan.train_flops, sum(plan.decode_flops.values()))
    sheet.add_row("[bold]together", *(f"[bold]{value:.4g}" for value in sums))
    return sheet


def _memory(plan: Plan) -> Any:
    sheet = table("memory for inference", "layers", "size", "a further token", "contents")
    sheet.add_row("weights", "", show_bytes(plan.weight_bytes), "", "")
    for part in plan.cache:
        contents = ", ".join(f"{name} {show_bytes(size)}" for name, size in part.contents.items())
        each = show_bytes(part.per_token) if part.per_token else "nothing"
        sheet.add_row(f"cache: {part.name}", str(part.layers), show_bytes(part.bytes), each, contents)
    sheet.add_row("all caches", "", show_bytes(plan.cache_bytes), "", "")
    sheet.add_row("[bold]together", "", f"[bold]{show_bytes(plan.weight_bytes + plan.cache_bytes)}", "", "")
    return sheet


def _times(plan: Plan, scenario: Scenario) -> Any:
    hardware = plan.hardware
    title = ""
    if hardware:
        name = f"{scenario.devices or 1} x {hardware.name}"
        title = (
            f"{name} ({hardware.source}): {hardware.flops / 1e12:,.4g} TFLOP/s, {hardware.bandwidth / 1e9:,.4g} GB/s, "
            f"{hardware.balance:.0f} FLOPs a byte, {show_bytes(hardware.memory)}"
        )
    headings = ["tokens", "FLOPs", "bytes", "FLOPs a byte"]
    headings += ["time, at best", "waits for", "tokens/s, at best"] if hardware else []
    sheet = table("step", *headings, title=title)
    for phase in plan.phases:
        cells = [f"{phase.tokens:,}", f"{phase.flops:.4g}", show_bytes(phase.bytes), f"{phase.intensity:.4g}"]
        if hardware:
            seconds = phase.seconds(hardware)
            cells += [show_seconds(seconds), phase.bound(hardware), f"{phase.tokens / seconds:,.0f}"]
        sheet.add_row(phase.name, *cells)
    return sheet


def _training(plan: Plan) -> Any:
    training = plan.training
    heading = f"each of {training.devices}" if training.devices > 1 else "one device"
    title = f"training: {training.rows} x {training.length:,} tokens a step"
    sheet = table("memory for training", heading, title=title)
    for field in fields(training.memory):
        sheet.add_row(field.name.replace("_", " "), show_bytes(getattr(training.memory, field.name)))
    sheet.add_row("[bold]together", f"[bold]{show_bytes(training.memory.total)}")
    return sheet


def _run(plan: Plan, scenario: Scenario) -> Any:
    training, step = plan.training, plan.training.step
    sheet = table("training run", "")
    sheet.add_row("FLOPs of a step", f"{step.flops:.4g}")
    sheet.add_row("tokens", short_count(training.total_tokens))
    sheet.add_row("FLOPs in all", f"{training.total_flops:.4g}")
    if training.cost:
        one = scenario.hardware
        rate = one.flops * training.devices
        at_best = max(step.flops / rate, step.bytes / (one.bandwidth * training.devices))
        sheet.add_row(f"a step at best, on {training.devices} x {one.name}", show_seconds(at_best))
        sheet.add_row(f"a step at an MFU of {scenario.mfu:.0%}", show_seconds(step.flops / (rate * scenario.mfu)))
        hours = training.cost["device_hours"]
        sheet.add_row("device hours at that MFU", f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}")
        sheet.add_row("days", f"{training.cost['days']:,.4g}")
    if training.cost and "dollars" in training.cost:
        price = f"at ${scenario.dollars_per_hour:g} an hour, as you said"
        sheet.add_row(f"cost {price}", f"${training.cost['dollars']:,.2f}")
    return sheet
