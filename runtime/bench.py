"""`hornfels bench`: its options, and the run from measuring to the tables.

`add_arguments` declares the options on a parser and `run` does what they say.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from ..benchmarks.engines import ENGINES
from ..benchmarks.models import BENCH_MODELS, SETS
from ..ir.errors import ArgumentError
from .bench_measure import Options, Report, measure
from .bench_report import markdown, show

POLICIES = ("float32", "mixed_bfloat16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `hornfels bench`."""
    defaults = Options()
    peers = [name for name, kind in ENGINES.items() if not kind.ours]
    parser.add_argument(
        "--models",
        default="small",
        help=f"comma-separated, from: {', '.join((*BENCH_MODELS, *SETS))} (default: small)",
    )
    parser.add_argument(
        "--backends",
        default="eager,onnx,tvm",
        help="Hornfels' backends to measure, comma-separated (default: eager,onnx,tvm)",
    )
    parser.add_argument(
        "--peers",
        default="all",
        help=f"'all' that are installed, 'none', or comma-separated from: {', '.join(peers)}",
    )
    parser.add_argument(
        "--batch-size", type=int, help="samples of a training step (default: by the model)"
    )
    parser.add_argument(
        "--policy",
        choices=POLICIES,
        default=defaults.policy,
        help="dtype policy of all engines; PyTorch's autocast for mixed_bfloat16",
    )
    parser.add_argument("--rounds", type=int, default=defaults.rounds, help="timed rounds each")
    parser.add_argument(
        "--round-seconds",
        type=float,
        default=defaults.round_seconds,
        help="aimed length of a round (default: %(default)s)",
    )
    parser.add_argument(
        "--busy",
        action="store_true",
        help="time every round once more while another process computes on one core",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to FILE")


def options_from(arguments: argparse.Namespace) -> Options:
    """The options of parsed arguments.

    Raises
    ------
    ArgumentError
        A name is unknown or a number is not positive.
    """
    ours = [name for name, kind in ENGINES.items() if kind.ours]
    peers = [name for name, kind in ENGINES.items() if not kind.ours]
    chosen = {"all": tuple(peers), "none": ()}.get(arguments.peers)
    if chosen is None:
        chosen = _names("--peers", arguments.peers, peers)
    for option in ("batch_size", "rounds", "round_seconds"):
        given = getattr(arguments, option)
        if given is not None and not given > 0:
            raise ArgumentError(
                f"bench: --{option.replace('_', '-')} must be positive, got {given}"
            )
    return Options(
        models=_models(arguments.models),
        engines=(*_names("--backends", arguments.backends, ours), *chosen),
        batch_size=arguments.batch_size,
        policy=arguments.policy,
        rounds=arguments.rounds,
        round_seconds=arguments.round_seconds,
        busy=arguments.busy,
    )


def _models(text: str) -> tuple[str, ...]:
    """Names of models and of sets of them, each model once."""
    names = _names("--models", text, (*BENCH_MODELS, *SETS))
    return tuple(dict.fromkeys(m for name in names for m in SETS.get(name, (name,))))


def _names(option: str, text: str, legal: Iterable[str]) -> tuple[str, ...]:
    legal = tuple(legal)
    names = tuple(name for name in text.split(",") if name)
    for name in names:
        if name not in legal:
            raise ArgumentError(f"bench: {option} must be of {', '.join(legal)}, got {name!r}")
    return names


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, and write the file if one was asked for; the exit status.

    The file is written anew after every model, so that a run that is stopped has measured
    something.
    """
    options = options_from(arguments)
    console = Console()

    def write(report: Report) -> None:
        if arguments.markdown:
            arguments.markdown.write_text(markdown(report))

    report = measure(options, Console(stderr=True), write)
    show(report, console)
    if arguments.markdown:
        console.print(f"Wrote {arguments.markdown}.")
    return 0
