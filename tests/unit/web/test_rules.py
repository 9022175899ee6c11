"""The console's rules: names, sessions, the token's file, roles, verdicts, and the reviewer's desk."""

import asyncio
import contextlib
import os
import socket
import stat
from datetime import UTC, datetime, timedelta

import pytest

from edge_agent.client import BundleRef, CallFailed, Durations, Feedback, Prediction, Status, Task, TaskCounts
from edge_agent.config import ConfigInvalid, WebConfig, load
from edge_agent.config.web_section import token_path
from edge_agent.errors import SocketInUse, WebTokenUnusable
from edge_agent.web import desk, rows, token, visitors, words
from edge_agent.web.daemon import Seen
from edge_agent.web.desk import Unclear, Word
from edge_agent.web.listener import listen, shown
from edge_agent.web.origin import hosts
from edge_agent.web.seal import Seal
from edge_agent.web.verdicts import health, unseen
from tests.support.tls_site import free_port

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
REF = BundleRef("pos", "1.0.0", "ab" * 32)


def task(name: str = "pos", *, ready: bool = True) -> Task:
    return Task(name, "CLASSIFY", REF, ("refund", "price"), 10, 0, 8, ready, True, None)


def prediction(**changed: object) -> Prediction:
    plain = {
        "prediction_id": "p-1",
        "bundle": REF,
        "kind": "CLASSIFY",
        "input": "I want my money back",
        "output": "refund",
        "confidence": 0.7,
        "threshold": 0.8,
        "below_threshold": True,
        "route": "LOCAL",
        "answer_time": NOW,
        "labels": ("refund", "price", "hours"),
        "scores": (("refund", 0.7), ("price", 0.2)),
        "feedback": (),
        "reviewed": False,
    }
    return Prediction(**{**plain, **changed})  # type: ignore[arg-type]


def test_the_desk_keeps_two_answers_apart():
    """Where the large model answered, its name stands beside its answer, and the confidence beside the local one."""
    item = desk.item(prediction(teacher_answer="refund", teacher_model="large-1", local_answer="price"))
    assert ("refund", "large-1", "price") == (item.output, item.teacher_model, item.local_answer)
    alone = desk.item(prediction(local_answer="refund"))
    assert ("", "") == (alone.teacher_model, alone.local_answer)


@pytest.mark.parametrize(
    ("address", "names", "expected"),
    [
        ("127.0.0.1:8390", (), {"127.0.0.1:8390", "localhost:8390", "[::1]:8390"}),
        ("[::1]:8390", (), {"127.0.0.1:8390", "localhost:8390", "[::1]:8390"}),
        ("10.0.0.5:9443", ("Till.Shop",), {"10.0.0.5:9443", "till.shop:9443"}),
        ("0.0.0.0:9443", ("till",), {"till:9443", "localhost:9443", "127.0.0.1:9443", "[::1]:9443"}),
        ("10.0.0.5:9443", ("fd00::1",), {"[fd00::1]:9443", "10.0.0.5:9443"}),
        ("10.0.0.5:9443", ("localhost:8391",), {"localhost:8391", "10.0.0.5:9443"}),
        ("10.0.0.5:443", (), {"10.0.0.5:443", "10.0.0.5"}),
    ],
)  # fmt: skip
def test_a_console_knows_its_names(address, names, expected):
    """Host may say the address, its other names, and nothing else; without the port where it is the usual one."""
    assert expected == hosts(address, names)


def test_a_session_ends():
    """A session holds until its time and not after it, for the secret that it was made with alone."""
    seal = Seal("secret")
    cookie = seal.session(100.4, "nonce")
    assert [True, False, False] == [seal.holds(cookie, 99.9), seal.holds(cookie, 100), Seal("other").holds(cookie, 0)]
    later = cookie.replace("100.", "900.", 1)
    assert [False, False, False] == [seal.holds(forged, 0) for forged in (later, "", "ä.ö.ü")]


def test_keys_of_pages_are_their_visitors():
    """The key of one visitor's pages is worth nothing on another's, and no session is a key."""
    seal = Seal("secret")
    assert seal.is_page_key("anna", seal.page_key("anna"))
    assert not seal.is_page_key("berta", seal.page_key("anna"))
    assert not seal.is_page_key("anna", seal.session(1, "anna"))
    assert [True, False, False] == [seal.is_token(given) for given in ("secret", "Secret", "sécret")]


