"""Plan a ladder of small models from a base experiment, train them, and fit scaling laws to what they came to.

    python experiments/scaling_ladder.py plan quickstart --out ladder --mup --budgets 3e13 1e14 3e14
    python experiments/scaling_ladder.py run ladder
    python experiments/scaling_ladder.py fit ladder --hold-out 1 --picture ladder/scaling.png

`ladder/ladder.json` holds every run's complete config; each run has its directory in `ladder`. `run` goes on where it
was stopped. Whatever `plan` does not know itself, such as --training.batch_size=32, changes the base experiment.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxllm import config as configs
from jaxllm.cli.plan_tables import console, table
from jaxllm.models.config import MuPConfig
from jaxllm.plan.scaling_bootstrap import bootstrap, predict
from jaxllm.plan.scaling_fits import FORMS, Fit, fit
from jaxllm.plan.scaling_frontier import Frontier, fit_isoflop, frontier
from jaxllm.plan.scaling_ladder import RULES, Ladder, LadderConfig, plan_ladder
from jaxllm.plan.scaling_laws import UNITS
from jaxllm.plan.scaling_results import read_run
from jaxllm.training.amounts import short_count
from jaxllm.training.experiment import Experiment

PLAN_FILE = "ladder.json"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    _plan_options(verbs.add_parser("plan", help="choose sizes and texts, and write them down"))
    run = verbs.add_parser("run", help="train what is not trained yet")
    run.add_argument("ladder", type=Path)
    run.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these runs [all]")
    _fit_options(verbs.add_parser("fit", help="fit laws to the runs that are finished"))
    options, rest = parser.parse_known_args(arguments)
    if rest and options.verb != "plan":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        {"plan": lambda: plan(options, rest), "run": lambda: train(options), "fit": lambda: show_fit(options)}[
            options.verb
        ]()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _plan_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", help="an experiment: a file, or the name of one in experiments/")
    parser.add_argument("--out", type=Path, required=True, help="directory of the ladder")
    parser.add_argument("--budgets", type=float, nargs="+", default=[], help="operations of each iso-FLOP row")
    parser.add_argument("--widths", type=int, nargs="+", default=[], help="d_model of each model")
    parser.add_argument("--sizes", type=int, default=LadderConfig.sizes, help="models in a row [%(default)s]")
    parser.add_argument("--ratio", type=float, default=LadderConfig.tokens_per_parameter, help="D / N [%(default)s]")
    parser.add_argument("--spread", type=float, default=LadderConfig.spread, help="of a row's sizes [%(default)s]")
    parser.add_argument("--mup", action="store_true", help="carry the rate from the base's width and depth to others")
    parser.add_argument("--flops", choices=("exact", "6ND"), default="exact", help="how they are counted")
    parser.add_argument("--min-steps", type=int, default=LadderConfig.min_steps, help="of a run [%(default)s]")


def _fit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ladder", type=Path)
    parser.add_argument("--law", choices=tuple(FORMS), help="[chinchilla; compute for one number of tokens each]")
    parser.add_argument("--unit", choices=tuple(UNITS), default="bits_per_byte", help="of losses [%(default)s]")
    parser.add_argument("--count", choices=("all", "non_embedding"), default="all", help="which parameters are N")
    parser.add_argument("--hold-out", type=int, default=0, help="costliest runs to predict rather than to fit")
    parser.add_argument("--samples", type=int, default=500, help="resampled sets of runs [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling")
    parser.add_argument("--at", type=float, nargs="+", default=[], help="computes to say the best allocation of")
    parser.add_argument("--picture", type=Path, help="a .png, .svg or .pdf file")


def plan(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Write the ladder, or find the same one there already."""
    base = configs.load_experiment(options.base, Experiment)
    base = configs.apply_overrides(base, overrides, prog="scaling_ladder.py plan")
    if not base.model.vocab_size:
        from jaxllm.pipeline.pretrain import VOCAB_MULTIPLE

        rows = -(-base.tokenizer.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
        base = replace(base, model=replace(base.model, vocab_size=rows))
    if options.mup:
        mup = MuPConfig(base_width=base.model.d_model, base_depth=base.model.num_layers)
        base = replace(base, model=replace(base.model, mup=mup))
    ladder = plan_ladder(
        base,
        LadderConfig(
            budgets=tuple(options.budgets),
            widths=tuple(options.widths),
            sizes=options.sizes,
            tokens_per_parameter=options.ratio,
            spread=options.spread,
            flops=options.flops,
            min_steps=options.min_steps,
        ),
    )
    place = options.out / PLAN_FILE
    if place.exists() and read_ladder(options.out) != ladder:
        raise ValueError(f"{place} holds another ladder: choose another --out, or remove it with its runs")
    options.out.mkdir(parents=True, exist_ok=True)
    place.write_text(configs.to_json(ladder) + "\n")
    print_ladder(ladder)


def read_ladder(directory: Path) -> Ladder:
    place = directory / PLAN_FILE
    if not place.is_file():
        raise ValueError(f"there is no {place}: plan the ladder first")
    return configs.from_json(place.read_text(), Ladder, source=str(place))


def print_ladder(ladder: Ladder) -> None:
    page = console()
    sheet = table("run", "layers", "width", "N", "N, no tables", "D", "D / N", "FLOP", "steps", "rows", "rate")
    for rung in ladder.rungs:
        model, training = rung.experiment.model, rung.experiment.training
        cells = (
            *(str(model.num_layers), str(model.d_model), short_count(rung.parameters), short_count(rung.non_embedding)),
            *(short_count(rung.tokens), f"{rung.tokens / rung.parameters:.3g}", f"{rung.flops:.3g}"),
            *(str(training.steps), str(training.batch_size), f"{rung.experiment.optimizer.learning_rate:.3g}"),
        )
        sheet.add_row(rung.name, *cells)
    page.print(sheet)
    page.print(f"{len(ladder.rungs)} runs, {ladder.flops:.3g} FLOP together")
    # The rate's rule depends on the parametrization.
    left_out = "learning rate" if ladder.rungs[0].experiment.model.mup else "learning rate, µP"
    page.print(*(f"[dim]{name}: {rule}[/dim]" for name, rule in RULES.items() if name != left_out), sep="\n")


def train(options: argparse.Namespace) -> None:
    """Train one after another with one tokenizer and one reading of the text; finished runs are passed over."""
    from jaxllm.cli.progress import reporter
    from jaxllm.data.corpus import SplitDocuments
    from jaxllm.pipeline.pretrain import prepare_tokenizer, pretrain

    ladder = read_ladder(options.ladder)
    names = [rung.name for rung in ladder.rungs]
    if unknown := set(options.only) - set(names):
        raise ValueError(f"the ladder has no run {sorted(unknown)[0]}; it has {', '.join(names)}")
    first = ladder.rungs[0].experiment
    documents, shared = SplitDocuments(first.data), options.ladder / "tokenizer"
    for rung in ladder.rungs:
        directory = options.ladder / rung.name
        if (options.only and rung.name not in options.only) or is_finished(directory):
            continue
        with reporter() as report:
            report.say(f"{rung.name}: {short_count(rung.parameters)} parameters, {short_count(rung.tokens)} tokens")
            prepare_tokenizer(first, documents, shared, report)
            if not (directory / "tokenizer").exists():
                shutil.copytree(shared, directory / "tokenizer")
            outcome = pretrain(rung.experiment, directory, report, documents=documents).outcome
        if not outcome.finished:
            raise ValueError(f"{rung.name} was stopped at step {outcome.step}: run the same command to go on")
        print(f"{rung.name}: {outcome.val_loss:.4f} nats per token, {outcome.val_bpb:.4f} bits per byte")


def is_finished(directory: Path) -> bool:
    from jaxllm.training.history import summarize

    return directory.is_dir() and summarize(directory).status == "finished"


def show_fit(options: argparse.Namespace) -> None:
    ladder = read_ladder(options.ladder)
    names = [rung.name for rung in ladder.rungs if is_finished(options.ladder / rung.name)]
    print(f"{len(names)} of {len(ladder.rungs)} runs are finished")
    runs = [
        read_run(options.ladder / name, options.unit, count=options.count, flops=ladder.config.flops) for name in names
    ]
    runs.sort(key=lambda run: run.flops)
    if not 0 <= options.hold_out < max(1, len(runs)):
        raise ValueError(f"can't hold out {options.hold_out} of {len(runs)} runs")
    fitted, held_out = runs[: len(runs) - options.hold_out], runs[len(runs) - options.hold_out :]
    law = options.law or ("chinchilla" if ladder.config.budgets else "compute")
    boot = bootstrap(fit(law, fitted), options.samples, options.seed)
    predictions = [(run, predict(boot, run.parameters, run.tokens)) for run in held_out]
    print_law(boot)
    isoflop = None
    if ladder.config.budgets:
        try:
            isoflop = fit_isoflop(fitted, samples=options.samples, seed=options.seed)
            print_isoflop(isoflop)
        except ValueError as error:  # the law above stands without it
            print(f"no frontier from iso-FLOP rows: {error}\n")
    if predictions:
        print_predictions(predictions)
    if options.at:
        print_frontier(boot.fit, options.at)
    if options.picture:
        from jaxllm.plan.scaling_picture import draw_scaling

        print(draw_scaling(boot.fit, options.picture, isoflop=isoflop, held_out=predictions))


def print_law(boot) -> None:
    page, law = console(), boot.fit.law
    sheet = table(f"{boot.fit.kind} law", "fitted", "95% from", "to")
    for name in vars(law):
        interval = boot.interval(lambda law, name=name: getattr(law, name))
        sheet.add_row(name, f"{getattr(law, name):.5g}", f"{interval.low:.5g}", f"{interval.high:.5g}")
    page.print(sheet)
    dropped = f", {boot.dropped} samples without a law" if boot.dropped else ""
    agreeing, largest = boot.fit.starts_agreeing, abs(boot.fit.residuals()).max()
    page.print(
        f"{len(boot.fit.runs)} runs, C = {boot.fit.factor:.3g} N D, {agreeing:.0%} of the starts agree, "
        f"largest deviation {largest:.2%}{dropped}\n"
    )


def print_isoflop(found: Frontier) -> None:
    page = console()
    sheet = table("budget", "sizes", "best N", "best D", "loss", "")
    for p in found.parabolas:
        note = "" if p.enclosed else "no minimum inside: left out"
        cells = (short_count(p.parameters), short_count(p.tokens), f"{p.loss:.4f}") if p.enclosed else ("-", "-", "-")
        sheet.add_row(f"{p.flops:.3g}", str(len(p.runs)), *cells, note)
    page.print(sheet)
    for name, law, key in (("N*", found.parameters, "a"), ("D*", found.tokens, "b")):
        spread = found.intervals[key]
        page.print(f"{name} = {law.coefficient:.4g} C^{law.exponent:.3f} (95% {spread.low:.3f} to {spread.high:.3f})")
    page.print("")


def print_predictions(predictions) -> None:
    sheet = table("held out", "loss", "predicted", "95% from", "to", "", "")
    for run, said in predictions:
        inside = "inside" if run.loss in said.interval else "OUTSIDE"
        beyond = f"extrapolated {said.beyond:.3g}x" if said.extrapolated else ""
        numbers = (run.loss, said.loss, said.interval.low, said.interval.high)
        sheet.add_row(run.name, *(f"{number:.4f}" for number in numbers), inside, beyond)
    console().print(sheet, "")


def print_frontier(fitted: Fit, budgets: Sequence[float]) -> None:
    sheet = table("FLOP", "best N", "best D", "D / N", "loss", "")
    for point in frontier(fitted, budgets):
        best = point.allocation
        beyond = f"extrapolated {point.beyond:.3g}x" if point.extrapolated else ""
        amounts = short_count(best.parameters), short_count(best.tokens), f"{best.tokens_per_parameter:.3g}"
        sheet.add_row(f"{best.flops:.3g}", *amounts, f"{best.loss:.4f}", beyond)
    console().print(sheet)


if __name__ == "__main__":
    sys.exit(main())
