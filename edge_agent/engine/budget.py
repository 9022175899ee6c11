"""One budget of processor threads for all engines. Pure.

Every engine gets the same whole number of threads, rounded down, and at least one: a llama engine computes each step
with that many, an onnx engine computes that many batches at the same time, each on one. A thread that has a core to
itself is the aim, for a step of several threads waits for the slowest of them. More threads than the budget can be
ready to run:

- with more engines than cores, for each needs one;
- when an engine was added, until those that ran already start again: a share is taken at the start;
- while a task moves to a new engine, the old one, which is not counted any more, still answers;
- beside the engines, the daemon itself and the tokenizer of an onnx engine compute for a short time at each request,
  and attaching a bundle computes a few inputs.
"""

from __future__ import annotations

from collections.abc import Iterable


def share(total: int, engines: int) -> int:
    """Return the threads of each engine."""
    return max(1, total // max(1, engines))


def allowed_cores(schedulable: int, cpu_max: Iterable[str]) -> int:
    """Return how many cores this process can keep busy.

    Args:
        schedulable: cores that it may run on, sched_getaffinity(2).
        cpu_max: the contents of cpu.max of its control group and those around it (cgroup v2): "150000 100000" is 150 ms
            in each 100 ms. Rounded down: a thread too many uses the time up early, and then all of them stand still.
    """
    limits = [schedulable]
    for content in cpu_max:
        quota, _, period = content.strip().partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period):
            limits.append(int(quota) // int(period))
    return max(1, min(limits))
