"""What becomes of a call when the way to the large model breaks under it: an answer in time, and nothing sent twice."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.asking import flapping
from tests.support.baseline import nobody_waits
from tests.support.bundles import echo_bundle
from tests.support.escalating_site import TASK, EscalatingSite
from tests.support.eventually import eventually_sync
from tests.support.large_model import LargeModel
from tests.support.names import REFUSING, SILENT, Names
from tests.support.names import why_not as names_why_not

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
    """Return a site whose task is unsure of what does not say a label."""
    return EscalatingSite(folder / "site", oracle, **settings)


def install(site):
    """Install the task."""
    site.admin.install(echo_bundle(site.folder / "pos", TASK, confidence=CALIBRATED))


def ask(site, text=UNSURE, seconds=10.0):
    """Ask: an answer that is not there before the deadline is an error."""
    (answer,) = site.client.classify(TASK, [text], timeout_seconds=seconds)
    return answer


def came_from(answer):
    """Return where an answer came from, and why."""
    return answer.route, answer.route_reason


def asked_in_haste(site, pool):
    """Ask with a minute's time, none of which is to be spent on waiting; return the answer."""
    asking = pool.submit(ask, site, "hmm, in haste", 60)
    eventually_sync(asking.done)
    return asking.result()


def assert_offline_at_once(site):
    """Whoever asks has the local answer because the large model is offline, as soon as one that needs no other."""
    routes = set()
    assert nobody_waits(lambda: routes.add(came_from(ask(site))), lambda: ask(site, SURE))
    assert {("LOCAL", "UPSTREAM_OFFLINE")} == routes


@pytest.mark.slow
def test_an_uplink_killed_in_mid_escalation_costs_neither_the_answer_nor_a_second_question(tmp_path, oracle):
    """The local answer is there at once; what was set aside stays spent; the next uplink does not ask it again."""
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
def test_a_call_that_waits_for_the_large_model_has_its_answer_although_the_daemon_stops(tmp_path, oracle):
    """A stop gives calls that run their time, and they can reach the large model until the last one has ended."""
    with site_of(tmp_path, oracle) as site, ThreadPoolExecutor() as pool:
        install(site)
        site.start_uplink()
        oracle.seconds = 2
        asking = pool.submit(ask, site, "hmm, at closing time", 20)
        eventually_sync(lambda: oracle.times_asked("hmm, at closing time") == 1)
        assert 0 == site.serve.stop()
        assert ("UPSTREAM", "BELOW_THRESHOLD") == came_from(asking.result())


@pytest.mark.slow
def test_a_spent_budget_is_known_before_anybody_is_asked(tmp_path, oracle):
    """Under the cap it is asked; from then on nothing is sent, nobody waits, and a new uplink remembers it."""
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
def test_a_question_that_the_server_refuses_has_the_local_answer_and_the_next_one_is_asked(tmp_path, oracle):
    """At once: the large model stays online, its refusal is shown, and the next answer ends that."""
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
def test_a_pause_that_the_server_names_is_kept_by_all(tmp_path, oracle):
    """Who has the time is asked for once more after it; who has not is answered here at once; nobody asks meanwhile."""
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
def test_a_key_that_expires_is_refused_once(tmp_path, oracle):
    """The first refusal closes the way and names the key; a new key opens it, when the uplink is started with it."""
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
def test_a_name_that_nobody_knows_is_offline_at_once(tmp_path, oracle):
    """Without DNS nobody waits: answers are given here, and the uplink says what it cannot reach."""
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
def test_a_name_that_is_lost_in_mid_service_costs_nobody_his_deadline(tmp_path, oracle, how):
    """While it counts as online its name is gone, or leads to nobody: all have the local answer in time, few wait."""
    url = f"http://{NAME}:{oracle.port}/v1"
    with Names(tmp_path / "etc") as names, site_of(tmp_path, oracle, url=url) as site:
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
def test_an_uplink_that_hangs_is_offline_soon(tmp_path, oracle):
    """Stopped, it neither says nor closes anything: its silence is enough. Who asks meanwhile is answered in time."""
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
def test_a_large_model_that_answers_nobody_is_soon_left_alone(tmp_path, oracle, way):
    """After three callers at most who got nothing, nobody waits any more; each text was sent once."""
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
def test_a_link_that_flaps_costs_nobody_his_deadline():
    """Down and up every second in three ways: each call is answered in time, and no question is sent twice."""
    assert [] == [bar for bar in flapping.measure(calls=300) if not bar.ok]
