"""What the thread pool needs of a processor and cannot say in LLVM's portable language."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from ...ir.errors import LoweringError


@dataclass(frozen=True)
class Processor:
    """A kind of processor.

    Parameters
    ----------
    code : str
        LLVM IR of ``@pause`` (let another thread of the core go on), ``@read_mode`` and
        ``@write_mode`` (the mode of floating-point arithmetic of this thread).
    flush : int
        The bits of the mode under which numbers too small for the normal form are zero.
    futex : int
        Linux' number of the system call.
    """

    code: str
    flush: int
    futex: int


_X86 = Processor(
    flush=1 << 15 | 1 << 6,  # of results, of operands
    futex=202,
    code="""
declare void @llvm.x86.sse2.pause()
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)

define internal void @pause() {
  call void @llvm.x86.sse2.pause()
  ret void
}

define internal i64 @read_mode() {
  %place = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %place)
  %mode = load i32, ptr %place
  %wide = zext i32 %mode to i64
  ret i64 %wide
}

define internal void @write_mode(i64 %wide) {
  %place = alloca i32
  %mode = trunc i64 %wide to i32
  store i32 %mode, ptr %place
  call void @llvm.x86.sse.ldmxcsr(ptr %place)
  ret void
}
""",
)

_ARM = Processor(
    flush=1 << 24,
    futex=98,
    code="""
declare void @llvm.aarch64.isb(i32)
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)

define internal void @pause() {
  call void @llvm.aarch64.isb(i32 15)          ; `yield` takes no time on most
  ret void
}

define internal i64 @read_mode() {
  %mode = call i64 @llvm.aarch64.get.fpcr()
  ret i64 %mode
}

define internal void @write_mode(i64 %mode) {
  call void @llvm.aarch64.set.fpcr(i64 %mode)
  ret void
}
""",
)

PROCESSORS = {"x86_64": _X86, "amd64": _X86, "aarch64": _ARM, "arm64": _ARM}


def host_processor() -> Processor:
    """The kind of processor that this process runs on.

    Raises
    ------
    LoweringError
        If it is none that native code is loaded for.
    """
    name, system = platform.machine().lower(), platform.system()
    if name not in PROCESSORS or system != "Linux":
        raise LoweringError(
            f"native code runs on Linux on x86_64 and aarch64, got {system}, {name}"
        )
    return PROCESSORS[name]
