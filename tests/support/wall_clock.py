"""The time of day of other processes, moved by a library that stands between them and their C library.

clock = WallClock(tmp_path)
daemon.environment |= clock.environment
clock.jump(-86_400)
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

# Stands between a process and its C library, and adds what a file says to the time of day, not to the monotonic clocks.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *offset;

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("CLOCK_OFFSET_FILE"), O_RDONLY);
    offset = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *offset;
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    int failed = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec, now->tv_usec = exact.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *result) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (result) *result = exact.tv_sec;
    return exact.tv_sec;
}
"""


class WallClock:
    """The time of day of processes with this environment."""

    def __init__(self, folder: Path) -> None:
        """Build the shim."""
        self._file = folder / "offset"
        self._file.write_bytes(struct.pack("q", 0))
        library = folder / "clock.so"
        (folder / "clock.c").write_text(SHIM)
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", library, folder / "clock.c", "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(self._file)}

    def jump(self, seconds: int) -> None:
        """Set the clock's difference from the machine's clock."""
        with self._file.open("r+b") as file:
            os.pwrite(file.fileno(), struct.pack("q", seconds), 0)


needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="the clock is moved by a C library, which needs gcc")
