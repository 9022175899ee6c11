"""The device that the next child computes on, and when the daemon retries a device that failed: the policy alone."""

from __future__ import annotations

import pytest

from edge_agent.engine.machine_limits import CPU, AcceleratorPolicy, DeviceSupport, candidate_devices
from edge_agent.errors import DeviceUnusable, EngineCrashed

BOTH = DeviceSupport(known=("cuda", "vulkan"), built=("vulkan", "cuda"), present=("vulkan", "cuda"))
NOTHING = DeviceSupport(known=("cuda", "vulkan"))
HOUR, DAY = 3600.0, 86_400.0
CRASH = EngineCrashed("the model's process died: killed by signal 6")


@pytest.mark.parametrize(
    ("setting", "required", "offered", "wanted"),
    [
        ("auto", "any", BOTH, ("cuda", "vulkan")),
        ("auto", "any", NOTHING, ()),
        ("auto", "any", DeviceSupport(BOTH.known, ("vulkan",), ("cuda", "vulkan")), ("vulkan",)),
        ("auto", "any", DeviceSupport(BOTH.known, ("cuda", "vulkan"), ("vulkan",)), ("vulkan",)),
        ("auto", "vulkan", BOTH, ("vulkan",)),
        ("auto", "cuda", NOTHING, ("cuda",)),
        ("cpu", "any", BOTH, ()),
        ("cpu", "cuda", BOTH, ()),
        ("vulkan", "any", BOTH, ("vulkan",)),
        ("vulkan", "any", NOTHING, ("vulkan",)),
        ("vulkan", "cuda", BOTH, ("vulkan",)),
        ("vulkan", "any", DeviceSupport(known=("cuda",)), ()),
        ("auto", "vulkan", DeviceSupport(known=("cuda",)), ()),
    ],
)
def test_candidate_devices_follow_setting_bundle_and_hardware(
    setting: str, required: str, offered: DeviceSupport, wanted: tuple[str, ...]
):
    """`auto` yields the built and present devices, best first; a named device is a candidate even if it is absent,
    unless the runtime does not support it; `cpu` yields none. The bundle's requirement counts only where the site's
    setting leaves the choice open."""
    assert wanted == candidate_devices(setting, required, offered)


def test_cpu_is_used_without_candidate_devices():
    """Without candidate devices the CPU computes, no fallback reason is reported and no better device exists."""
    placing = AcceleratorPolicy()
    assert (CPU, "", False) == (placing.choose_device(0.0), placing.fallback, placing.has_better_device(DAY))


def test_first_candidate_device_is_used():
    """The first candidate device is chosen, and no fallback reason is reported."""
    placing = AcceleratorPolicy(("cuda", "vulkan"))
    assert ("cuda", "") == (placing.choose_device(0.0), placing.fallback)


def test_unusable_device_is_left_at_once():
    """After `DeviceUnusable` the policy changes to the next device and finally to the CPU; the fallback text has the
    reason of each device."""
    placing = AcceleratorPolicy(("cuda", "vulkan"))
    placing.choose_device(0.0)
    placing.record_failure(DeviceUnusable("the driver has no cuda device", lasting=True), 1.0)
    assert ("vulkan", "cuda is not used: the driver has no cuda device") == (
        placing.choose_device(1.0),
        placing.fallback,
    )
    placing.record_failure(DeviceUnusable("too little memory"), 2.0)
    assert CPU == placing.choose_device(2.0)
    assert placing.fallback == "cuda is not used: the driver has no cuda device; vulkan is not used: too little memory"


def test_device_with_lasting_failure_is_not_retried():
    """A device that failed for a lasting reason (another build, no device, different answers) is not retried before the
    daemon restarts."""
    placing = AcceleratorPolicy(("vulkan",))
    placing.choose_device(0.0)
    placing.record_failure(DeviceUnusable("other answers", lasting=True), 0.0)
    assert not placing.has_better_device(1000 * DAY)
    ruled_out = AcceleratorPolicy(("vulkan",))
    ruled_out.rule_out("vulkan", "not built for it")
    assert (CPU, "vulkan is not used: not built for it") == (ruled_out.choose_device(DAY), ruled_out.fallback)


def test_transient_device_failure_is_retried_with_backoff():
    """A device that failed for a transient reason is retried after an hour, then after two, up to a day; the CPU
    computes in between."""
    placing, now, pauses = AcceleratorPolicy(("vulkan",), retry_seconds=HOUR), 0.0, []
    for _ in range(7):
        placing.choose_device(now)
        assert "vulkan" == placing.device
        placing.record_failure(DeviceUnusable("too little memory"), now)
        assert CPU == placing.choose_device(now)
        pause = next(hours * HOUR for hours in range(1, 25) if placing.has_better_device(now + hours * HOUR))
        assert not placing.has_better_device(now + pause - 1)
        pauses.append(pause / HOUR)
        now += pause
    assert [1, 2, 4, 8, 16, 24, 24] == pauses


def test_backoff_resets_after_a_healthy_day():
    """A device that worked for a day and then fails is retried after the first pause again."""
    placing = AcceleratorPolicy(("vulkan",), retry_seconds=HOUR)
    for now in (0.0, HOUR, 3 * HOUR + 2 * DAY):
        placing.choose_device(now)
        placing.record_failure(DeviceUnusable("too little memory"), now)
    placing.choose_device(3 * HOUR + 2 * DAY)
    assert placing.has_better_device(4 * HOUR + 2 * DAY)


def test_second_crash_within_the_retry_time_leaves_the_device():
    """After one crash the child starts on its device again; after a second one within `retry_seconds` the CPU computes,
    and the fallback text has the number of failures."""
    placing = AcceleratorPolicy(("vulkan",), failures_max=2, retry_seconds=HOUR)
    placing.choose_device(0.0)
    placing.record_failure(CRASH, 0.0)
    assert ("vulkan", "") == (placing.choose_device(1.0), placing.fallback)
    placing.record_failure(CRASH, 2.0)
    assert CPU == placing.choose_device(2.0)
    assert placing.fallback.startswith("vulkan is not used: 2 failures, the last: the model's process died")


def test_crashes_far_apart_do_not_leave_the_device():
    """Crashes that are further apart than `retry_seconds` are not added up, so the device stays in use."""
    placing = AcceleratorPolicy(("vulkan",), failures_max=2, retry_seconds=HOUR)
    for now in (0.0, 2 * HOUR, 4 * HOUR):
        assert "vulkan" == placing.choose_device(now)
        placing.record_failure(CRASH, now)
    assert "vulkan" == placing.choose_device(5 * HOUR)


def test_crash_after_a_lasting_failure_is_not_counted():
    """The end of a child whose device was already left does not shorten the time for which that device is left."""
    placing = AcceleratorPolicy(("vulkan",), failures_max=1)
    placing.choose_device(0.0)
    placing.record_failure(DeviceUnusable("other answers", lasting=True), 0.0)
    placing.record_failure(CRASH, 0.1)
    assert not placing.has_better_device(1000 * DAY)
