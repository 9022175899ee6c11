"""The plan: it is read as it was written, a broken rule is named, and settings of a site override its channel."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.errors import PlanInvalid
from edge_agent.formats import plan as plans
from edge_agent.formats.plan import (
    BundleOffer,
    FleetPlan,
    HardwareRequirements,
    ProbationRules,
    RolloutPlan,
    RolloutWave,
    SwitchWindow,
    TaskPlan,
)
from edge_agent.formats.signed_document import format_timestamp, parse_timestamp
from tests.support.examples import NOW
from tests.support.plans import NEW, OLD, TASK, plan, task

# --- anything that a plan can say -------------------------------------------------------------------------------------
clocks = st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.integers(0, 59))
windows = (
    st.tuples(clocks, clocks).filter(lambda pair: pair[0] != pair[1]).map(lambda p: SwitchWindow(start=p[0], end=p[1]))
)
digests = st.integers(0, 2**256 - 1).map("{:064x}".format)
machines = st.builds(
    HardwareRequirements,
    memory_bytes_min=st.integers(0, 2**40),
    devices=st.lists(st.sampled_from(["cpu", "cuda", "vulkan"]), max_size=3).map(tuple),
    cpu_features=st.lists(st.sampled_from(["avx2", "avx512_vnni", "sse4.2"]), max_size=3).map(tuple),
)
offers = st.builds(BundleOffer, bundle=digests, version=st.sampled_from(["1.0.0", "2.10.3-rc.1"]), requires=machines)


@st.composite
def waves(draw: st.DrawFn) -> tuple[RolloutWave, ...]:
    shares = sorted(draw(st.sets(st.integers(1, 100), max_size=5)))
    starts = sorted(draw(st.lists(st.integers(0, 2**31), min_size=len(shares), max_size=len(shares))))
    return tuple(
        RolloutWave(start=format_timestamp(at), percent=share) for at, share in zip(starts, shares, strict=True)
    )


tasks = st.builds(
    TaskPlan,
    offers=st.lists(offers, min_size=1, max_size=3).map(tuple),
    waves=waves(),
    window=st.none() | windows,
    mode=st.none() | st.sampled_from(["bootstrap", "shadow", "hybrid", "local"]),
    halted=st.booleans(),
    probation=st.builds(ProbationRules, calls=st.integers(0, 10**6), hours=st.integers(0, 720)),
    failure_percent_max=st.integers(0, 100),
)
names = st.sampled_from(["a", "pos-intent", "goods-group-2"])
caps = st.none() | st.integers(1000, 10**10)
fleets = st.builds(FleetPlan, tasks=st.dictionaries(names, tasks, max_size=3), bytes_per_second_max=caps)
plans_of_any_kind = st.builds(
    RolloutPlan,
    version=st.integers(1, 2**31),
    issued_at=st.integers(0, 2**31).map(format_timestamp),
    channels=st.dictionaries(st.sampled_from(["stable", "beta"]), fleets, max_size=2),
    sites=st.dictionaries(st.sampled_from(["shop-1", "shop-2"]), fleets, max_size=2),
)


@pytest.mark.slow
@settings(max_examples=150)
@given(plans_of_any_kind)
def test_plan_is_read_back(written):
    """Reading a written plan gives the same plan, and writing that the same bytes."""
    raw = plans.encode(written)
    assert written == plans.parse(raw)
    assert raw == plans.encode(plans.parse(raw))


@pytest.mark.slow
@settings(max_examples=150)
@given(plans_of_any_kind, st.sampled_from(["shop-1", "shop-2", "shop-3"]), st.sampled_from(["stable", "other"]))
def test_site_gets_its_channel_and_its_own_tasks(given_plan, site, channel):
    """A site gets the tasks of its channel and its own, which take precedence, and none of another channel."""
    common, own = given_plan.channels.get(channel, FleetPlan()), given_plan.sites.get(site, FleetPlan())
    found = given_plan.for_site(site, channel)
    assert {*common.tasks, *own.tasks} == set(found.tasks)
    assert all(each == (own.tasks.get(name) or common.tasks[name]) for name, each in found.tasks.items())
    assert (own.bytes_per_second_max or common.bytes_per_second_max) == found.bytes_per_second_max


@settings(max_examples=100)
@given(plans_of_any_kind, st.sampled_from(["shop-1", "shop-9"]), st.sampled_from(["stable", "beta", "other"]))
def test_every_bundle_of_a_site_is_named_by_the_plan(given_plan, site, channel):
    """Checking the bundles that the plan names therefore covers everything that a site could get."""
    meant = {offer.bundle for each in given_plan.for_site(site, channel).tasks.values() for offer in each.offers}
    assert meant <= given_plan.bundles()


@settings(max_examples=200)
@given(st.data())
def test_damaged_plan_is_refused_or_valid(data):
    """Truncated, changed or random bytes give PlanInvalid or a whole valid plan."""
    raw = bytearray(
        plans.encode(plan(task(waves=[("2026-11-02T10:00:00Z", 10)], window=SwitchWindow(start="22:00", end="06:00"))))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = plans.parse(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    except PlanInvalid:
        return
    every = [each for fleet in read.channels.values() for each in fleet.tasks.values()]
    assert all(0 < parse_timestamp(wave.start) for each in every for wave in each.waves)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no offer": ({"offers": []}, "offers"),
    "a digest in capitals": ({"offers": [{"bundle": NEW.upper(), "version": "1.0.0"}]}, "bundle"),
    "a version that is none": ({"offers": [{"bundle": NEW, "version": "latest"}]}, "version"),
    "a key that nobody knows": ({"hault": True}, "hault"),
    "an unknown mode": ({"mode": "cloud"}, "mode"),
    "an empty window": ({"window": {"start": "22:00", "end": "22:00"}}, "any time"),
    "an hour that no clock has": ({"window": {"start": "24:00", "end": "06:00"}}, "window.start"),
    "waves that shrink": ({"waves": [("2026-11-02T00:00:00Z", 10), ("2026-11-03T00:00:00Z", 5)]}, "larger percentage"),
    "waves of equal size": ({"waves": [("2026-11-02T00:00:00Z", 10), ("2026-11-03T00:00:00Z", 10)]}, "larger"),
    "waves back in time": ({"waves": [("2026-11-03T00:00:00Z", 10), ("2026-11-02T00:00:00Z", 50)]}, "in time"),
    "waves back by half a second": ({"waves": [("2026-11-02T00:00:00.5Z", 1), ("2026-11-02T00:00:00Z", 5)]}, "in time"),
    "a day that is not": ({"waves": [("2026-02-30T00:00:00Z", 10)]}, "waves.0.start"),
    "local time": ({"waves": [("2026-11-02T00:00:00+01:00", 10)]}, "waves.0.start"),
    "more than all": ({"waves": [("2026-11-02T00:00:00Z", 101)]}, "waves.0.percent"),
    "memory below nothing": (
        {"offers": [{"bundle": NEW, "version": "1.0.0", "requires": {"memory_bytes_min": -1}}]},
        "memory",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_broken_rule_is_named(name: str):
    """PlanInvalid names the field, and no part of the plan is used."""
    changes, said = BAD[name]
    if "waves" in changes:
        changes = {"waves": [{"start": start, "percent": share} for start, share in changes["waves"]]}
    plain = {"offers": [{"bundle": NEW, "version": "1.0.0"}], **changes}
    document = {"schema": plans.SCHEMA, "version": 1, "issued_at": format_timestamp(NOW)}
    raw = json.dumps(document | {"channels": {"stable": {"tasks": {TASK: plain}}}}).encode()
    with pytest.raises(PlanInvalid, match=said):
        plans.parse(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"version": 0, "issued_at": "2026-11-02T00:00:00Z"}',
        b'{"version": 1, "issued_at": "2026-11-02T00:00:00Z", "schema": "edge-agent/plan/v2"}',
        b'{"version": 1, "issued_at": "2026-11-02T00:00:00Z", "sites": {"../x": {}}}',
        b'{"version": 1, "issued_at": "2026-11-02T00:00:00Z", "channels": {"": {}}}',
        b" " * (plans.PLAN_BYTES_MAX + 1),
    ],
    ids=["nothing", "a list", "no text", "deep", "version 0", "another schema", "a path", "no channel", "too large"],
)
def test_bytes_that_are_not_a_plan_are_refused(raw: bytes):
    """By the same error, whatever it is."""
    with pytest.raises(PlanInvalid, match=r"plan\.json"):
        plans.parse(raw)


def test_bundles_of_a_plan_include_all_offers():
    """The bundles of a plan include those that only one machine of one site would get."""
    big = BundleOffer(bundle=NEW, version="2.0.0", requires=HardwareRequirements(memory_bytes_min=2**36))
    one = plan(
        task(OLD),
        sites={
            "shop-1": FleetPlan(tasks={"other": task(offers=(big, BundleOffer(bundle="2f" * 32, version="1.0.0")))})
        },
    )
    assert {OLD, NEW, "2f" * 32} == one.bundles()


@pytest.mark.slow
def test_ten_thousand_site_entries_fit_the_limit():
    """10,000 sites with a bundle of their own stay below the limit of the file."""
    sites = {f"shop-{number}": FleetPlan(tasks={TASK: task()}) for number in range(10_000)}
    raw = plans.encode(plan(sites=sites))
    assert len(raw) < plans.PLAN_BYTES_MAX
    assert 10_000 == len(plans.parse(raw).sites)
