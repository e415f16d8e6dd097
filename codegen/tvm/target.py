"""Targets: what the user names, and the model of the machine that the templates size tiles by."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass, replace
from functools import cache

import tvm
from tvm.target import codegen as llvm

from ...ir.errors import LoweringError
from ..native.host import host_caches, host_cores


@dataclass(frozen=True)
class Machine:
    """What a kernel template must know of a processor.

    Parameters
    ----------
    cpu : str
        LLVM's name of the processor, e.g. ``znver4``.
    features : frozenset of str
        LLVM's names of its features, e.g. ``avx512f``.
    vector_bits : int
        Width of one vector register.
    vector_registers : int
        Number of vector registers.
    l1, l2, l3 : int
        Bytes of the data caches: `l1` and `l2` per core, `l3` shared (0 if there is none).
    cores : int
        Threads that a parallel loop is split over.
    """

    cpu: str
    features: frozenset[str]
    vector_bits: int
    vector_registers: int
    l1: int
    l2: int
    l3: int
    cores: int

    def lanes(self, dtype: str) -> int:
        """Elements of `dtype` (TVM's name) that one vector register holds.

        Examples
        --------
        >>> from hornfels.codegen.tvm.target import host_machine
        >>> host_machine().lanes("float32") == host_machine().vector_bits // 32
        True
        """
        return max(1, self.vector_bits // max(8, tvm.DataType(dtype).bits))


@dataclass(frozen=True)
class Target:
    """A parsed target: its text, the machine, and what TVM needs to compile for it."""

    text: str
    machine: Machine
    tvm: tvm.target.Target


def parse_target(text: str = "cpu") -> Target:
    """Parse a target string.

    The form is ``cpu [-mcpu=NAME] [-mattr=+a,-b] [-mtriple=TRIPLE] [-num-cores=N]``; what is
    not said is taken from this machine.

    Parameters
    ----------
    text : str
        The target string.

    Returns
    -------
    Target
        With the machine model and TVM's own target.

    Raises
    ------
    LoweringError
        If the kind is not ``cpu``, or an option or processor is unknown.

    Examples
    --------
    >>> from hornfels.codegen.tvm.target import parse_target
    >>> parse_target("cpu -mcpu=skylake-avx512 -num-cores=4").machine.cores
    4
    """
    kind, *words = text.split() or [""]
    if kind != "cpu":
        raise LoweringError(f"target: must be 'cpu' with options, got {text!r}")
    options = dict(_option(word, text) for word in words)
    cores = _count(options.pop("num-cores", None), text)
    host = host_machine()
    # Level 3 makes no kernel faster than 2 and takes a seventh longer; loops are tiled by then.
    config = {"kind": "llvm", "mcpu": options.get("mcpu", host.cpu), "opt-level": 2}
    if "mattr" in options:
        config["mattr"] = options["mattr"].split(",")
    if "mtriple" in options:
        config["mtriple"] = options["mtriple"]
    triple = options.get("mtriple", llvm.llvm_get_system_triple())
    if not llvm.llvm_is_valid_cpu(config["mcpu"], triple):
        raise LoweringError(f"target: processor {config['mcpu']!r} is unknown for {triple}")
    target = tvm.target.Target(config)
    machine = replace(host, cores=cores or host_cores())
    if options:
        machine = _with_features(machine, config["mcpu"], target)
    return Target(text, machine, target)


def _option(word: str, text: str) -> tuple[str, str]:
    name, equals, value = word.removeprefix("-").partition("=")
    if not word.startswith("-") or not equals or name not in _OPTIONS:
        legal = ", ".join(f"-{option}=" for option in _OPTIONS)
        raise LoweringError(f"target: option must be one of {legal}, got {word!r} in {text!r}")
    return name, value


_OPTIONS = ("mcpu", "mattr", "mtriple", "num-cores")


def _count(value: str | None, text: str) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or int(value) < 1:
        raise LoweringError(f"target: -num-cores must be a positive integer, got {text!r}")
    return int(value)


@cache
def host_machine() -> Machine:
    """Return the model of the machine this process runs on."""
    cpu = llvm.llvm_get_system_cpu()
    caches = host_caches()
    blank = Machine(cpu, frozenset(), 128, 16, caches[1], caches[2], caches[3], host_cores())
    return _with_features(blank, cpu, tvm.target.Target({"kind": "llvm", "mcpu": cpu}))


def _with_features(machine: Machine, cpu: str, target: tvm.target.Target) -> Machine:
    features = frozenset(str(feature) for feature in llvm.llvm_get_cpu_features(target))
    if "amx-tile" in features and cpu == llvm.llvm_get_system_cpu() and not _grants_tiles():
        features -= {"amx-tile", "amx-bf16", "amx-int8"}
    bits, registers = _vectors(features, str(target.attrs.get("mtriple", "")))
    return replace(
        machine, cpu=cpu, features=features, vector_bits=bits, vector_registers=registers
    )


@cache
def _grants_tiles() -> bool:
    """Whether the system lets this process use the registers of AMX units: Linux must be asked."""
    if platform.system() != "Linux":
        return False
    arch_prctl, request, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, request, tile_data) == 0


def _vectors(features: frozenset[str], triple: str) -> tuple[int, int]:
    """Width in bits and number of the vector registers that the features offer."""
    if "avx512f" in features:
        return 512, 32
    if "avx" in features:
        return 256, 16
    if "neon" in features or triple.startswith(("aarch64", "arm64")):
        return 128, 32
    return 128, 16
