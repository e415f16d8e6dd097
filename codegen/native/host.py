"""The machine that this process runs on, as far as it can be known without a compiler."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from ...ir.settings import current_settings

_CACHE_FALLBACK = {1: 32 << 10, 2: 512 << 10, 3: 8 << 20}


@cache
def host_text() -> str:
    """All that code made on this machine depends on, but for the number of threads."""
    features = ",".join(name for name, there in sorted(_features().items()) if there)
    processor = f"{llvm.get_process_triple()} {llvm.get_host_cpu_name()} {features}"
    return f"{processor} {host_caches()} llvmlite {llvmlite.__version__}"


def _features() -> dict[str, bool]:
    try:
        return dict(llvm.get_host_cpu_features())
    except RuntimeError:  # LLVM cannot tell for this kind of processor; its name says it then
        return {}


def host_caches() -> dict[int, int]:
    """Bytes of the data caches by level, as Linux tells them, else common values."""
    found = dict(_CACHE_FALLBACK)
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind = (folder / "type").read_text().strip()
            level = int((folder / "level").read_text())
            size = (folder / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        if kind != "Instruction" and size.endswith("K"):
            found[level] = int(size[:-1]) << 10
    return found


def host_cores() -> int:
    """The number of threads to use: the setting `num_threads`, else what the process may use.

    The affinity mask and the quota of the control group bound the latter.
    """
    return current_settings().num_threads or max(1, min(_affinity(), _quota()))


def _affinity() -> int:
    if platform.system() == "Linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota() -> int:
    """CPUs that the control group grants (version 2, then version 1), rounded up."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            folder = Path("/sys/fs/cgroup/cpu")
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        except OSError:
            return 1 << 16
    if not quota.strip().isdigit() or int(period) < 1:  # "max" and -1 mean no limit
        return 1 << 16
    return -(-int(quota) // int(period))