def test_consoles_do_not_end_each_others_sessions():
    """Two consoles behind one name, as ports that ssh forwards, have cookies of different names that say nothing."""
    one, two = Seal("secret"), Seal("other")
    assert (one.cookie_name, True) == (Seal("secret").cookie_name, one.cookie_name != two.cookie_name)
    assert "secret" not in one.cookie_name


def test_a_token_is_made_once(tmp_path):
    """The first start makes the file, for its user alone; later ones read what is there."""
    path = tmp_path / "new" / "folder" / "web-token"
    made = token.read_or_make(path)
    assert (made, made, True) == (token.read_or_make(path), path.read_text().strip(), len(made) >= 43)
    assert (0o600, 0o700) == tuple(stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent))
    assert [path] == list(path.parent.iterdir())
    assert made != token.read_or_make(tmp_path / "another")


@pytest.mark.parametrize("content", ["", "short", "x" * 31, "ä" * 40, "x" * 20 + "\n" + "y" * 20])
def test_a_file_that_holds_no_token_is_refused(tmp_path, content):
    """What could be guessed, or is no line of text, is no token."""
    path = tmp_path / "web-token"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(WebTokenUnusable, match="holds no token"):
        token.read(path)


def test_a_token_that_others_may_read_is_refused(tmp_path):
    """A file open to others, a link and a pipe are refused by name, and never waited for."""
    path = tmp_path / "web-token"
    token.read_or_make(path)
    path.chmod(0o640)
    with pytest.raises(WebTokenUnusable, match="others than its user"):
        token.read_or_make(path)
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "pipe"):
        with pytest.raises(WebTokenUnusable, match=name):
            token.read_or_make(tmp_path / name)
    with pytest.raises(WebTokenUnusable, match="Not a directory"):
        token.read_or_make(path / "below" / "a-file")


def test_the_token_lies_with_its_user():
    """Without a name in agent.yaml the token is in the state directory of whoever starts the console."""
    assert "/var/lib/x/token" == str(token_path(WebConfig(token_file="/var/lib/x/token"), {}))
    assert "/home/a/.st/edge-agent/web-token" == str(token_path(WebConfig(), {"XDG_STATE_HOME": "/home/a/.st"}))
    assert str(token_path(WebConfig(), {})).endswith("/.local/state/edge-agent/web-token")


CERTIFICATES = {"certificate_file": "a.crt", "key_file": "a.key", "client_ca_file": "ca.crt"}


@pytest.mark.parametrize(
    ("web", "said"),
    [
        ({"address": "0.0.0.0:8390"}, "which others than this machine may reach"),
        ({"address": "shop.example:8390"}, "which others than this machine may reach"),
        ({"address": "8390"}, "is no address"),
        ({"certificate_file": "a.crt"}, "needs web.key_file and web.client_ca_file"),
        ({**CERTIFICATES, "key_file": ""}, "needs web.key_file as well"),
        ({"roles": ["look"]}, "web.roles.0"),
        ({"adress": "127.0.0.1:1"}, "address"),
    ],
)
def test_what_would_open_the_console_by_an_oversight_is_refused(tmp_path, web, said):
    """Others than this machine are let in with certificates alone, all three files together."""
    path = tmp_path / "agent.yaml"
    path.write_text(f"web: {web}\n")
    with pytest.raises(ConfigInvalid) as refused:
        load(path, environ={})
    assert said in f"{refused.value.message} {refused.value.remedy}"


@pytest.mark.parametrize("web", [{}, {"address": "[::1]:1"}, CERTIFICATES, {**CERTIFICATES, "address": "0.0.0.0:1"}])
def test_a_console_for_this_machine_or_with_certificates_is_fine(tmp_path, web):
    """Loopback, or all three files, is all that it takes."""
    path = tmp_path / "agent.yaml"
    path.write_text(f"web: {web}\n")
    assert load(path, environ={}).web.has_tls == ("key_file" in web)


def test_a_port_that_is_taken_is_named():
    """Two consoles on one address: the second says what to do."""
    address = f"127.0.0.1:{free_port()}"
    with listen(address), pytest.raises(SocketInUse, match=f"cannot listen on {address}") as refused:
        listen(address)
    assert "'address' under 'web'" in refused.value.remedy


