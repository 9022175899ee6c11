"""`edge-agent serve web` next to a real daemon: sign-in, overview, review, a restarting daemon, and TLS."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from edge_agent import certificate_authority
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.tls_site import TlsSite
from tests.support.web_console import RunningConsole, queue_of, said_of

LABELS = ("refund", "price", "hours")
EXAMPLES = {"collect": {"pos": "local", "visit": "local", "desk": "local"}, "commit_seconds": 0.02}


@pytest.fixture(scope="module")
def console(tmp_path_factory) -> Iterator[RunningConsole]:
    folder: Path = tmp_path_factory.mktemp("web")
    with RunningDaemon(folder, examples=EXAMPLES) as daemon:
        daemon.install(
            echo_bundle(folder / "pos", "pos", labels=LABELS),
            echo_bundle(folder / "visit", "visit", "extract", labels=("NAME",)),
            echo_bundle(folder / "desk", "desk", "decide"),
        )
        with RunningConsole(daemon) as running:
            running.sign_in()
            running.remember("edge_agent_reviewer=anna%20%C3%84")
            yield running


def ask(console: RunningConsole, *texts: str, task: str = "pos") -> list[str]:
    """Send inputs to the daemon, and wait until their answers are stored."""
    with console.daemon.client() as client:
        call = client.extract if task == "visit" else client.classify
        found = [answer.prediction_id for answer in call(task, list(texts))]
    eventually_sync(lambda: set(found) <= set(queue_of(console)))
    return found


def test_printed_link_signs_browser_in(console):
    """The printed link sets an HttpOnly, SameSite=strict session cookie and redirects to an address without the token;
    a wrong token is refused, and the log has no token."""
    got = console.get(console.link.removeprefix(console.url))
    assert (303, "/") == (got.status, got.headers["location"])
    [cookie] = got.cookies
    assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
    assert console.token_file.read_text().strip() not in f"{got.headers}"
    wrong = console.get("/login?token=guessed")
    assert (401, True) == (wrong.status, "This is not the token" in wrong.text)
    assert "token" not in console.log.read_text()


def test_overview_shows_health_tasks_engines_and_examples(console):
    """The first page shows health, tasks, engines and stored examples; it has no resources of other hosts and no inline
    scripts or styles."""
    ask(console, "what is open")
    got = console.get("/")
    assert 200 == got.status
    for said in ("Healthy", "3 tasks, all ready.", ">pos</a>", "unsigned", "Examples stored", "echo"):
        assert said in got.text
    assert [] == re.findall(r'(?:src|href|action)="(?!/|#)[^"]*"|<script>|<style| style=| on\w+=', got.text)
    mark = re.search(r'/live\?seen=(\w+)"', got.text)
    assert mark
    assert console.get(f"/live?seen={mark[1]}x").status == 200


def test_overview_and_task_page_show_charts(console):
    """The first page shows the chart of answer routes, and a task's page shows all its charts; an unknown task is a 404
    page."""
    ask(console, *(f"chart {number}" for number in range(5)))
    eventually_sync(lambda: "<svg" in console.get("/charts").text, 30)  # charts are reckoned anew after a while
    glance, whole = console.get("/charts").text, console.get("/tasks/pos").text
    assert ("Who answered" in glance, "Who answered" in whole, "Examples" in whole) == (True, True, True)
    missing = console.get("/tasks/none")
    assert (404, True) == (missing.status, "There is no task &#39;none&#39;" in missing.text)


def test_each_decide_question_has_own_charts_and_review_queue(console):
    """The page of a decide task has a section for each question, and each question has its own review queue."""
    with console.daemon.client() as client:
        [decision] = client.decide("desk", ["my kettle burns"])
    urgent = decision["urgent"].prediction_id
    eventually_sync(lambda: urgent in queue_of(console, "desk/urgent"))
    eventually_sync(lambda: "desk/urgent</a>" in console.get("/charts").text, 30)
    assert '<a href="/tasks/desk#urgent">desk/urgent</a>' in console.get("/charts").text
    page = console.get("/tasks/desk").text
    assert ["intent", "urgent", "severity"] == re.findall(r'<h2 id="(\w+)"', page)
    assert 'href="/review?task=desk/severity"' in page
    review = console.get("/review?task=desk/urgent").text
    assert ["desk", "urgent"] == re.findall(r'aria-current="true">([^<]+)</a>', review)
    assert f'id="p-{urgent}"' in review
    assert "Questions of" not in console.get("/review?task=pos").text
    assert "0 of 3 questions" in console.get("/").text


def test_judgement_is_stored_under_reviewer_name(console):
    """The daemon stores each judgement under the reviewer's name: accepted, corrected, and rejected with or without a
    reason."""
    right, label, wrong, why = ask(console, *(f"judge {number}" for number in range(4)))
    fields = [
        {"prediction_id": right, "say": "accept"},
        {"prediction_id": label, "label": "hours", "answer": "none of them"},
        {"prediction_id": wrong, "say": "reject"},
        {"prediction_id": why, "say": "reject", "reason": "off topic"},
    ]
    assert [200] * 4 == [console.post("/review/judge", each).status for each in fields]
    expected = [("accept", ""), ("corrected", "hours"), ("reject", "no reason given"), ("reject", "off topic")]
    said = [said_of(console, each) for each in (right, label, wrong, why)]
    assert [[("anna Ä", *word)] for word in expected] == said


def test_answer_can_be_judged_again(console):
    """The page of a judged answer shows the earlier judgement, and the daemon stores a second one in addition."""
    [one] = ask(console, "judge again")
    console.post("/review/judge", {"prediction_id": one, "label": "price", "answer": "x"})
    back = console.get(f"/review/again?id={one}")
    assert "Judged before: anna Ä: corrected price" in back.text
    console.post("/review/judge", {"prediction_id": one, "say": "accept"})
    assert [("anna Ä", "corrected", "price"), ("anna Ä", "accept", "")] == said_of(console, one)


def test_edited_record_is_stored_as_correction(console):
    """A record edited in the form is stored as a correction, and an unchanged record as accepted."""
    one, two = ask(console, "I am Anna Smith", "I am Ben Jones", task="visit")
    page = console.get("/review?task=visit").text
    assert ("the right JSON object" in page, "judge 0" in page) == (True, False)
    right = '{"NAME": "Ben"}'
    console.post("/review/judge", {"prediction_id": one, "text": "{}", "answer": "{}"})
    assert 200 == console.post("/review/judge", {"prediction_id": two, "text": right, "answer": "{}"}).status
    assert [("anna Ä", "accept", "")] == said_of(console, one)
    assert [("anna Ä", "corrected", '{"NAME":"Ben"}')] == said_of(console, two)


def test_invalid_judgement_is_refused_with_message(console):
    """The console refuses a label that the task lacks, an unknown prediction, an empty form and a wrong page key, and
    stores nothing."""
    [one] = ask(console, "refused")
    bad = console.post("/review/judge", {"prediction_id": one, "label": "nonsense", "answer": "x"})
    assert (422, True) == (bad.status, "'nonsense' is not a label of pos" in bad.text), bad
    assert 422 == console.post("/review/judge", {"prediction_id": "no-such", "say": "accept"}).status
    assert 422 == console.post("/review/judge", {"prediction_id": one}).status
    assert 403 == console.post("/review/judge", {"prediction_id": one, "say": "accept"}, x_page_key="0").status
    assert [] == said_of(console, one)


@pytest.mark.release
def test_console_survives_a_killed_daemon(console):
    """While the daemon is down, the console reports it with a remedy and shows the last known figures; after the
    restart the pages recover."""
    ask(console, "before")
    assert "Healthy" in console.get("/").text
    console.daemon.kill()
    eventually_sync(lambda: "The daemon does not answer" in console.get("/live").text)
    gone = console.get("/").text
    assert ("retries every few seconds" in gone, "figures below are older" in gone, ">pos</a>" in gone) == (
        True,
        True,
        True,
    )
    assert "The page retries every few seconds" in console.get("/review").text
    assert 503 == console.get("/review/more").status
    assert 200 == console.get("/charts").status
    console.daemon.start("pos")
    eventually_sync(lambda: "Healthy" in console.get("/live").text, 20)
    eventually_sync(lambda: "before" in console.get("/review").text, 20)


@pytest.mark.release
def test_silent_connection_is_closed(tmp_path, console):
    """The console closes a connection on which the client sends nothing or an incomplete request."""
    with RunningConsole(console.daemon, silent_seconds_max=0.2, token_file=str(tmp_path / "t")) as short:
        for begun in (b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nHost: " + short.address.encode() + b"\r\n\r\nGET"):
            with socket.create_connection(("127.0.0.1", short.port), timeout=20) as idle:
                idle.sendall(begun)
                while idle.recv(4096):
                    pass


@pytest.mark.release
def test_link_option_prints_sign_in_link_again(console):
    """`serve web --link` prints the sign-in link again, and a second console on the same address exits with 3 and names
    the address."""
    printed = subprocess.run([*console.command(), "--link"], capture_output=True, text=True, check=True).stdout
    assert console.link == printed.strip()
    second = subprocess.run(console.command(), capture_output=True, text=True, check=False)
    assert (3, True) == (second.returncode, f"cannot listen on {console.address}" in second.stderr), second.stderr


@pytest.mark.release
def test_client_certificate_roles_limit_console_pages(tmp_path, console):
    """With TLS, the roles of a visitor's certificate decide which pages they see, and a visitor without one cannot
    connect. A renewed server certificate and its names apply at once."""
    site = TlsSite(tmp_path / "tls")
    files = {"certificate_file": str(site.certificate), "key_file": str(site.key), "client_ca_file": str(site.ca)}
    with RunningConsole(console.daemon, token_file=str(tmp_path / "t"), **files) as secure:
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            secure.get("/")
        secure.context = context(site, "boss", "admin")
        assert "Healthy" in secure.get("/").text
        assert "your certificate lacks the role feedback" in secure.get("/").text
        assert 403 == secure.get("/review").status
        secure.context = context(site, "anna", "feedback")
        assert (403, 200) == (secure.get("/charts").status, (mine := secure.get("/review")).status)
        assert "as <b>anna</b>" in mine.text
        [one] = ask(console, "by certificate")
        assert 200 == secure.post("/review/judge", {"prediction_id": one, "say": "accept"}).status
        assert [("anna", "accept", "")] == said_of(console, one)
        before, at_till = served(secure), f"till.shop:{secure.port}"
        assert 421 == secure.get("/", host=at_till).status
        names = ["localhost", "127.0.0.1", "till.shop"]
        renewed = certificate_authority.issue_server_certificate(site.authority, names, time.time(), 30)
        certificate_authority.write_pair(renewed, site.certificate, site.key, replace=True)
        assert before != served(secure)
        assert 200 == secure.get("/", host=at_till).status


@pytest.mark.release
def test_remote_console_shows_what_its_certificate_permits(tmp_path):
    """A console that reaches the daemon over the network shows what its own certificate permits, and names the missing
    role for the rest."""
    site = TlsSite(tmp_path / "tls")
    folder = remote(site, tmp_path / "console", "infer", "feedback")
    settings = {**site.settings(), "examples": {"collect": {"pos": "local"}, "commit_seconds": 0.02}}
    with RunningDaemon(tmp_path / "site", **settings) as daemon:
        daemon.install(echo_bundle(tmp_path / "pos", "pos", labels=LABELS))
        with RunningConsole(daemon, remote_file=str(folder)) as console:
            console.sign_in()
            got = console.get("/").text
            assert ("Healthy" in got, "GetStatus needs admin" in got, "Engines" in got) == (True, True, False)
            [one] = ask(console, "from elsewhere")
            console.remember("edge_agent_reviewer=anna")
            assert 200 == console.post("/review/judge", {"prediction_id": one, "say": "accept"}).status
            assert [("anna", "accept", "")] == said_of(console, one)


@pytest.mark.release
def test_connections_over_limit_get_503(tmp_path, console):
    """Over the connection limit a browser gets 503, while the open connections keep working."""
    with RunningConsole(console.daemon, connections_max=2, token_file=str(tmp_path / "t")) as narrow:
        held = [http.client.HTTPConnection("127.0.0.1", narrow.port, timeout=20) for _ in range(2)]
        assert [200, 200] == [status_of(each) for each in held]
        assert 503 == narrow.get("/healthz").status
        assert [200, 200] == [status_of(each) for each in held]
        held[0].close()
        eventually_sync(lambda: narrow.get("/healthz").status == 200)
        held[1].close()


def status_of(connection: http.client.HTTPConnection) -> int:
    """Return the status of a request on a connection that stays open."""
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    answer.read()
    return answer.status


def remote(site: TlsSite, folder: Path, *roles: str) -> Path:
    """Write the remote.yaml of a client with these roles."""
    folder.mkdir()
    tls = site.client("console", *roles)
    files = {"address": site.address, "ca": str(tls.ca), "certificate": str(tls.certificate), "key": str(tls.key)}
    (folder / "remote.yaml").write_text(yaml.safe_dump(files))
    return folder


def context(site: TlsSite, name: str, *roles: str) -> ssl.SSLContext:
    """Return the TLS context of a browser with a client certificate."""
    tls = site.client(name, *roles)
    made = ssl.create_default_context(cafile=str(site.ca))
    made.load_cert_chain(tls.certificate, tls.key)
    return made


def served(secure: RunningConsole) -> bytes | None:
    """Return the server certificate that the console presents."""
    assert secure.context
    with (
        socket.create_connection(("127.0.0.1", secure.port), timeout=20) as plain,
        secure.context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        return wrapped.getpeercert(binary_form=True)
