"""`hornfels opt`: run passes on a graph that is given as text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from ..ir.errors import ArgumentError
from ..ir.files import replacing
from ..ir.graph import Graph
from ..ir.text import parse
from .pipeline import PASSES, PIPELINE, Pass, Stage, passes_named, stages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `hornfels opt`."""
    parser.add_argument("graph", nargs="?", default="-", metavar="GRAPH.ir",
                        help="its file; standard input without one or for '-'")  # fmt: skip
    parser.add_argument("-p", "--passes", default="all", metavar="NAMES",
                        help="comma-separated, in order (default: all, the pipeline)")  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.ir",
                        help="where to write the result; standard output without it")  # fmt: skip
    parser.add_argument("--print-between", action="store_true",
                        help="print the graph after every pass")  # fmt: skip
    parser.add_argument("--verbose", action="store_true",
                        help="say on stderr what each pass and rule did, and the time")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="list the passes and end")


def run(arguments: argparse.Namespace) -> None:
    """Read, run the passes, write.

    Raises
    ------
    ArgumentError
        If there is no such file or pass.
    ParseError
        If the text is no graph.
    PassError
        If a pass fails.
    """
    if arguments.list:
        print("\n".join(listing()))
        return
    passes = passes_named(arguments.passes)
    stage = None
    for stage in stages(read_graph(arguments.graph), passes):
        if arguments.print_between:
            print(f"# {stage.record or stage.name}\n{stage.graph}\n")
        if arguments.verbose and stage.record:
            print("\n".join(words(stage)), file=sys.stderr)
    assert stage is not None
    if arguments.output:
        with replacing(arguments.output) as path:
            path.write_text(f"{stage.graph}\n")
    elif not arguments.print_between:
        print(stage.graph)


def read_graph(name: str) -> Graph:
    """The graph of a file, or of standard input if the name is `-`."""
    if name == "-":
        return parse(sys.stdin.read())
    path = Path(name)
    if not path.is_file():
        raise ArgumentError(f"there is no file {name}")
    return parse(path.read_text())


def listing() -> Iterator[str]:
    """The passes with what they do, then the pipeline."""
    width = max(map(len, PASSES))
    for name, each in PASSES.items():
        yield f"{name:{width}}  {_doc(each)}"
    yield f"{'all':{width}}  {', '.join(p.name for p in PIPELINE)}"


def _doc(each: Pass) -> str:
    return (type(each).__doc__ or "").strip().splitlines()[0]


def words(stage: Stage) -> Iterator[str]:
    """What a pass did: nodes, time, and how often each rule fired or why it was refused."""
    record = stage.record
    assert record is not None
    yield str(record)
    if record.rules is not None:
        yield from (f"  {line}" for line in str(record.rules).splitlines())
    elif record.rewrites:
        yield f"  {record.rewrites} rewrites"
