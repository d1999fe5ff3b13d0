"""Parameters, FLOPs, caches, training memory, times and cost of a model or a run, before it starts."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from jaxllm.cli.architectures import MODEL, find_architecture

EPILOG = """\
Settings of the experiment can be changed as for jaxllm train: --mesh.fsdp=8 --training.remat=dots.
Without MODEL, --fits lists the published models that fit into a memory, --list all of them."""


def run(arguments: list[str]) -> int:
    parser = _parser()
    options, overrides = parser.parse_known_args(arguments)
    if options.list or options.fits:
        if options.model or overrides:
            parser.error("--fits and --list take no MODEL and no settings")
        return _pick(options)
    if not options.model:
        parser.error("which MODEL? (or --fits 24GB, or --list)")
    return _plan(options, overrides)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxllm plan", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL)
    parser.add_argument("--context", metavar="N", type=int, default=0, help="tokens of a text; the model's own length")
    parser.add_argument("--batch", metavar="N", type=int, default=1, help="texts at a time in inference [%(default)s]")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="", help="type of weights and caches")
    parser.add_argument(
        "--hardware", metavar="NAME", help="a device: h100, v5p, rtx4090, ... or cpu, which is measured"
    )
    parser.add_argument("--devices", metavar="N", type=int, help="how many; what the mesh needs, or 1")
    parser.add_argument("--train", action="store_true", help="plan training too; experiments and runs always do")
    parser.add_argument("--tokens", metavar="N", type=float, default=0.0, help="to train on; steps times batch")
    parser.add_argument("--mfu", metavar="X", type=float, default=0.4, help="part of the peak reached [%(default)s]")
    parser.add_argument("--dollars-per-hour", metavar="X", type=float, help="price of a device, today's, from you")
    parser.add_argument(
        "--topology", metavar="SLICE", help="compile the training step for it: v5e:8x8, v5p:4x4x8, v5p-256, ..."
    )
    parser.add_argument("--slices", metavar="N", type=int, default=1, help="with --topology: that many slices [1]")
    parser.add_argument(
        "--search",
        metavar="N",
        nargs="?",
        type=int,
        const=12,
        default=0,
        help="with --topology: compile N candidates at most [%(const)s] for remat, accumulation and mesh that fit",
    )
    parser.add_argument("--hlo", metavar="FILE", help="with --topology: write the compiled program there")
    parser.add_argument("--fits", metavar="MEMORY", help="list published models that fit: 24GB, 80GiB")
    parser.add_argument("--weight-bits", metavar="X", type=float, default=0.0, help="with --fits: 4.5, if quantized")
    parser.add_argument("--list", action="store_true", help="list the published models")
    parser.add_argument("--json", action="store_true", help="all numbers, and the rules behind them, as JSON")
    return parser


def _plan(options: argparse.Namespace, overrides: list[str]) -> int:
    if not options.topology and (options.search or options.hlo or options.slices != 1):
        raise ValueError("--search, --hlo and --slices need a slice to compile for: --topology v5e:8x8")
    if options.topology:
        # The arithmetic around the compilation runs here, whatever machine this is; jax is not imported yet.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from jaxllm.config import apply_overrides
    from jaxllm.models.presets import PRESETS
    from jaxllm.plan.hardware import hardware
    from jaxllm.plan.summary import Scenario, make_plan

    experiment, notes = find_architecture(options.model, options.dtype)
    experiment = apply_overrides(experiment, overrides, prog=f"jaxllm plan {options.model}")
    if options.topology:
        from jaxllm.cli.plan_topology import plan_topology

        return plan_topology(experiment, options)
    scenario = Scenario(
        context=options.context,
        batch=options.batch,
        hardware=hardware(options.hardware) if options.hardware else None,
        devices=options.devices,
        train=options.train or options.model not in PRESETS,
        tokens=options.tokens,
        mfu=options.mfu,
        dollars_per_hour=options.dollars_per_hour,
    )
    if options.dollars_per_hour is not None and not options.hardware:
        raise ValueError("a cost needs a device to spend it on: --hardware h100")
    plan = make_plan(experiment, scenario)
    if options.json:
        print(json.dumps(plan.to_json(), indent=2))
        return 0
    from jaxllm.cli.plan_tables import print_plan

    for note in notes:
        print(note, file=sys.stderr)
    print_plan(plan, scenario)
    return 0


def _pick(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from jaxllm.plan.picker import fitting
    from jaxllm.plan.units import read_bytes

    memory = read_bytes(options.fits) if options.fits else float("inf")
    context = options.context or (8192 if options.fits else 1)
    dtype = options.dtype or "bfloat16"
    found = fitting(memory, context, batch=options.batch, dtype=dtype, weight_bits=options.weight_bits)
    if options.json:
        print(json.dumps([asdict(candidate) for candidate in found], indent=2))
        return 0
    from jaxllm.cli.plan_tables import console

    if not found:
        raise ValueError(f"no published model made for {context:,} tokens fits into {options.fits}")
    console().print(_candidates(found, bool(options.fits), context, options.batch))
    return 0


def _candidates(found: tuple[Any, ...], with_memory: bool, context: int, batch: int) -> Any:
    from jaxllm.cli.plan_tables import table
    from jaxllm.plan.units import show_bytes

    headings = ["parameters", "active", "made for"]
    if with_memory:
        headings += ["weights", f"caches of {batch} x {context:,}", "together"]
    sheet = table("model", *headings)
    for c in found:
        cells = [f"{c.total:,}", f"{c.active:,}", f"{c.context_length:,}"]
        sheet.add_row(c.name, *cells, *map(show_bytes, (c.weight_bytes, c.cache_bytes, c.bytes) if with_memory else ()))
    return sheet
