"""The network traffic of a site with a large model: the daemon sends none, and the uplink sends only permitted,
redacted texts.

Rules and a redaction model redact; the model is the echo runtime's, which takes every run of digits as personal data.
"""

from __future__ import annotations

import pytest

from tests.support.bundles import echo_bundle
from tests.support.counted_network import OUTSIDE, CountedNetwork, why_not
from tests.support.escalating_site import TASK, EscalatingSite
from tests.support.large_model import LargeModel

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]
SECRET = "kestrel-7f3a"
INPUT = f"write to {SECRET}@example.org"
PORT = 9443
FORBIDDEN, TALK = "diagnosis", "assistant"
ROOM = "407193825"
"""Personal to the model alone: for the rules it has no form and no word before it."""
TAGS = ("O", "B-ROOM", "I-ROOM")


@pytest.fixture(scope="module")
def wired(tmp_path_factory):
    """Run the daemon and the uplink in a network namespace each and the large model outside, and record the uplink's
    traffic."""
    folder = tmp_path_factory.mktemp("site")
    with CountedNetwork(PORT) as serving, CountedNetwork(PORT) as asking:
        with asking.outside_here():
            oracle = LargeModel(lambda _: "hours", OUTSIDE)
        asking.allow(oracle.port)
        modes = {TASK: "hybrid", FORBIDDEN: "bootstrap"}
        site = EscalatingSite(folder, oracle, {"redaction": {"task": "pii"}}, modes=modes)
        site.serve.inside, site.uplink_inside = serving.inside, asking.inside
        with oracle, asking.tapped() as tap, site:
            site.serve.install(
                echo_bundle(folder / "pos", TASK),
                echo_bundle(folder / "forbidden", FORBIDDEN),
                echo_bundle(folder / "talk", TALK, kind="generate"),
                echo_bundle(folder / "pii", "pii", "redact", TAGS, weights=b"pii"),
            )
            site.start_uplink()
            yield site, oracle, tap, serving, asking


def test_task_without_permission_sends_nothing(wired):
    """In every mode and with every low-confidence policy, a task without permission sends no question; the text is in
    no packet, and neither daemon connects elsewhere."""
    site, oracle, tap, serving, asking = wired
    questions = len(oracle.asked)
    for mode in ("bootstrap", "shadow", "hybrid", "local"):
        site.admin.set_mode(FORBIDDEN, mode)
        for wish in ("as_mode", "abstain", "escalate", "answer"):
            (answer,) = site.client.classify(FORBIDDEN, [INPUT], on_low_confidence=wish)
            assert answer.route != "UPSTREAM"
    with site.client.generate(TALK, INPUT, escalate=True) as stream:
        assert INPUT == "".join(stream)
    assert ("LOCAL", "UPSTREAM_NOT_ALLOWED") == (stream.finish.route, stream.finish.route_reason)
    assert questions == len(oracle.asked)
    assert SECRET.encode() not in tap.text()
    assert (0, 0) == (serving.attempts(), asking.attempts())


def test_permitted_task_sends_redacted_text_to_large_model_only(wired):
    """For a permitted task the packets hold a placeholder in place of the address; the daemon sends nothing itself, and
    the uplink connects only to the large model."""
    site, oracle, tap, serving, asking = wired
    before = asking.allowed()
    (answer,) = site.client.classify(TASK, [INPUT])
    assert ("UPSTREAM", "hours") == (answer.route, answer.label)
    assert (1, 0) == (oracle.times_asked("[EMAIL_1]"), oracle.times_asked(SECRET))
    assert (True, False) == (b"[EMAIL_1]" in tap.text(), SECRET.encode() in tap.text())
    assert asking.allowed() > before
    assert (0, 0) == (serving.attempts(), asking.attempts())


def test_value_found_by_redaction_model_is_in_no_packet(wired):
    """A value that only the redaction model finds is neither in a packet nor in the large model's request, and the
    large model's answer is used."""
    site, oracle, tap, serving, asking = wired
    (answer,) = site.client.classify(TASK, [f"the guest of {ROOM} wants a refund"])
    assert ("UPSTREAM", "hours") == (answer.route, answer.label)
    assert (1, 0) == (oracle.times_asked("the guest of [ROOM_1] wants"), oracle.times_asked(ROOM))
    assert (True, False) == (b"the guest of [ROOM_1] wants" in tap.text(), ROOM.encode() in tap.text())
    assert (0, 0) == (serving.attempts(), asking.attempts())
