"""The plan as YAML: reading, writing, differences, halts, and errors with a place and a suggestion."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.publish import plan_text
from convert.publish.plan_text import HaltOrder, consequences, halt, same_plan
from convert.publish.repository_reader import BundleTarget, find
from edge_agent.errors import InvalidRequest, PlanInvalid
from edge_agent.formats.plan import RolloutPlan, encode

OLD, NEW, CUDA = "a" * 64, "b" * 64, "c" * 64
BUNDLES = {
    digest: BundleTarget(task, version, digest, 10)
    for task, version, digest in (
        ("pos-intent", "1.0.0", OLD),
        ("pos-intent", "1.1.0", NEW),
        ("pos-fields", "1.1.0", CUDA),
    )
}
WRITTEN = """
channels:
  stable:
    bytes_per_second_max: 20000
    tasks:
      pos-intent:
        offers:
        - {version: 1.1.0, requires: {memory_bytes_min: 4000000000, devices: [cuda, vulkan], cpu_features: [avx2]}}
        - bundle: aaaaaaa
        waves:
        - {start: 2026-12-01T02:00:00Z, percent: 5}
        - {start: 2026-12-03T02:00:00Z, percent: 100}
        window: {start: 22:00, end: 04:30}
        probation: {calls: 100, hours: 2}
        mode: hybrid
        failure_percent_max: 3
      pos-fields: {offers: [{version: 1.1.0}]}
sites:
  shop-1:
    tasks: {pos-intent: {offers: [{version: 1.0.0}], halted: true}}
