"""On which device the next child computes, and when one that failed is tried again: the rule alone."""

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
def test_which_devices_are_tried(setting: str, required: str, offered: DeviceSupport, wanted: tuple[str, ...]):
    """auto takes what is built and present, the best first; a named device is tried whether it is there or not, but not
    by a runtime that knows none of it; cpu is cpu. A bundle's own need chooses only where the site leaves it open."""
    assert wanted == candidate_devices(setting, required, offered)


def test_without_a_wish_the_cpu_computes_and_nothing_is_said():
    """No device is wanted, so none is missing."""
    placing = AcceleratorPolicy()
    assert (CPU, "", False) == (placing.choose_device(0.0), placing.fallback, placing.has_better_device(DAY))


def test_a_device_that_works_is_used():
    """The first that is wanted, and nothing is said."""
    placing = AcceleratorPolicy(("cuda", "vulkan"))
    assert ("cuda", "") == (placing.choose_device(0.0), placing.fallback)


def test_what_cannot_be_used_is_left_at_once():
    """For the next best, then for the CPU, and every reason is told."""
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


def test_what_stays_is_not_tried_again():
    """Another build, no device, other answers: only a start of the daemon looks again."""
    placing = AcceleratorPolicy(("vulkan",))
    placing.choose_device(0.0)
    placing.record_failure(DeviceUnusable("other answers", lasting=True), 0.0)
    assert not placing.has_better_device(1000 * DAY)
    ruled_out = AcceleratorPolicy(("vulkan",))
    ruled_out.rule_out("vulkan", "not built for it")
    assert (CPU, "vulkan is not used: not built for it") == (ruled_out.choose_device(DAY), ruled_out.fallback)


def test_what_may_pass_is_tried_again_ever_later():
    """After an hour, then two, up to a day; before that the CPU computes."""
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


def test_a_device_that_was_well_for_a_day_has_a_clean_sheet():
    """The pause is the first one again."""
    placing = AcceleratorPolicy(("vulkan",), retry_seconds=HOUR)
    for now in (0.0, HOUR, 3 * HOUR + 2 * DAY):
        placing.choose_device(now)
        placing.record_failure(DeviceUnusable("too little memory"), now)
    placing.choose_device(3 * HOUR + 2 * DAY)
    assert placing.has_better_device(4 * HOUR + 2 * DAY)


def test_one_death_is_forgiven_and_two_close_together_are_not():
    """The child starts on its device again; the second time the CPU computes, and the number is told."""
    placing = AcceleratorPolicy(("vulkan",), failures_max=2, retry_seconds=HOUR)
    placing.choose_device(0.0)
    placing.record_failure(CRASH, 0.0)
    assert ("vulkan", "") == (placing.choose_device(1.0), placing.fallback)
    placing.record_failure(CRASH, 2.0)
    assert CPU == placing.choose_device(2.0)
    assert placing.fallback.startswith("vulkan is not used: 2 failures, the last: the model's process died")


def test_deaths_far_apart_do_not_add_up():
    """One in a while is no reason to leave a device."""
    placing = AcceleratorPolicy(("vulkan",), failures_max=2, retry_seconds=HOUR)
    for now in (0.0, 2 * HOUR, 4 * HOUR):
        assert "vulkan" == placing.choose_device(now)
        placing.record_failure(CRASH, now)
    assert "vulkan" == placing.choose_device(5 * HOUR)


def test_the_end_of_a_child_that_was_told_to_go_counts_for_nothing():
    """What follows from leaving a device does not shorten the time for which it is left."""
    placing = AcceleratorPolicy(("vulkan",), failures_max=1)
    placing.choose_device(0.0)
    placing.record_failure(DeviceUnusable("other answers", lasting=True), 0.0)
    placing.record_failure(CRASH, 0.1)
    assert not placing.has_better_device(1000 * DAY)
