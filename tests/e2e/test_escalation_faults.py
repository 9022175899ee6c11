"""Escalations during failures of the uplink and the large model: each caller gets an answer in time, and no question is
sent twice."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.asking import flapping
from tests.support.baseline import nobody_waits
from tests.support.bundles import echo_bundle
from tests.support.escalating_site import TASK, EscalatingSite
from tests.support.eventually import eventually_sync
from tests.support.host_names import REFUSING, SILENT, HostNames
from tests.support.host_names import why_not as names_why_not
from tests.support.large_model import LargeModel

SURE, UNSURE = "refund please", "hmm"
CALIBRATED = {
    "policy": "threshold",
    "temperature": 1.0,
    "threshold": 0.9,
    "target_risk": 0.05,
    "delta": 0.1,
    "n": 100,
    "bound": 0.04,
    "coverage": 0.7,
}
PRICES = {"input_token_price": 10.0, "output_token_price": 10.0}


@pytest.fixture
def oracle():
    with LargeModel(lambda _: "hours") as server:
        yield server


def site_of(folder, oracle, **settings):
    """Return a site whose task is not confident about texts without a label."""
    return EscalatingSite(folder / "site", oracle, **settings)


def install(site):
    """Install the task."""
    site.admin.install(echo_bundle(site.folder / "pos", TASK, confidence=CALIBRATED))


def ask(site, text=UNSURE, seconds=10.0):
    """Send one text; an answer that misses the deadline raises an error."""
    (answer,) = site.client.classify(TASK, [text], timeout_seconds=seconds)
    return answer


def came_from(answer):
    """Return the route of an answer and its reason."""
    return answer.route, answer.route_reason


def asked_in_haste(site, pool):
    """Send a text with a deadline of a minute and return the answer, which must come without waiting."""
    asking = pool.submit(ask, site, "hmm, in haste", 60)
    eventually_sync(asking.done)
    return asking.result()


def assert_offline_at_once(site):
    """Check that callers get the local answer with UPSTREAM_OFFLINE as fast as confident ones."""
    routes = set()
    assert nobody_waits(lambda: routes.add(came_from(ask(site))), lambda: ask(site, SURE))
    assert {("LOCAL", "UPSTREAM_OFFLINE")} == routes


@pytest.mark.slow
def test_uplink_killed_during_escalation_falls_back_to_local(tmp_path, oracle):
    """When the uplink is killed during an escalation, the caller gets the local answer at once, the reserved cost stays
    spent, and the next uplink does not repeat the question."""
    with site_of(tmp_path, oracle, **PRICES) as site, ThreadPoolExecutor() as pool:
        install(site)
        site.start_uplink()
        oracle.seconds = 20
        asking = pool.submit(ask, site, "hmm, the first", 20)
        eventually_sync(lambda: oracle.times_asked("hmm, the first") == 1)
        site.stop_uplink(signal.SIGKILL)
        eventually_sync(asking.done)  # and does not wait until its deadline for somebody who is dead
        assert ("LOCAL", "UPSTREAM_FAILED") == came_from(asking.result())
        assert site.spent_micros() > 0
        oracle.seconds = 0
        site.await_online(False)
        site.start_uplink()
        assert ("UPSTREAM", "BELOW_THRESHOLD") == came_from(ask(site, "hmm, the second"))
        assert (1, 1) == (oracle.times_asked("hmm, the first"), oracle.times_asked("hmm, the second"))


@pytest.mark.slow
def test_stopping_daemon_completes_running_escalation(tmp_path, oracle):
    """A daemon that stops completes a call that is waiting for the large model, with the large model's answer."""
    with site_of(tmp_path, oracle) as site, ThreadPoolExecutor() as pool:
        install(site)
        site.start_uplink()
        oracle.seconds = 2
        asking = pool.submit(ask, site, "hmm, at closing time", 20)
        eventually_sync(lambda: oracle.times_asked("hmm, at closing time") == 1)
        assert 0 == site.serve.stop()
        assert ("UPSTREAM", "BELOW_THRESHOLD") == came_from(asking.result())


