"""Parallel loops in LLVM IR, as TVM makes them of kernels, and calls of them through a pool."""

from __future__ import annotations

import ctypes

import llvmlite.binding as llvm
import numpy as np

from hornfels.codegen.native import jit, processor
from hornfels.codegen.native.pool import Pool

LOOPS = """
%data = type { i32, ptr, ptr, i32 }   ; iterations, counters, launch, repetitions

; what TVM makes of a parallel loop: the share of a chunk, here `body` for each iteration
define internal void @share(i32 %chunk, ptr %env, ptr %data, ptr %body) {
entry:
  %extent = load i32, ptr %data
  %chunks_at = getelementptr i8, ptr %env, i64 8
  %chunks = load i32, ptr %chunks_at
  %most = add i32 %extent, %chunks
  %top = sub i32 %most, 1
  %step = sdiv i32 %top, %chunks
  %start = mul i32 %step, %chunk
  %after = add i32 %start, %step
  %end = call i32 @llvm.smin.i32(i32 %after, i32 %extent)
  br label %check

check:
  %i = phi i32 [ %start, %entry ], [ %next, %run ]
  %more = icmp slt i32 %i, %end
  br i1 %more, label %run, label %done

run:
  call void %body(ptr %data, i32 %i)
  %next = add i32 %i, 1
  br label %check

done:
  ret void
}

declare i32 @llvm.smin.i32(i32, i32)

define internal void @count_one(ptr %data, i32 %i) {
  %counters_at = getelementptr %data, ptr %data, i32 0, i32 1
  %counters = load ptr, ptr %counters_at
  %place = getelementptr i32, ptr %counters, i32 %i
  %old = load i32, ptr %place
  %new = add i32 %old, 1
  store i32 %new, ptr %place
  ret void
}

define i32 @count(i32 %chunk, ptr %env, ptr %data) {
  call void @share(i32 %chunk, ptr %env, ptr %data, ptr @count_one)
  ret i32 0
}

define internal void @nested_one(ptr %data, i32 %i) {
  %launch_at = getelementptr %data, ptr %data, i32 0, i32 2
  %launch = load ptr, ptr %launch_at
  %inner = alloca %data
  %all = load %data, ptr %data
  store %data %all, ptr %inner
  %counters_at = getelementptr %data, ptr %inner, i32 0, i32 1
  %counters = load ptr, ptr %counters_at
  %extent = load i32, ptr %data
  %row = mul i32 %i, %extent
  %moved = getelementptr i32, ptr %counters, i32 %row
  store ptr %moved, ptr %counters_at
  call i32 %launch(ptr @count, ptr %inner, i32 0)
  ret void
}

define i32 @nested(i32 %chunk, ptr %env, ptr %data) {
  call void @share(i32 %chunk, ptr %env, ptr %data, ptr @nested_one)
  ret i32 0
}

define internal void @store_mode(ptr %data, i32 %i) {
  %counters_at = getelementptr %data, ptr %data, i32 0, i32 1
  %counters = load ptr, ptr %counters_at
  %place = getelementptr i32, ptr %counters, i32 %i
  %wide = call i64 @read_mode()
  %mode = trunc i64 %wide to i32
  store i32 %mode, ptr %place
  ret void
}

define i32 @modes(i32 %chunk, ptr %env, ptr %data) {
  call void @share(i32 %chunk, ptr %env, ptr %data, ptr @store_mode)
  ret i32 0
}

; sleep longer the higher the iteration, and store the number of processors that the thread may use
define internal void @sleep_one(ptr %data, i32 %i) {
entry:
  %set = alloca [16 x i64]
  %longer = mul i32 %i, 9000
  %time = add i32 %longer, 1000
  call i32 @usleep(i32 %time)
  store [16 x i64] zeroinitializer, ptr %set
  call i32 @sched_getaffinity(i32 0, i64 128, ptr %set)
  br label %add

add:
  %word = phi i64 [ 0, %entry ], [ %next, %add ]
  %sum = phi i64 [ 0, %entry ], [ %more, %add ]
  %at = getelementptr i64, ptr %set, i64 %word
  %bits = load i64, ptr %at
  %ones = call i64 @llvm.ctpop.i64(i64 %bits)
  %more = add i64 %sum, %ones
  %next = add i64 %word, 1
  %ends = icmp eq i64 %next, 16
  br i1 %ends, label %keep, label %add

keep:
  %counters_at = getelementptr %data, ptr %data, i32 0, i32 1
  %counters = load ptr, ptr %counters_at
  %place = getelementptr i32, ptr %counters, i32 %i
  %found = trunc i64 %more to i32
  store i32 %found, ptr %place
  ret void
}

declare i32 @usleep(i32)
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i64 @llvm.ctpop.i64(i64)

define i32 @sleep(i32 %chunk, ptr %env, ptr %data) {
  call void @share(i32 %chunk, ptr %env, ptr %data, ptr @sleep_one)
  ret i32 0
}

; an entry: launch the loop as often as the data say
define internal void @repeat(ptr %loop, ptr %data) {
entry:
  %launch_at = getelementptr %data, ptr %data, i32 0, i32 2
  %times_at = getelementptr %data, ptr %data, i32 0, i32 3
  %launch = load ptr, ptr %launch_at
  %times = load i32, ptr %times_at
  br label %check

check:
  %n = phi i32 [ 0, %entry ], [ %next, %run ]
  %more = icmp slt i32 %n, %times
  br i1 %more, label %run, label %done

run:
  call i32 %launch(ptr %loop, ptr %data, i32 0)
  %next = add i32 %n, 1
  br label %check

done:
  ret void
}

define i32 @run_count(ptr %data) {
  call void @repeat(ptr @count, ptr %data)
  ret i32 0
}

define i32 @run_nested(ptr %data) {
  call void @repeat(ptr @nested, ptr %data)
  ret i32 0
}

define i32 @run_modes(ptr %data) {
  call void @repeat(ptr @modes, ptr %data)
  ret i32 0
}

define i32 @run_sleep(ptr %data) {
  call void @repeat(ptr @sleep, ptr %data)
  ret i32 0
}
"""

KEEP_ALL = (1 << 64) - 1


class Data(ctypes.Structure):
    _fields_ = (
        ("iterations", ctypes.c_int32), ("counters", ctypes.c_void_p),
        ("launch", ctypes.c_void_p), ("times", ctypes.c_int32),
    )  # fmt: skip


def link_loops() -> llvm.ResourceTracker:
    """Addresses of ``run_count``, ``run_nested``, ``run_modes`` and ``run_sleep``."""
    code = (
        f'target triple = "{llvm.get_process_triple()}"\n{LOOPS}{processor.host_processor().code}'
    )
    return jit.link(("run_count", "run_nested", "run_modes", "run_sleep"), code=code)


def run(
    pool: Pool, entry: int, counters: np.ndarray, iterations: int, times: int = 1, mode: int = 0
) -> None:
    """Run an entry of `link_loops` with more bits in the mode of arithmetic."""
    data = Data(iterations, counters.ctypes.data, pool.launch, times)
    pool.run(entry, ctypes.byref(data), KEEP_ALL, mode)
