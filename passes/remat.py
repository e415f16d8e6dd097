"""Rematerialization: values are computed a second time rather than kept, so that a step fits.

The backward half of a training step reads what the forward half computed. What is read late can
be *kept* from one to the other, or *dropped* and computed again from what is kept, right before
it is read:

    %c = conv(%x, %w)                          %c = conv(%x, %w)
    %r = relu(%c)                              %r = relu(%c)
    ...                                        ...
    %g = ...                                   %g = ...
                                      ->       %k = optimization_barrier(%c, %g)
                                               %s = relu(%k)
    %d = conv_kernel_grad(%r, %g)              %d = conv_kernel_grad(%s, %g)

The barrier keeps the second computation from being merged with the first, and from running before
the gradient has come down to it. Activations are dropped greedily, the one with the most bytes for
the least time first, as long as that lowers the peak; what a step needs is simulated call by call,
and the exact plan decides. So cheap functions of what is kept anyway (batch normalization, relu,
dropout masks) go first, then convolutions between the ends of blocks. The trade is that of Chen et
al. 2016 (arXiv:1604.06174); choosing by bytes for time follows Kirisame et al. 2020
(arXiv:2006.09616).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from ..ir.errors import MemoryBudgetError
from ..ir.graph import Graph, Node, Value, reachable, same
from ..ir.op import get
from ..ir.settings import report
from .outline import BARRIER, members
from .plan import Call, Plan, align
from .work import Work, work_between, work_of

# Nanoseconds, of one operation each: only their ratios matter. A fast core does 100 operations of
# matrix products in a nanosecond, 16 simple ones, and moves 16 bytes.
_PER_FLOP, _PER_OPERATION, _PER_BYTE = 0.01, 0.06, 0.06
_PLANS = 12
"""Exact plans that are tried at most, each with a lower simulated peak than the last."""
_NEAR = 0.98
"""Times at which this share of the peak is in use count as peaks, too."""


def rematerialize(graph: Graph, budget: int, make_plan: Callable[[Graph], Plan]) -> Graph:
    """A graph that computes the same in an arena of at most `budget` bytes.

    Parameters
    ----------
    graph : Graph
        Optimized, of fixed sizes.
    budget : int
        Bytes of the arena.
    make_plan : callable
        Plans a graph; its `arena_bytes` decide.

    Returns
    -------
    Graph
        `graph` itself if its plan fits already.

    Raises
    ------
    MemoryBudgetError
        If no choice that was found fits; `minimum` holds the bytes of the smallest one.
    """
    plan = make_plan(graph)
    if plan.arena_bytes <= budget:
        return graph
    step = _Step(plan)
    smallest, target, choice = plan.arena_bytes, step.peak(_NONE), _NONE
    scale = target / plan.arena_bytes  # the simulation knows no reuse in place
    for _ in range(_PLANS):
        target = min(target - 1, int(budget * scale))
        choice = step.choose(target, choice)
        found = step.rewrite(choice)
        exact = make_plan(found).arena_bytes
        report("memory", f"remat {graph.name}: {len(choice)} values dropped, "
                         f"{plan.arena_bytes} -> {exact} bytes of the arena, "
                         f"{step.share_of_time(choice):.0%} more time")  # fmt: skip
        if exact <= budget:
            return found
        smallest = min(smallest, exact)
        reached = step.peak(choice)
        if reached > target:
            break  # nothing is left to drop
        scale, target = reached / exact, reached
    raise MemoryBudgetError(
        f"graph {graph.name}: the temporary values need {smallest} bytes, the least that was "
        f"found, and the memory budget leaves {budget}",
        minimum=smallest, hint="a smaller batch needs less memory",
    )  # fmt: skip


_Choice = frozenset[Value]
"""The values that are dropped."""
_NONE: _Choice = frozenset()


@dataclass(frozen=True)
class _Recipe:
    """What computing one value alone reads and takes."""

    reads: tuple[Value, ...]
    nanoseconds: float


@dataclass
class _Run:
    """One event of a simulated step: a call, or a call that is repeated for one output."""

    reads: tuple[object, ...]
    writes: tuple[tuple[object, int], ...]


@dataclass
class _Timeline:
    """The events of a step with some values dropped."""

    runs: list[_Run] = field(default_factory=list)
    repeated: dict[Value, object] = field(default_factory=dict)
    nanoseconds: float = 0.0

    def usage(self) -> list[int]:
        """Bytes in use during each event."""
        last: dict[object, int] = {}
        for time, run in enumerate(self.runs):
            last.update(dict.fromkeys((*run.reads, *(v for v, _ in run.writes)), time))
        size: dict[object, int] = {}
        used, found = 0, []
        for time, run in enumerate(self.runs):
            for value, nbytes in run.writes:
                size[value] = nbytes
                used += nbytes
            found.append(used)
            ended = dict.fromkeys((*run.reads, *(v for v, _ in run.writes)))
            used -= sum(size.get(v, 0) for v in ended if last[v] == time)
        return found


class _Step:
    """A planned step, cut at its peak in an early and a late half."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.graph = plan.graph
        self.calls = plan.calls
        self.producer = {v: i for i, call in enumerate(self.calls) for v in call.outputs}
        self.recipes = {v: self._recipe(v) for v in self.producer if self.repeatable(v)}
        self.reads = [tuple(dict.fromkeys(map(self.owner, c.inputs))) for c in self.calls]
        self.turn = len(self.calls)
        usage = self.timeline(_NONE).usage()
        self.turn = usage.index(max(usage, default=0)) if usage else 0
        late = {v for reads in self.reads[self.turn + 1 :] for v in reads}
        self.kept = {v for v in late if self.producer.get(v, len(self.calls)) <= self.turn}
        self.saved = [v for v in self.producer  # in the order of the calls
                      if v in self.kept and self.size(v) and self.repeatable(v)]  # fmt: skip

    def owner(self, value: Value) -> Value:
        """The computed value or parameter that a view shows."""
        while value not in self.producer and value.node is not None and value.node.inputs:
            value = value.node.inputs[0]
        return value

    def size(self, value: Value) -> int:
        """Bytes of the arena; none for what lies in outputs, state, inputs or constants."""
        slot = self.plan.slots[value]
        return align(slot.nbytes) if slot.space == "arena" else 0

    def repeatable(self, value: Value) -> bool:
        """Whether it is a kernel that computes the value: loops are not run twice."""
        return isinstance(self.calls[self.producer[value]], Call)

    def _recipe(self, value: Value) -> _Recipe:
        """How to compute a value from parameters and from what calls compute, its own too."""
        nodes = members([value], self.producer)
        computed = {out for node in nodes for out in node.outputs}
        operands = dict.fromkeys(v for n in nodes for v in n.inputs if v not in computed)
        reads = [v for v in operands if not v.is_constant]
        work = work_between(nodes, reads, [value])
        return _Recipe(tuple(reads), _nanoseconds(work))

    # --- simulation --------------------------------------------------------------------------

    def peak(self, choice: _Choice) -> int:
        """The most bytes in use at any time."""
        return max(self.timeline(choice).usage(), default=0)

    def share_of_time(self, choice: _Choice) -> float:
        """What the repeated calls take, of the time of all calls."""
        times = Counter(call.kernel for call in self.calls if isinstance(call, Call))
        whole = sum(_nanoseconds(work_of(k)) * times[k] for k in times)
        return self.timeline(choice).nanoseconds / (whole or 1.0)

    def timeline(self, choice: _Choice) -> _Timeline:
        """The calls in order, with repeated ones where their results are read."""
        line = _Timeline()
        for i, call in enumerate(self.calls):
            read = self.reads[i]
            if i > self.turn:
                reads = tuple(self._again(v, choice, line) if v in choice else v for v in read)
            else:
                reads = read
            line.runs.append(_Run(reads, tuple((v, self.size(v)) for v in call.outputs)))
        return line

    def _again(self, value: Value, choice: _Choice, line: _Timeline) -> object:
        """A value computed again, by events that are put on the line unless they are there."""
        for each in self.needed_again(value, choice):
            if each in line.repeated:
                continue
            recipe = self.recipes[each]
            reads = tuple(line.repeated.get(v, v) for v in recipe.reads)
            line.repeated[each] = again = (each, "again")
            line.runs.append(_Run(reads, ((again, self.size(each)),)))
            line.nanoseconds += recipe.nanoseconds
        return line.repeated[value]

    def needed_again(self, value: Value, choice: _Choice) -> list[Value]:
        """A dropped value, after all that must be computed again for it."""
        found, stack = {value}, [value]
        while stack:
            for read in self.recipes[stack.pop()].reads:
                if read not in found and self.must_repeat(read, choice):
                    found.add(read)
                    stack.append(read)
        return sorted(found, key=self.producer.__getitem__)

    def must_repeat(self, value: Value, choice: _Choice) -> bool:
        """Whether what is computed again finds this operand neither kept nor in a block."""
        if value in choice:
            return True
        early = value in self.producer and value not in self.kept
        return early and bool(self.size(value)) and self.repeatable(value)

    # --- choice ------------------------------------------------------------------------------

    def choose(self, target: int, choice: _Choice) -> _Choice:
        """Drop more values until the simulated peak is at most `target`, or no drop lowers it."""
        measure = self._measure(choice)
        refused: set[Value] = set()
        progress = False
        while measure[0] > target:
            left = [v for v in self.saved if v not in choice and v not in refused]
            if not left:
                if not progress:
                    break
                refused, progress = set(), False  # what was no use before may be one now
                continue
            best = max(left, key=lambda v: self.size(v) / self._extra(v, choice))
            found = self._measure(choice | {best})
            if found < measure:
                choice, measure, progress = choice | {best}, found, True
            else:
                refused.add(best)
        return choice

    def _measure(self, choice: _Choice) -> tuple[int, int]:
        """The peak, and how often it is nearly reached: the less the better."""
        usage = self.timeline(choice).usage()
        peak = max(usage, default=0)
        return peak, sum(used >= _NEAR * peak for used in usage)

    def _extra(self, value: Value, choice: _Choice) -> float:
        """Nanoseconds that dropping one more value takes, beside what is repeated already."""
        needed = self.needed_again(value, choice)
        return sum(self.recipes[v].nanoseconds for v in needed if v not in choice) or 1.0

    # --- rewriting ---------------------------------------------------------------------------

    def rewrite(self, choice: _Choice) -> Graph:
        """The graph, in the order of the calls, with barriers and repeated nodes."""
        return _Rewriting(self, choice).graph()


