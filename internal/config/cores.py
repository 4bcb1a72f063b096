"""How many cores this process may use, which may be fewer than the machine has."""

import os
import sys
from pathlib import Path
from typing import Final

_QUOTAS: Final = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(quotas: Path = _QUOTAS) -> int:
    """Count the cores that we may run on; a container's share of them, rounded down, if less."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, _share(quotas)))


def _share(quotas: Path) -> int:
    """What the control group allows, in whole cores: no bound where it sets none."""
    try:
        quota, _, period = quotas.read_text().strip().partition(" ")
        return int(quota) // int(period)
    except (OSError, ValueError):
        return sys.maxsize