def test_the_shown_address_can_be_opened():
    """An address of every network is shown by this machine's name; one of IPv6 in brackets."""
    assert "http://127.0.0.1:1" == shown("127.0.0.1:1", secure=False)
    assert "https://[::1]:1" == shown("[::1]:1", secure=True)
    assert f"https://{os.uname().nodename}:1" == shown("0.0.0.0:1", secure=True)


def test_paths_have_roles():
    """Every page that shows or changes something of one role needs that role; the way in needs none."""
    paths = ("/", "/live", "/charts", "/tasks/x", "/review", "/review/judge", "/v1/models", "/logout")
    assert [None, None, "admin", "admin", "feedback", "feedback", "infer", None] == [*map(visitors.needs, paths)]
    assert [True, True, True, False] == [*map(visitors.is_open, ("/login", "/static/x.css", "/healthz", "/loginx"))]


def failed(message: str = "no daemon answers at unix:x") -> CallFailed:
    return CallFailed("UNAVAILABLE", "UNREACHABLE", message, remedy="Start it.", metadata={})


@pytest.mark.parametrize(
    ("seen", "tasks", "tone", "headline"),
    [
        (Seen(problems={"admin": failed()}), None, "bad", "The daemon does not answer"),
        (Seen(), None, "warn", "Nothing is asked of the daemon"),
        (Seen(answers=True), [task()], "warn", "The daemon takes no new work"),
        (Seen(answers=True, serving=True), [task(), task("b", ready=False)], "bad", "1 task not ready"),
        (Seen(answers=True, serving=True), [], "warn", "No tasks yet"),
        (Seen(answers=True, serving=True), None, "good", "The daemon answers"),
        (Seen(answers=True, serving=True), [task()], "good", "All is well"),
    ],
)
def test_the_first_line_says_how_it_is(seen, tasks, tone, headline):
    """What is wrong is said first, the worst of it."""
    said = health(seen, tasks, None)
    assert (tone, headline) == (said.tone, said.headline)


def test_a_daemon_that_does_not_answer_is_looked_for():
    """The page says what is in the way, what to do, that it is tried again, and that the rest is old."""
    said = health(Seen(problems={"infer": failed()}), [task()], None)
    assert said.sentence == (
        "No daemon answers at unix:x. It is tried again every few seconds. What stands below is from before."
    )
    assert "Start it." == said.remedy


def test_what_is_not_shown_is_said():
    """What a visitor lacks, what this console does not use and what the daemon refuses are told apart."""
    anyone, reviewer = visitors.by_token(), visitors.Visitor("anna", frozenset({"feedback"}), "certificate", "f")
    every = frozenset({"infer", "feedback", "admin"})
    whole = Seen(answers=True, serving=True)
    assert [] == unseen(whole, anyone, every)
    assert ["this console does not use the role admin"] == [
        each.why for each in unseen(whole, anyone, every - {"admin"})
    ]
    assert ["your certificate has not the role admin", "your certificate has not the role infer"] == [
        each.why for each in unseen(whole, reviewer, every)
    ]
    refused = Seen(answers=True, problems={"admin": failed("this user may not use admin.sock")})
    assert ["this user may not use admin.sock"] == [each.why for each in unseen(refused, anyone, every)]
    assert [] == unseen(Seen(problems={"admin": failed()}), anyone, every)  # the banner says it


def test_each_label_has_a_key():
    """Labels take 1 to 9, then a to z, in the task's order; what is beyond has none, and is typed."""
    labels = tuple(f"label-{number}" for number in range(40))
    laid = desk.item(prediction(labels=labels, output="label-2"))
    assert "123456789abcdefghijklmnopqrstuvwxyz" == "".join(choice.key for choice in laid.choices)
    assert ["label-2"] == [choice.label for choice in laid.choices if choice.is_answer]
    assert (True, "unsure", "") == (laid.has_more_labels, laid.sureness, laid.edited)
    few = desk.item(prediction())
    assert [0.7, 0.2, None] == [choice.score for choice in few.choices]
    assert not few.has_more_labels


