"""The child's side of the pipe: one thread repeatedly reads messages, computes one step, and sends the results.

Started as `python -P -m edge_agent.engine.child FD PARENT` by `child_process.py`; ends when the parent's end of the
socketpair closes, on StopRequest, or with its parent. Only code below this module imports `llama_cpp` or `onnxruntime`.

When a bundle is attached on a device, its golden cases are run: a device rounds differently, and a broken driver
computes nonsense without an error. As in the self-test, answers that a rounding error may change do not count, scores
have the tolerance of their case, and nearly all other answers must agree. On the processor they are not run here: the
self-test of an update checks more.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import msgspec

from edge_agent.engine import protocol, runtimes
from edge_agent.engine.confinement import confine
from edge_agent.engine.memory_cap import MemoryNeed
from edge_agent.engine.protocol import Event, FailureReport, JobRequest, JobResult, TextChunk, golden_answer, golden_job
from edge_agent.engine.runtimes import DeviceLost, Runtime, failure_report
from edge_agent.errors import (
    BundleUnreadable,
    CallerError,
    DeviceUnusable,
    EdgeAgentError,
    ModelFailed,
    ModelLoadFailed,
    RequirementUnmet,
)
from edge_agent.errors.base import one_line, printable_lines
from edge_agent.formats import manifest
from edge_agent.formats.golden_cases import DIFFERENT_PERCENT_MAX, GoldenCase, differences, is_binding, parse
from edge_agent.formats.manifest import Manifest

CASES_MAX = 32
SECONDS_MAX = 15.0
"""No further case begins after that; the cases run by then decide."""
QUOTED_MAX = 2

EventSink = Callable[[Iterable[Event]], None]
"""Takes the events of other bundles' jobs meanwhile."""


def check_golden_answers(runtime: Runtime, digest: str, manifest: Manifest, path: str, sink: EventSink) -> None:
    """Run the golden cases of an attached bundle from a file; without a readable file nothing is checked.

    Raises:
        DeviceUnusable: too many answers differ.
    """
    deadline = time.monotonic() + SECONDS_MAX
    try:
        binding_cases = list(filter(is_binding, parse(Path(path).read_bytes())))[:CASES_MAX]
    except (OSError, BundleUnreadable):  # it does not exist, or the self-test reports what is wrong with it
        return
    cases = itertools.takewhile(lambda _: time.monotonic() < deadline, binding_cases)
    results = [
        _difference(runtime, golden_job(manifest, digest, case.input, "golden"), case, manifest, sink) for case in cases
    ]
    wrong_answers = list(filter(None, results))
    if 100 * len(wrong_answers) > DIFFERENT_PERCENT_MAX * len(results):
        message = (
            f"{len(wrong_answers)} of {len(results)} golden inputs have different answers there: "
            f"{'; '.join(wrong_answers[:QUOTED_MAX])}"
        )
        raise DeviceUnusable(message, lasting=True, wrong=len(wrong_answers), asked=len(results))


def _difference(runtime: Runtime, job: JobRequest, case: GoldenCase, manifest: Manifest, sink: EventSink) -> str:
    """Describe how the answer differs, with its input; empty = it does not."""
    try:
        runtime.submit(job)
    except CallerError as error:
        return f"{case.input[:60]!r}: {error.message}"
    job_events: list[Event] = []
    while not (job_events and isinstance(job_events[-1], JobResult | FailureReport)):
        other_events: list[Event] = []
        for event in runtime.step():
            (job_events if event.job_id == job.job_id else other_events).append(event)
        sink(other_events)
    *chunks, last = job_events
    if isinstance(last, FailureReport):
        return f"{case.input[:60]!r}: {last.message}"
    assert isinstance(last, JobResult)
    text = "".join(each.text for each in chunks if isinstance(each, TextChunk))
    different = differences(case, golden_answer(manifest, text, last), vector=manifest.task.kind == "embed")
    return f"{case.input[:60]!r}: {different[0]}" if different else ""


RECEIVE_BYTES = 1 << 16
REST_MILLISECONDS_MAX = 10
"""How long to wait for the next piece of a message before a step."""
DEVICE_REMEDY = (
    "Set 'device' under 'engine' in agent.yaml to it or to auto, on a machine that has one (docs/devices.md), "
    "or let the plan choose by 'devices' under 'requires'."
)
MEMORY_SLACK_BYTES = 128 << 20
MEMORY_SLACK_BYTES_PER_THREAD = 32 << 20
_PR_SET_PDEATHSIG = 1  # prctl(2)
# Of 1000. When memory runs out, the kernel kills a child, which is started again, and not the daemon or other programs.
OOM_SCORE = "500"


