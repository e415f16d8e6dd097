"""The command line: `hornfels --help` lists the commands; also `python -m hornfels`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from .ir.errors import ArgumentError, HornfelsError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the process' exit status (2 for an error of the user's)."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except HornfelsError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False,
                                   soft_wrap=True)  # fmt: skip
        return 2
    except KeyboardInterrupt:
        return 130  # as shells report a process that Ctrl-C ended
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        sys.stderr.close()
        return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hornfels",
        description="A graph compiler for Keras-style models: train and predict natively.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands.add_parser("demo", help="train a small CNN on real digits, end to end"))
    _add_bench(commands.add_parser("bench", help="time backends and installed frameworks"))
    _add_profile(commands.add_parser("profile", help="show where a step's time goes, by kernel"))
    _add_export(commands.add_parser("export", help="write a model as ONNX"))
    _add_inspect(commands.add_parser("inspect", help="print a model's IR at any stage"))
    _add_opt(commands.add_parser("opt", help="run passes on a graph given as text"))
    _add_fuzz(commands.add_parser("fuzz", help="compare all backends on random graphs"))
    _add_cache(commands.add_parser("cache", help="show or empty the cache of compiled programs"))
    _add_bisect(commands.add_parser("bisect", help="find the pass and the rewrite that break it"))
    return parser


def _positive(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return number


# --- demo ------------------------------------------------------------------------------------


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = "Train the demo CNN on the embedded digits; compare and export it."
    parser.add_argument("--backend", default="tvm", help="tvm (default), onnx or eager")
    parser.add_argument("--epochs", type=_positive, default=15, help="passes over the data (15)")
    parser.add_argument("--batch-size", type=_positive, default=32, help="examples per step (32)")
    parser.add_argument("--output", type=Path, default=Path("."), help="folder of the .onnx files")
    parser.set_defaults(run=_run_demo)


def _run_demo(arguments: argparse.Namespace) -> None:
    from .demo import run_demo

    run_demo(arguments.backend, arguments.epochs, arguments.batch_size, arguments.output)


# --- bench -----------------------------------------------------------------------------------


def _add_bench(parser: argparse.ArgumentParser) -> None:
    from .runtime import bench

    bench.add_arguments(parser)
    parser.set_defaults(run=bench.run)


# --- opt, fuzz and bisect --------------------------------------------------------------------


def _add_opt(parser: argparse.ArgumentParser) -> None:
    from .passes import opt

    parser.description = "Run passes on a graph given as text, from a file or standard input."
    opt.add_arguments(parser)
    parser.set_defaults(run=opt.run)


def _add_fuzz(parser: argparse.ArgumentParser) -> None:
    from .fuzz import command

    parser.description = (
        "Run random training steps on every backend with passes on and off, and compare."
    )
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)


def _add_bisect(parser: argparse.ArgumentParser) -> None:
    from .fuzz import command

    parser.description = "Find the pass, and the single rewrite, that break a graph on a backend."
    command.add_bisect_arguments(parser)
    parser.set_defaults(run=command.run_bisect)


# --- profile ---------------------------------------------------------------------------------


def _add_profile(parser: argparse.ArgumentParser) -> None:
    from .runtime import profile

    parser.description = "Run a step on made-up data and show each kernel against the roofline."
    _add_model(parser)
    profile.add_arguments(parser)
    parser.set_defaults(run=_run_profile)


def _run_profile(arguments: argparse.Namespace) -> None:
    from .benchmarks.models import BENCH_MODELS
    from .runtime.executable import BackendOptions
    from .runtime.profile import random_inputs
    from .runtime.session import compile

    known = arguments.model in BENCH_MODELS
    face = importlib.import_module(__package__)
    model = BENCH_MODELS[arguments.model].build(face) if known else load_model(arguments.model)
    batch = random_inputs(model.declared_types(arguments.kind), arguments.batch_size)
    fast = compile(model, options=BackendOptions.of(arguments.target))
    found = fast.profile_batch(arguments.kind, batch, arguments.steps)
    Console().print(found.table(arguments.rows))
    if arguments.trace:
        found.save_trace(arguments.trace)


# --- cache -----------------------------------------------------------------------------------


def _add_cache(parser: argparse.ArgumentParser) -> None:
    from .runtime import cache_command

    parser.description = "Show or empty the folder of compiled programs that later runs load."
    cache_command.add_arguments(parser)
    parser.set_defaults(run=cache_command.run)


# --- export and inspect ----------------------------------------------------------------------


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        help="MODULE:ATTRIBUTE, FILE.py:ATTRIBUTE or FILE.py (then its only model is taken); "
        "the attribute is a model or a function that returns one",
    )


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write a model's prediction or training step as a plain ONNX file."
    _add_model(parser)
    parser.add_argument("path", type=Path, help="the .onnx file to write")
    parser.add_argument("--kind", choices=("predict", "train"), default="predict",
                        help="what to export (predict)")  # fmt: skip
    parser.set_defaults(run=_run_export)


def _run_export(arguments: argparse.Namespace) -> None:
    from .runtime.session import compile

    compile(load_model(arguments.model), backend="eager").export(arguments.path, arguments.kind)
    print(arguments.path)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    from .passes.pipeline import STAGES

    parser.description = "Print the IR of a model at a stage of the pipeline."
    _add_model(parser)
    parser.add_argument("--kind", choices=("predict", "test", "train"), default="predict",
                        help="which step (predict)")  # fmt: skip
    parser.add_argument("--stage", choices=STAGES, default=STAGES[0],
                        help="after which pass; '00_trace' is before all (default)")  # fmt: skip
    parser.add_argument("--batch-size", type=_positive, default=None,
                        help="bind the batch dimension; the stage 'plan' needs it")  # fmt: skip
    parser.set_defaults(run=_run_inspect)


def _run_inspect(arguments: argparse.Namespace) -> None:
    from .passes.pipeline import stage_text
    from .runtime.session import compile

    graph = compile(load_model(arguments.model), backend="eager").graph(arguments.kind)
    if arguments.batch_size is not None:
        graph = graph.specialize({"N": arguments.batch_size})
    print(stage_text(graph, arguments.stage))


def load_model(name: str) -> Any:
    """The model that `MODULE:ATTRIBUTE`, `FILE.py:ATTRIBUTE` or `FILE.py` names.

    Raises
    ------
    ArgumentError
        If the module cannot be imported, or has no such model.
    """
    from .frontend.models.model import Model

    place, _, attribute = name.partition(":")
    module = _load_module(place)
    if not attribute:
        models = [key for key, value in vars(module).items() if isinstance(value, Model)]
        if len(models) != 1:
            raise ArgumentError(f"{place} must hold one model, it holds {', '.join(models) or 0}",
                                hint=f"name one: {place}:NAME")  # fmt: skip
        attribute = models[0]
    if not hasattr(module, attribute):
        raise ArgumentError(f"{place} has no attribute {attribute!r}")
    found = getattr(module, attribute)
    with _loading(name):
        model = found() if callable(found) and not isinstance(found, Model) else found
    if not isinstance(model, Model):
        raise ArgumentError(f"{name} must be a model, got {type(model).__name__}")
    return model


def _load_module(place: str) -> Any:
    path = Path(place)
    if not place.endswith(".py"):
        sys.path.insert(0, "")  # modules of the current folder, as with `python -m`
        with _loading(f"module {place!r}"):
            return importlib.import_module(place)
    if not path.is_file():
        raise ArgumentError(f"there is no file {place}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _loading(place):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _loading(what: str) -> Iterator[None]:
    """Turn what the user's code raises into an error of ours that says where it did."""
    try:
        yield
    except HornfelsError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ArgumentError(f"{what} cannot be loaded: {type(error).__name__}: {error}",
                            where=f"{frame.filename}:{frame.lineno}") from error  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