@pytest.mark.slow
def test_spent_budget_stops_escalation(tmp_path, oracle):
    """Once the daily budget has no room for another question, nothing is sent and calls get the local answer, also
    after a restart of the uplink; spending stays within the limit."""
    with site_of(tmp_path, oracle, day_cost_max=0.02, **PRICES) as site:
        install(site)
        site.start_uplink()
        routes = []
        # Until there is no room for another of the usual size, 1,000 tokens and 200; one under way takes its room.
        while 10 * oracle.tokens <= 20_000 - 12_000:
            routes.append(came_from(ask(site, "hmm again")))
        site.await_problem("UPSTREAM_BUDGET_SPENT")
        assert ("UPSTREAM", "BELOW_THRESHOLD") == routes[0]
        assert ("LOCAL", "UPSTREAM_BUDGET_SPENT") == came_from(ask(site))
        sent = len(oracle.asked)
        assert sent == routes.count(routes[0])
        assert 0 < site.spent_micros() <= 20_000
        site.stop_uplink()
        site.await_online(False)
        site.start_uplink()
        site.await_problem("UPSTREAM_BUDGET_SPENT")
        assert ("LOCAL", "UPSTREAM_BUDGET_SPENT") == came_from(ask(site))
        assert sent == len(oracle.asked)


@pytest.mark.slow
def test_refused_question_does_not_stop_escalation(tmp_path, oracle):
    """A question that the server refuses with 400 gets the local answer and is not repeated; the large model stays
    online, and the next question is sent at once."""
    with site_of(tmp_path, oracle, retry_seconds_first=30, retry_seconds_max=30) as site:
        install(site)
        site.start_uplink()
        site.await_online(True)
        oracle.way = "400"
        assert ("LOCAL", "UPSTREAM_FAILED") == came_from(ask(site, "hmm, refused"))
        site.await_problem("UPSTREAM_FAILED")
        oracle.way = "well"
        assert ("UPSTREAM", "BELOW_THRESHOLD") == came_from(ask(site, "hmm, the next"))
        assert 1 == oracle.times_asked("hmm, refused")


@pytest.mark.slow
def test_retry_after_applies_to_all_questions(tmp_path, oracle):
    """After a 429 with Retry-After, a call with enough time is sent again after the pause, and all others get the local
    answer at once."""
    with site_of(tmp_path, oracle) as site, ThreadPoolExecutor() as pool:
        install(site)
        site.start_uplink()
        oracle.way, oracle.retry_after = "429", "2"
        patient = pool.submit(ask, site, "hmm, the patient", 20)
        eventually_sync(lambda: oracle.times_asked("hmm, the patient") == 1)
        eventually_sync(lambda: came_from(ask(site, "hmm, the next")) == ("LOCAL", "UPSTREAM_BUSY"))
        asked_meanwhile = oracle.times_asked("hmm, the next")
        oracle.way = "well"
        assert ("UPSTREAM", "BELOW_THRESHOLD") == came_from(patient.result())
        assert 2 == oracle.times_asked("hmm, the patient")
        assert asked_meanwhile <= 1
        oracle.way, oracle.retry_after = "429", "90"
        eventually_sync(lambda: came_from(asked_in_haste(site, pool)) == ("LOCAL", "UPSTREAM_BUSY"))
        assert 1 == oracle.times_asked("hmm, in haste")


@pytest.mark.slow
def test_expired_api_key_stops_escalation_until_restart(tmp_path, oracle):
    """A 401 stops escalation and the problem names the key; after a restart of the uplink with a valid key, questions
    are sent again."""
    with site_of(tmp_path, oracle) as site:
        install(site)
        site.start_uplink()
        assert "UPSTREAM" == ask(site, "hmm, before").route
        oracle.way = "401"
        assert ("LOCAL", "UPSTREAM_FAILED") == came_from(ask(site, "hmm, expired"))
        site.await_problem("UPSTREAM_REFUSED")
        assert ("LOCAL", "UPSTREAM_OFFLINE") == came_from(ask(site, "hmm, after"))
        assert [1, 1, 0] == [oracle.times_asked(f"hmm, {when}") for when in ("before", "expired", "after")]
        assert "key" in site.large_model().problem
        oracle.way = "well"
        site.stop_uplink()
        site.start_uplink()
        assert "UPSTREAM" == ask(site, "hmm, renewed").route