class EngineChild:
    """Owns the socket and the runtime."""

    def __init__(self, sock: socket.socket) -> None:
        """Take the child's end of the socketpair."""
        self._socket = sock
        self._mailbox = select.poll()
        self._mailbox.register(sock, select.POLLIN)
        self._splitter = protocol.FrameSplitter()
        self._inbox: deque[protocol.ToChild] = deque()
        self._runtime: runtimes.Runtime | None = None
        self._spec = protocol.LoadRequest(runtime="")
        self._progress_at = 0.0
        self._stopped = False

    def run(self) -> None:
        """Serve until a StopRequest, or until the parent is gone."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while not self._stopped:
                self._receive()
                if self._is_busy():
                    self._step()
        if self._runtime is not None:
            self._runtime.close()

    def _is_busy(self) -> bool:
        return self._runtime is not None and self._runtime.busy

    def _receive(self) -> None:
        """Handle all messages in the mailbox; wait for one if there is nothing to compute, and for the rest of one.

        If only one piece were read in each step, a message of megabytes would delay later ones by a hundred steps.
        """
        if not self._inbox and (not self._is_busy() or self._mailbox.poll(0)):
            self._read()
        while self._splitter.is_partial and not self._stopped and self._mailbox.poll(REST_MILLISECONDS_MAX):
            self._read()
        while self._inbox:
            self._handle(self._inbox.popleft())

    def _read(self) -> None:
        """Put the messages that have arrived into the inbox."""
        data = self._socket.recv(RECEIVE_BYTES)
        self._stopped = self._stopped or not data
        self._inbox.extend(map(protocol.decode_to_child, self._splitter.feed(data)))

    def poll_cancellations(self, jobs: Collection[str]) -> bool:
        """Read messages on another thread while a step computes; tell whether one of its jobs was cancelled."""
        if self._stopped:
            return True
        unread = len(self._inbox)
        self._read()
        new = itertools.islice(self._inbox, unread, None)
        return self._stopped or any(isinstance(each, protocol.CancelRequest) and each.job_id in jobs for each in new)

    def request_memory(self, needed_bytes: int, available: int, headroom: int = 0) -> int:
        """Send the estimate, wait until the parent has set the limit, and return the available memory in bytes."""
        del available
        estimate = protocol.MemoryEstimate(needed_bytes=needed_bytes, headroom_bytes=headroom)
        estimate.threads, estimate.device = self._spec.threads, self._spec.device
        self._send([estimate])
        while not self._stopped:
            self._read()
            for grant in [each for each in self._inbox if isinstance(each, protocol.MemoryGrant)]:
                self._inbox.remove(grant)
                return grant.available_bytes
        raise BrokenPipeError  # the parent is gone

    def _step(self) -> None:
        assert self._runtime is not None
        self._send(self._runtime.step())
        self._runtime.tidy()
        now = time.monotonic()
        if now - self._progress_at >= protocol.PROGRESS_SECONDS:
            self._progress_at = now
            self._send([protocol.Heartbeat()])

    def _send(self, messages: Iterable[protocol.ChildMessage]) -> None:
        data = b"".join(map(protocol.frame, messages))
        if data:
            self._socket.sendall(data)

    def _handle(self, message: protocol.ToChild) -> None:
        try:
            self._send(self._respond(message))
        except EdgeAgentError as error:
            self._send([_failure(message, error)])
        except (BrokenPipeError, ConnectionResetError, MemoryError, DeviceLost):
            raise
        except Exception as error:  # noqa: BLE001 - the pipe is a process boundary
            # Whatever a model library raises becomes the failure of that request.
            sys.stderr.write(traceback_text(message, error))
            self._send([_failure(message, _unexpected_failure(message, error))])

    def _load(self, message: protocol.LoadRequest) -> protocol.ChildReady:
        """Import the runtime, confine the process, and only then open a file from outside."""
        runtime = runtimes.create(message.runtime)
        runtime.mailbox, runtime.poll_cancellations = self._socket.fileno(), self.poll_cancellations
        runtime.request_memory = self.request_memory
        self._spec = message
        # The limit is on private memory. The kernel counts what is reserved as well as what is touched: heap that
        # malloc keeps, and the stack of each thread.
        slack = MEMORY_SLACK_BYTES + message.threads * MEMORY_SLACK_BYTES_PER_THREAD
        limit = message.memory_bytes_max + slack if message.memory_bytes_max else 0
        confinement = confine([Path(path) for path in message.readable], limit, message.device)
        if message.device != "cpu" and confinement.landlock != "on":
            requirement = "a process that may write to a device needs Landlock to keep it from writing to files"
            raise DeviceUnusable(f"{requirement}: {confinement.landlock}", lasting=True)
        details = runtime.load(message)
        self._runtime = runtime
        return protocol.ChildReady(device=runtime.device, details={**details, **asdict(confinement)})

    def _attach(self, message: protocol.AttachRequest) -> None:
        """Make a bundle ready, if its manifest allows the device and the device computes its golden cases correctly."""
        assert self._runtime is not None
        bundle_manifest, device = manifest.parse(message.manifest), self._spec.device
        needed_device = bundle_manifest.requires.device
        if needed_device not in ("any", device):
            reason = f": {self._spec.fallback}" if self._spec.fallback else ""
            raise RequirementUnmet(
                f"the bundle needs a {needed_device} device; this engine computes on {self._runtime.device}{reason}",
                remedy=DEVICE_REMEDY,
                needed=needed_device,
            )
        # For each bundle: the engine was loaded with the requirements of the first one.
        MemoryNeed(0, 0, 0, 0, 0).check(self._spec.memory_bytes_max, bundle_manifest.requires.memory_bytes)
        self._runtime.attach(message.digest, bundle_manifest, message.paths)
        if device != "cpu":
            golden_path = message.paths.get("golden", "")
            check_golden_answers(self._runtime, message.digest, bundle_manifest, golden_path, self._send_progress)

    def _send_progress(self, events: Iterable[protocol.Event]) -> None:
        self._send([*events, protocol.Heartbeat()])

    def _respond(self, message: protocol.ToChild) -> Iterable[protocol.ChildMessage]:
        match message:
            case protocol.JobRequest() if self._runtime is not None:
                self._runtime.submit(message)
                return []
            case protocol.LoadRequest():
                with time_limit(message.seconds_max):
                    return [self._load(message)]
            case protocol.Ping():
                runtime = self._runtime
                return [protocol.Pong(cache=runtime.cache_use, threads=runtime.threads) if runtime else protocol.Pong()]
            case protocol.StopRequest():
                self._stopped = True
                return []
        if self._runtime is None:  # the load failed when this message was already sent
            return []
        match message:
            case protocol.CancelRequest():
                return self._runtime.cancel(message.job_id)
            case protocol.DetachRequest():
                return self._runtime.detach(message.digest)
            case protocol.AttachRequest():
                self._send([protocol.Heartbeat()])  # tells the parent that the attach begins: it may be silent for long
                with time_limit(message.seconds_max):
                    self._attach(message)
                variance = self._runtime.score_variance(message.digest)
                return [protocol.BundleAttached(digest=message.digest, number=message.number, score_variance=variance)]
        return []


def traceback_text(message: protocol.ToChild, error: Exception) -> str:
    """Return the traceback of an unexpected exception, for the log.

    For a job it ends with the exception's type alone: its message may quote the input, which must not be logged.
    """
    if isinstance(message, protocol.JobRequest):
        lines = [*traceback.format_tb(error.__traceback__), f"{type(error).__name__}\n"]
    else:
        lines = traceback.format_exception(error)
    return printable_lines("".join(lines))


def _unexpected_failure(message: protocol.ToChild, error: Exception) -> EdgeAgentError:
    """Return the failure for an unexpected exception, with the library's own message.

    Not for a job, whose exception may quote its input.
    """
    match message:
        case protocol.LoadRequest():
            problem = f"{Path(message.weights).name or message.runtime} cannot be loaded"
        case protocol.AttachRequest():
            problem = f"bundle {message.digest[:12]} cannot be used with the model"
        case _:
            return ModelFailed("the model does not compute this input: an unexpected error in its runtime")
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ModelLoadFailed(f"{problem}: {reason}")


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End this process by SIGALRM if the block takes longer, even inside a library call. 0 = no limit."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _failure(message: protocol.ToChild, error: EdgeAgentError) -> protocol.FailureReport:
    """Return the report of a failed message: it names the job, the bundle and its attach, or nothing for the load."""
    match message:
        case protocol.JobRequest():
            return failure_report(message.job_id, error)
        case protocol.AttachRequest():
            return msgspec.structs.replace(failure_report(message.digest, error), attach=message.number)
    return failure_report("", error)


def main(descriptor: int, parent: int) -> None:
    """Run the child on an inherited socket."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it died before the line above
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    for signum in protocol.IGNORED_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as sock:
        sock.setblocking(True)
        try:
            EngineChild(sock).run()
        except MemoryError:
            os._exit(protocol.EXIT_OUT_OF_MEMORY)
        except DeviceLost as error:
            sys.stderr.write(f"the device was lost: {one_line(str(error))}\n")
            sys.stderr.flush()
            os._exit(protocol.EXIT_DEVICE_LOST)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