class _Rewriting:
    """Makes the graph in which the dropped values are computed again."""

    def __init__(self, step: _Step, choice: _Choice) -> None:
        self.step = step
        self.choice = choice
        self.late: dict[Value, Value] = {}  # what late calls read and compute instead
        self.again: dict[Value, Value] = {}  # values computed again, kept ones behind barriers
        self.token = step.calls[0].outputs[0]

    def graph(self) -> Graph:
        graph = self.step.graph
        wanted: list[Value] = []  # in the order in which calls compute it
        for i, call in enumerate(self.step.calls):
            if i <= self.step.turn:
                wanted += call.outputs
            else:
                for value in dict.fromkeys(map(self.step.owner, call.inputs)):
                    if value in self.choice:
                        wanted += self._repeated(value)
                wanted += map(self._late, call.outputs)
            self.token = wanted[-1]
        outputs = tuple(map(self._late, graph.outputs))
        updates = tuple((old, self._late(new)) for old, new in graph.updates)
        results = (*outputs, *(new for _, new in updates))
        needed = set(reachable(results))
        nodes = tuple(n for n in reachable((*wanted, *results)) if n in needed)
        return Graph(graph.name, graph.inputs, graph.state, nodes, outputs,
                     graph.output_names, updates)  # fmt: skip

    def _late(self, value: Value) -> Value:
        """What stands for a value in the late half."""
        if value in self.late or value.node is None or not value.node.inputs:
            return self.late.get(value, value)
        index = self.step.producer.get(value)
        if index is not None and index <= self.step.turn:
            return self.again[value] if value in self.choice else value
        self._copy(value.node, self.late, self._late)
        return self.late[value]

    def _repeated(self, value: Value) -> list[Value]:
        """Compute a dropped value again, after what that needs; nothing if it was done."""
        order = [v for v in self.step.needed_again(value, self.choice) if v not in self.again]
        for each in order:
            assert each.node is not None
            self._copy(each.node, self.again, self._operand)
        return [self.again[each] for each in order]

    def _operand(self, value: Value) -> Value:
        """What stands for an operand of what is computed again."""
        if value in self.again or value.is_constant:
            return self.again.get(value, value)
        if value in self.step.producer or value.node is None:
            barrier = Node(get(BARRIER), (value, self.token), {})
            self.again[value] = barrier.output
        else:  # a view, or computed where it is read
            self._copy(value.node, self.again, self._operand)
        return self.again[value]

    @staticmethod
    def _copy(node: Node, values: dict[Value, Value], operand: Callable[[Value], Value]) -> None:
        operands = tuple(map(operand, node.inputs))
        unchanged = same(operands, node.inputs)
        copy = node if unchanged else Node(node.op, operands, node.attrs, node.source)
        values.update(zip(node.outputs, copy.outputs, strict=True))


def _nanoseconds(work: Work) -> float:
    """Roughly, relative to other work."""
    small = work.operations * _PER_OPERATION + work.nbytes * _PER_BYTE
    return work.flops * _PER_FLOP + small