@pytest.mark.slow
def test_unresolvable_name_delays_no_answer(tmp_path, oracle):
    """When the large model's name cannot be resolved, answers are local without delay, and the problem names the
    host."""
    with site_of(tmp_path, oracle, url="http://large-model.invalid/v1") as site:
        install(site)
        site.start_uplink(online=False)
        site.await_problem("UPSTREAM_UNREACHABLE")
        assert_offline_at_once(site)
        assert "large-model.invalid" in site.large_model().problem
    assert [] == oracle.received


NAME = "large-model.test"
GONE = {
    "refused": lambda names: names.unknown(REFUSING),
    "silent": lambda names: names.unknown(SILENT),
    "elsewhere": lambda names: names.known(NAME, "127.0.0.99"),  # where nobody listens
}


@pytest.mark.slow
@pytest.mark.skipif(bool(names_why_not()), reason=names_why_not())
@pytest.mark.parametrize("how", GONE)
def test_name_lost_during_service_costs_no_deadline(tmp_path, oracle, how):
    """When the name stops resolving, or resolves to an unreachable address, all callers get the local answer in time,
    at most 3 of 6 wait, and escalation resumes later."""
    url = f"http://{NAME}:{oracle.port}/v1"
    with HostNames(tmp_path / "etc") as names, site_of(tmp_path, oracle, url=url) as site:
        install(site)
        names.known(NAME, "127.0.0.1")
        site.uplink_inside = names.inside
        site.start_uplink()
        assert ("UPSTREAM", "BELOW_THRESHOLD") == came_from(ask(site, "hmm, before"))
        GONE[how](names)
        assert site.large_model().online
        routes = [came_from(ask(site, f"hmm no. {number}!", 1.5)) for number in range(6)]
        assert ("LOCAL", "UPSTREAM_FAILED") == routes[0]
        # Which of them wait depends on when the pause between two probes is over, the last one too.
        assert 3 <= sum(reason in ("UPSTREAM_OFFLINE", "DEADLINE_TOO_SHORT") for _, reason in routes)
        assert 3 >= routes.count(routes[0])
        assert {"LOCAL"} == {route for route, _ in routes}
        assert 0 == oracle.times_asked("hmm no.")
        names.known(NAME, "127.0.0.1")
        eventually_sync(lambda: came_from(ask(site, "hmm, after")) == ("UPSTREAM", "BELOW_THRESHOLD"), seconds=30)


@pytest.mark.slow
def test_hanging_uplink_is_detected_as_offline(tmp_path, oracle):
    """A stopped uplink, which closes no connection, is reported as offline; calls meanwhile get the local answer in
    time."""
    with site_of(tmp_path, oracle) as site:
        install(site)
        site.start_uplink()
        site.uplink.send_signal(signal.SIGSTOP)
        try:
            assert ("LOCAL", "UPSTREAM_FAILED") == came_from(ask(site, seconds=1))
            eventually_sync(lambda: not site.large_model().online, seconds=60)
            assert_offline_at_once(site)
            assert "does not answer" in site.large_model().problem
        finally:
            site.uplink.send_signal(signal.SIGCONT)
        site.await_online(True)
        assert "UPSTREAM" == ask(site, "hmm, after").route


@pytest.mark.slow
@pytest.mark.parametrize("way", ["stall", "lost"])
def test_silent_large_model_is_skipped_after_three_callers(tmp_path, oracle, way):
    """After at most three callers got no answer from the large model, the others get the local answer without waiting;
    no text is sent twice."""
    with site_of(tmp_path, oracle, retry_seconds_first=30, retry_seconds_max=30) as site:
        install(site)
        site.start_uplink()
        oracle.way = way
        routes = [came_from(ask(site, f"hmm no. {number}!", 2)) for number in range(6)]
        assert ("LOCAL", "UPSTREAM_FAILED") == routes[0]
        assert ("LOCAL", "UPSTREAM_OFFLINE") == routes[-1] or routes[-1][1] == "DEADLINE_TOO_SHORT"
        assert [1, 0] == sorted({oracle.times_asked(f"hmm no. {number}!") for number in range(6)}, reverse=True)
        assert len(oracle.asked) <= 3


@pytest.mark.release
def test_flapping_link_costs_no_deadline():
    """On a link that fails and recovers every second in three ways, each of 300 calls is answered in time, and no
    question is sent twice."""
    assert [] == [bar for bar in flapping.measure(calls=300) if not bar.ok]
