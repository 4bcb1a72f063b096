"""A disk whose every flush takes two milliseconds more, for as long as a file says so."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

from internal.db.cluster import find_binaries

DELAY_S: Final = 0.002

# Put before the C library's own: it flushes, and then takes its time.
_SOURCE: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>

static void dawdle(void) {
    if (access(SWITCH, F_OK) == 0) usleep(DELAY_US);
}

int fsync(int fd) {
    static int (*flush)(int);
    if (!flush) flush = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    int result = flush(fd);
    dawdle();
    return result;
}

int fdatasync(int fd) {
    static int (*flush)(int);
    if (!flush) flush = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    int result = flush(fd);
    dawdle();
    return result;
}
"""


class SlowDisk:
    """PostgreSQL's programs, each wrapped so that its flushes can be slowed down."""

    def __init__(self, folder: Path) -> None:
        self.binaries = folder / "bin"
        self._switch = folder / "slow"

    def slow(self) -> None:
        self._switch.touch()

    def quick(self) -> None:
        self._switch.unlink(missing_ok=True)


def build(folder: Path) -> SlowDisk | None:
    """Compile the delay; None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    folder.mkdir()
    folder.chmod(0o755)
    disk = SlowDisk(folder)
    source, library = folder / "delay.c", folder / "delay.so"
    source.write_text(_SOURCE)
    flags = (f'-DSWITCH="{folder / "slow"}"', f"-DDELAY_US={DELAY_S * 1e6:.0f}")
    command = [compiler, "-shared", "-fPIC", "-O2", *flags, "-o", str(library), str(source), "-ldl"]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        return None
    disk.binaries.mkdir()
    disk.binaries.chmod(0o755)
    real = find_binaries()
    (folder / "share").symlink_to(real.parent / "share")
    for program in ("postgres", "initdb"):
        wrapper = disk.binaries / program
        wrapper.write_text(f'#!/bin/sh\nLD_PRELOAD="{library}" exec "{real / program}" "$@"\n')
        wrapper.chmod(0o755)
    return disk