def test_records_and_texts_are_edited():
    """A record is shown with a field a line, a text as it is; neither has labels, what is no JSON stays as it is."""
    record = desk.item(prediction(kind="EXTRACT", output='{"a":1,"b":"ä"}', labels=("x",), confidence=None))
    assert ('{\n  "a": 1,\n  "b": "ä"\n}', (), "") == (record.output, record.choices, record.sureness)
    assert "the right JSON object" == record.edited
    assert "{broken" == desk.readable("EXTRACT", "{broken")
    assert "the right text" == desk.item(prediction(kind="GENERATE")).edited


def test_an_answer_that_is_judged_again_says_what_was_said():
    """Whoever corrects a correction sees it."""
    before = (Feedback("f", "anna", NOW, "corrected", "price"), Feedback("g", "ben", NOW, "accept", ""))
    assert "anna: corrected price; ben: accept" == desk.item(prediction(feedback=before)).said_before
    assert "not calibrated" == desk.item(prediction(threshold=None)).sureness
    assert "sure" == desk.item(prediction(below_threshold=False)).sureness


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"say": "accept"}, Word("accept")),
        ({"label": "price", "answer": "refund"}, Word("correct", "price")),
        ({"label": "refund", "answer": "refund"}, Word("accept")),
        ({"text": "a\r\nb", "answer": "a\nb"}, Word("accept")),
        ({"text": "new", "answer": "old"}, Word("correct", "new")),
        ({"say": "reject", "reason": " off topic "}, Word("reject", "off topic")),
        ({"say": "reject"}, Word("reject", "no reason given")),
    ],
)
def test_a_form_says_one_thing(form, expected):
    """Whoever gives the answer that stands there accepts it; a reason may be left out."""
    assert expected == desk.word(form)


@pytest.mark.parametrize("form", [{}, {"say": "maybe"}, {"label": " ", "answer": "x"}, {"text": "", "answer": "x"}])
def test_a_form_that_says_nothing_is_refused(form):
    """Nothing is kept of a form that names no verdict, or an empty answer."""
    with pytest.raises(Unclear):
        desk.word(form)


def test_a_word_is_shown_short():
    """What was said stands in the list in a line."""
    assert "right" == Word("accept").shown
    assert "wrong: why" == Word("reject", "why").shown
    assert ("x" * 79 + "…") == Word("correct", "x" * 200).shown


def test_a_row_has_what_was_counted():
    """Beside a task stands what the daemon counted of it since it was started; a dash where nothing was."""
    times = Durations((0.01, 0.1), (10, 0, 0), 0.05)
    counts = TaskCounts("pos", {"local": 8, "abstained": 2}, {"QUEUE_FULL": 1}, 8, 2, 0, times, times)
    status = Status("0.1.0", NOW, True, 100, (task(),), (), (), 0, 0, counts=(counts,))
    assert {"answers": 10, "errors": 1, "memory": 100, "kept": 0} == rows.totals(status)
    [row] = rows.rows([task()], status)
    assert (10, "25 %", "5.0 ms") == (row.answers, row.unsure, row.usual)
    assert [(0, "-", "-")] == [(each.answers, each.unsure, each.usual) for each in rows.rows([task()], None)]


@pytest.mark.parametrize(
    ("ago", "expected"),
    [(-5, "0 s"), (3, "3 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (200_000, "2 days")],
)
def test_times_read_as_people_say_them(ago, expected):
    """A time ago is in the unit that leaves at least two of it; a clock that went back makes no time."""
    assert expected == words.lasting(NOW - timedelta(seconds=ago), NOW)


def test_words_of_the_api_read_as_people_say_them():
    """They are in lower case, without underscores."""
    assert "rolled back" == words.word("ROLLED_BACK")


async def test_an_answer_does_not_wait_to_be_acknowledged():
    """Connections send at once: with Nagle's delay the second half of each answer came 40 ms late."""
    accepted = asyncio.get_running_loop().create_future()

    class Accepts(asyncio.Protocol):
        def connection_made(self, transport):
            connection = transport.get_extra_info("socket")
            accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    with contextlib.closing(listen("127.0.0.1:0")) as listening:
        server = await asyncio.get_running_loop().create_server(Accepts, sock=listening)
        with socket.create_connection(listening.getsockname()):
            assert 0 != await asyncio.wait_for(accepted, 10)
        server.close()
