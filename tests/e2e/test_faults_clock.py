"""The clock on the wall jumps, as it does when a till without a battery meets its time server."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.bundles import echo_bundle
from tests.callers import Callers
from tests.daemon import RunningDaemon
from tests.eventually import eventually_sync

DAY = 86_400
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
        """Let the clock differ by so much from the machine's."""
        with self._file.open("r+b") as file:
            os.pwrite(file.fileno(), struct.pack("q", seconds), 0)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the clock is moved by a C library, which needs gcc")
def test_a_jump_of_the_clock_changes_nothing(tmp_path: Path) -> None:
    """A day forward, two back, one forward, under load: no call is lost or tried again, and a dead child comes back."""
    clock = WallClock(tmp_path)
    engine = {"heartbeat_seconds_max": 3.0, "restart_seconds_first": 0.05}
    daemon = RunningDaemon(tmp_path, engine=engine, service={"request_id_seconds": 60})
    daemon.environment |= clock.environment
    with daemon, daemon.admin() as admin, daemon.client() as client:
        daemon.install(echo_bundle(tmp_path / "a", "intent", labels=("refund", "price")))
        started = admin.status().start_time
        with Callers(daemon, "intent", 2, "!slow 100 refund") as callers:
            [first] = client.classify("intent", ["refund"], request_id="remembered")
            for jump in (DAY, -DAY, 0):
                clock.jump(jump)
                callers.wait_for_answers(10, seconds=10)
                [again] = client.classify("intent", ["refund"], request_id="remembered")
                assert first.prediction_id == again.prediction_id
        assert ([], 0) == (callers.lost, callers.retries)
        clock.jump(DAY)
        pid = admin.status().engines[0].pid
        os.kill(pid, 9)
        eventually_sync(lambda: admin.status().tasks[0].ready and admin.status().engines[0].pid != pid, 5)
        status = admin.status()
        assert (1, started) == (status.engines[0].restarts, status.start_time)
        # The jumps did reach the daemon: this is installed tomorrow.
        installed = admin.install(echo_bundle(tmp_path / "b", "later", labels=("refund", "price")))[0].install_time
        assert DAY / 2 < (installed - started).total_seconds()