"""


def plan() -> RolloutPlan:
    return plan_text.read(WRITTEN, BUNDLES)


def test_all_plan_keys_are_read():
    """Channels, sites, hardware, waves, window, bandwidth, mode and probation are read, and bundles are given by
    version or digest."""
    stable = plan().channels["stable"]
    intent = stable.tasks["pos-intent"]
    assert [(NEW, "1.1.0"), (OLD, "1.0.0")] == [(offer.bundle, offer.version) for offer in intent.offers]
    assert (4_000_000_000, ("cuda", "vulkan"), ("avx2",)) == (
        intent.offers[0].requires.memory_bytes_min,
        intent.offers[0].requires.devices,
        intent.offers[0].requires.cpu_features,
    )
    assert [5, 100] == [wave.percent for wave in intent.waves]
    assert intent.window is not None
    assert ("22:00", "04:30", "hybrid") == (intent.window.start, intent.window.end, intent.mode)
    assert (100, 2, 3) == (intent.probation.calls, intent.probation.hours, intent.failure_percent_max)
    assert (20_000, CUDA) == (stable.bytes_per_second_max, stable.tasks["pos-fields"].offers[0].bundle)
    assert plan().sites["shop-1"].tasks["pos-intent"].halted


def test_written_plan_reads_back():
    """A plan written as YAML or JSON reads back as the same plan, without a list of bundles."""
    for text in (plan_text.write(plan()), encode(plan()).decode()):
        assert same_plan(plan(), plan_text.read(text, {}))


def test_empty_text_is_an_empty_plan():
    """An empty text, or only comments or empty sections, is a plan without bundles."""
    for text in ("", "# nothing\n", "channels:\nsites: {}\n"):
        assert frozenset() == plan_text.read(text, BUNDLES).bundles()
    assert "" == plan_text.write(plan_text.read("", {}))


def test_key_without_value_gets_the_default():
    """A key without a value, or with null, has its default."""
    text = WRITTEN.replace("mode: hybrid", "mode:").replace("window: {start: 22:00, end: 04:30}", "window: null")
    intent = plan_text.read(text, BUNDLES).channels["stable"].tasks["pos-intent"]
    assert (None, None) == (intent.mode, intent.window)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("bytes_per_second_max", "bytes_per_second", "unknown key 'channels.stable.bytes_per_second'"),
        ("offers", "offer", r"unknown key 'channels\.stable\.tasks\.pos-intent\.offer'"),
        ("percent: 5", "percentage: 5", r"unknown key .*waves\.percentage"),
        ("channels", "channel", "unknown key 'channel'"),
        ("version: 1.1.0, req", "version: 7.0.0, req", r"'pos-intent 7\.0\.0', which is no signed bundle.*1\.1\.0"),
        ("bundle: aaaaaaa", "bundle: aaaaa", "'pos-intent  aaaaa', which is no signed bundle"),
        ("bundle: aaaaaaa", "bundle: aaaaaaac", "no signed bundle"),
        ("- bundle: aaaaaaa", "- requires: {}", "'pos-intent', which is no signed bundle"),
        ("2026-12-01T02:00:00Z", "tomorrow", r"waves\.0\.start: 'tomorrow' is not a time such as 2026"),
        ("22:00", "10 pm", r"window\.start: '10 pm' is not a time of day such as 02:00"),
        ("stable", "Stable", "is not a name of lower-case letters"),
        ("percent: 5", "percent: 500", r"percent: .*less than or equal to 100"),
        ("mode: hybrid", "mode: hybird", "mode: Input should be 'bootstrap', 'shadow', 'hybrid' or 'local'"),
        ("percent: 100", "percent: 4", "waves must"),
        ("pos-fields:", "pos-intent:", "'pos-intent' occurs twice"),
        ("sites:", ":\n -", "is not valid YAML"),
        ("offers: [{version: 1.0.0}]", "offers: 7", "offers"),
        ("tasks: {pos-intent", "tasks: {7", "tasks"),
    ],
)
def test_invalid_plan_names_the_key(old: str, new: str, said: str):
    """An invalid plan is refused with the key, the rule and a remedy."""
    assert old in WRITTEN
    with pytest.raises(PlanInvalid, match=said) as caught:
        plan_text.read(WRITTEN.replace(old, new), BUNDLES)
    assert caught.value.remedy


def test_unknown_plan_key_suggests_the_nearest():
    """An unknown key in a plan gets the nearest key as a suggestion."""
    with pytest.raises(PlanInvalid) as caught:
        plan_text.read(WRITTEN.replace("probation", "probaton"), BUNDLES)
    assert "Did you mean 'probation'?" == caught.value.remedy


@given(st.text(alphabet="ab:-{}[]\n #&*!|>'\"%@`0129", max_size=60))
def test_any_text_is_a_plan_or_plan_invalid(text: str):
    """Any text either reads as a plan or raises PlanInvalid."""
    try:
        assert isinstance(plan_text.read(text, BUNDLES), RolloutPlan)
    except PlanInvalid as error:
        assert error.message


def test_plan_difference_has_lines_and_consequences():
    """The difference of two plans is shown as changed lines and, for each task, as a sentence on versions, waves,
    window and halts."""
    before, after = plan(), plan_text.read(WRITTEN.replace("version: 1.0.0", "version: 1.1.0"), BUNDLES)
    assert {f"-        - bundle: {OLD}", f"+        - bundle: {NEW}"} <= set(plan_text.differences(before, after))
    assert ([], []) == (plan_text.differences(before, before), consequences(before, before))
    assert [
        "sites.shop-1.tasks.pos-intent: halted: no more sites switch; sites that have switched keep the bundle"
    ] == consequences(before, after)
    nothing = plan_text.read("", {})
    assert [
        "channels.stable.tasks.pos-intent: 1.1.0 or 1.0.0, switching between 22:00 and 04:30 by the site's clock,"
        " mode hybrid, 5% from 2026-12-01T02:00:00Z, 100% from 2026-12-03T02:00:00Z",
        "channels.stable.tasks.pos-fields: 1.1.0, all sites at once",
    ] == consequences(nothing, before)[:2]
    assert 3 == sum(line.endswith("sites keep their current bundle") for line in consequences(before, nothing))
    fewer = plan_text.read(
        WRITTEN.replace(", percent: 100", ", percent: 50").replace("[{version: 1.1.0}]", "[{bundle: cccccc}]"), BUNDLES
    )
    assert any(line.endswith("the other sites never") for line in consequences(before, fewer))


@pytest.mark.parametrize(
    ("scope", "names"),
    [({}, {"stable", "shop-1"}), ({"channel": "stable"}, {"stable"}), ({"site": "shop-1"}, {"shop-1"})],
)
def test_halt_applies_to_all_one_channel_or_one_site(scope: dict[str, str], names: set[str]):
    """A halt, and its end, applies to the whole plan, to one channel or to one site."""
    for resume in (False, True):
        others = halt(plan(), HaltOrder("pos-intent", resume=not resume))
        after = halt(others, HaltOrder("pos-intent", resume=resume, **scope))
        fleets = {**after.channels, **after.sites}
        assert names == {name for name, fleet in fleets.items() if fleet.tasks["pos-intent"].halted is not resume}


def test_halt_of_an_unplanned_task_is_an_error():
    """Halting a task, channel or site that the plan does not have is an error that lists the tasks of the plan."""
    for order in (HaltOrder("pos"), HaltOrder("pos-fields", site="shop-1"), HaltOrder("pos-intent", channel="beta")):
        with pytest.raises(InvalidRequest) as caught:
            halt(plan(), order)
        assert "pos-fields, pos-intent" in caught.value.remedy
    with pytest.raises(InvalidRequest, match="channel 'beta' has no entry"):
        halt(plan(), HaltOrder("pos-intent", channel="beta"))


def test_bundle_is_found_by_version_or_digest():
    """A bundle is found by TASK@VERSION, its digest or a digest prefix of six characters; no match or several matches
    are an error."""
    assert NEW == find(BUNDLES, "pos-intent@1.1.0").digest
    assert NEW == find(BUNDLES, "bbbbbb").digest == find(BUNDLES, NEW).digest
    for written in ("pos-intent", "bbbbb", "pos-intent@2.0.0", ""):
        with pytest.raises(InvalidRequest, match="no signed bundle") as caught:
            find(BUNDLES, written)
        assert "pos-fields 1.1.0" in caught.value.remedy
    twins = {digest: BundleTarget("talk", "1.0.0", digest, 1) for digest in (OLD, "a" * 63 + "b")}
    with pytest.raises(InvalidRequest, match="more than one"):
        find(twins, "aaaaaaaa")
    assert "none" == plan_text.names({}, "talk")
