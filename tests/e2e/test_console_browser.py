"""The console in a real headless browser: keyboard use, pages without the daemon, layout.

To keep the screenshots: `CONSOLE_PICTURES=/some/folder scripts/test --all tests/e2e/test_console_browser.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundles import echo_bundle
from tests.support.chromium import CONTROL, PROGRAM, Chromium, Tab
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.web_console import RunningConsole, queue_of, said_of

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium: apt-get install chromium")
TASKS = ("pos-intent", "visit", "talk", "front-desk")
EXAMPLES = {"collect": dict.fromkeys(TASKS, "local"), "commit_seconds": 0.02}
CALIBRATED = {
    **{"policy": "threshold", "temperature": 1.0, "threshold": 0.16, "target_risk": 0.05, "delta": 0.1},
    **{"n": 500, "bound": 0.04, "coverage": 0.6},
}
INPUTS = (
    "My kettle broke after a week, I want my money back.",
    "How much is the blue lamp in the window?",
    "Do you still have size nine boots?",
    "When do you close on Sundays?",
    "Can I swap this shirt for a larger one?",
    "How many points are on my club card?",
    "Where are the toilets?",
    "Can I pay half by card and half in cash?",
)
SHOWN = "[...document.querySelectorAll('#queue > .item')].find((each) => getComputedStyle(each).display !== 'none')"
SHOWN_ID = f"({SHOWN})?.id.slice(2)"
FREE = "!document.querySelector('#queue > .sent') && !document.querySelector('.htmx-request')"


@pytest.fixture(scope="module")
def console(tmp_path_factory) -> Iterator[RunningConsole]:
    folder: Path = tmp_path_factory.mktemp("web")
    with RunningDaemon(folder, examples=EXAMPLES) as daemon:
        daemon.install(
            echo_bundle(folder / "pos", confidence=CALIBRATED),
            echo_bundle(folder / "visit", "visit", "extract", labels=("NAME",)),
            echo_bundle(folder / "talk", "talk", "generate"),
            echo_bundle(folder / "desk", "front-desk", "decide"),
        )
        with RunningConsole(daemon) as running:
            yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def tab(console, browser) -> Iterator[Tab]:
    """A signed-in page; after each test, no script has failed and nothing was loaded from another host."""
    opened = browser.tab()
    opened.look(width=1280, height=900)
    opened.go(console.link)
    yield opened
    assert [] == opened.complaints()
    assert [] == [url for url in opened.addresses() if not url.startswith((console.url, "data:"))]


def asked(console: RunningConsole, task: str = "pos-intent", texts: tuple[str, ...] = INPUTS) -> list[str]:
    """Send inputs to the daemon, and wait until the answers are stored; return them in the order of the queue."""
    with console.daemon.client() as client:
        if task == "talk":
            streams = [client.generate(task, text) for text in texts]
            found = {list(stream) and stream.finish.prediction_id for stream in streams}
        else:
            call = client.extract if task == "visit" else client.classify
            found = {answer.prediction_id for answer in call(task, list(texts))}
    eventually_sync(lambda: found <= set(queue_of(console, task)))
    return [each for each in queue_of(console, task) if each in found]


def desk(tab: Tab, console: RunningConsole, task: str) -> None:
    """Open the review queue of a task as a reviewer with a stored name, with the keyboard alone."""
    tab.go(f"{console.url}/review?task={task}")
    if tab.value("!!document.querySelector('#reviewer')"):
        tab.until("document.activeElement.id === 'reviewer'")
        tab.type("anna")
        tab.press("Enter")
        tab.until("!!document.querySelector('#review')")
    tab.until(f"{SHOWN} === document.activeElement")


def pressed(tab: Tab, key: str) -> str:
    """Press a key on the shown answer, wait until the next one is shown, and return the first one's id."""
    shown = tab.value(SHOWN_ID)
    tab.press(key)
    tab.until(f"{SHOWN_ID} !== '{shown}' && {FREE}")
    return str(shown)


def another_label(tab: Tab) -> tuple[str, str]:
    """Return a label other than the answer's, and its key."""
    button = f"({SHOWN}).querySelector('.labels button:not(.answered)')"
    return tab.value(f"{button}.value"), tab.value(f"{button}.dataset.key")


@pytest.mark.slow
def test_answers_can_be_judged_by_keyboard(console, tab):
    """With the keyboard alone a reviewer accepts (Enter), corrects (a label's key), rejects (!), skips (-) and returns
    to the last answer (Backspace)."""
    order = asked(console)
    desk(tab, console, "pos-intent")
    accepted = pressed(tab, "Enter")
    right, key = another_label(tab)
    corrected = pressed(tab, key)
    skipped = pressed(tab, "-")
    rejected = str(tab.value(SHOWN_ID))
    tab.press("!")
    tab.until("document.activeElement.name === 'reason'")
    tab.type("off topic")
    pressed(tab, "Enter")
    assert order[:4] == [accepted, corrected, skipped, rejected]
    same = pressed(tab, tab.value(f"({SHOWN}).querySelector('.answered').dataset.key"))
    tab.press("Backspace")
    tab.until(f"{SHOWN_ID} === '{same}'")
    other, key = another_label(tab)
    pressed(tab, key)
    tab.until("document.querySelector('#count').textContent.startsWith('5 judged')")
    said = [said_of(console, each) for each in (accepted, corrected, skipped, rejected, same)]
    assert [
        [("anna", "accept", "")],
        [("anna", "corrected", right)],
        [],
        [("anna", "reject", "off topic")],
        [("anna", "accept", ""), ("anna", "corrected", other)],
    ] == said


@pytest.mark.release
def test_correction_takes_one_key(console, tab):
    """40 key presses judge 40 answers, each after the next answer is shown."""
    asked(console, texts=tuple(f"{text} ({number})" for number in range(6) for text in INPUTS))
    desk(tab, console, "pos-intent")
    for number in range(40):
        pressed(tab, "123456"[number % 6])
    tab.until("document.querySelector('#count').textContent.startsWith('40 judged')")


@pytest.mark.release
def test_held_key_judges_one_answer(console, tab):
    """A key that repeats because it is held down judges only one answer."""
    asked(console, texts=("held one", "held two", "held three"))
    desk(tab, console, "pos-intent")
    before = set(queue_of(console, "pos-intent"))
    what = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
    for repeated in (False, True, True, True):
        tab.ask("Input.dispatchKeyEvent", type="keyDown", autoRepeat=repeated, **what)
    tab.until(f"document.querySelector('#count').textContent.startsWith('1 judged') && {FREE}")
    assert 1 == len(before - set(queue_of(console, "pos-intent")))


@pytest.mark.release
def test_records_and_texts_can_be_corrected_by_keyboard(console, tab):
    """For records and texts, e focuses the field, Ctrl+Enter submits the edited value, and Escape leaves the field
    without a judgement."""
    [record] = asked(console, "visit", ("I am Anna Smith",))
    desk(tab, console, "visit")
    tab.press("e")
    tab.until("document.activeElement.tagName === 'TEXTAREA'")
    tab.value("document.activeElement.select()")
    tab.type('{"NAME": "Anna"}')
    tab.press("Escape")
    tab.until("document.activeElement.classList.contains('item')")
    assert [] == said_of(console, record)
    tab.press("e")
    tab.press("Enter", CONTROL)
    tab.until("document.querySelector('#count').textContent.startsWith('1 judged')")
    assert [("anna", "corrected", '{"NAME":"Anna"}')] == said_of(console, record)
    [text] = asked(console, "talk", ("Hello there",))
    desk(tab, console, "talk")
    tab.press("e")
    tab.type("Better: ")
    tab.press("Enter", CONTROL)
    tab.until("document.querySelector('#count').textContent.startsWith('1 judged')")
    [(who, verdict, value)] = said_of(console, text)
    assert ("anna", "corrected", True) == (who, verdict, value.startswith("Better: "))


@pytest.mark.release
def test_long_queue_is_fetched_in_parts(console, tab):
    """The review page fetches the answers of a long queue during the review, each one once, and shows the end message
    after the last."""
    asked(console, "visit", tuple(f"I am number {number}" for number in range(60)))
    waiting = queue_of(console, "visit")
    desk(tab, console, "visit")
    seen = [pressed(tab, "-") for _ in waiting[:-1]]
    seen.append(str(tab.value(SHOWN_ID)))
    tab.press("-")
    tab.until("getComputedStyle(document.querySelector('#end')).display === 'block'")
    assert waiting == seen
    assert waiting == queue_of(console, "visit")


@pytest.mark.slow
def test_failed_requests_are_shown_and_retried(console, tab):
    """The review page shows an error when it cannot fetch more answers, reopen one or store a judgement, and fetches
    again automatically."""
    asked(console, texts=tuple(f"fetched {number}" for number in range(12)))
    desk(tab, console, "pos-intent")
    pressed(tab, "Enter")
    tab.ask("Network.setBlockedURLs", urls=["*/review/more*", "*/review/again*", "*/review/judge"])
    tab.press("Backspace")
    tab.until("document.querySelector('#judged .error').textContent === 'This console does not answer.'")
    tab.press("Enter")
    tab.until(f"({SHOWN})?.querySelector('.error').textContent.endsWith('the judgement was not stored.')")
    for _ in range(tab.value("document.querySelectorAll('#queue > .item').length")):
        tab.press("-")
    tab.until("document.querySelector('#more').textContent.includes('The page retries every few seconds')")
    assert "block" == tab.value("getComputedStyle(document.querySelector('#more')).display")
    tab.ask("Network.setBlockedURLs", urls=[])
    tab.until(f"!!{SHOWN_ID}")


@pytest.mark.slow
def test_open_chart_table_is_not_redrawn(console, tab):
    """The page redraws its charts, but not while the data table of one is open."""
    asked(console)
    console.sign_in()
    eventually_sync(lambda: "<svg" in console.get("/charts").text, 60)
    tab.go(f"{console.url}/")
    tab.until("!!document.querySelector('#charts details')")
    again = "htmx.ajax('GET', '/charts', {source: '#charts', target: '#charts'}).catch(() => 0)"
    tab.value("window.table = document.querySelector('#charts details'); window.table.open = true")
    tab.value(f"{again}; 0")
    tab.until("!document.querySelector('.htmx-request')")
    assert tab.value("document.contains(window.table)")
    tab.value(f"window.table.open = false; {again}; 0")
    tab.until("!document.contains(window.table)")


@pytest.mark.release
def test_judgement_during_daemon_restart_is_not_lost(console, tab):
    """A judgement made while the daemon restarts is stored once the daemon is back, or stays in the form with the
    reason."""
    asked(console, texts=("gone one", "gone two", "gone three"))
    desk(tab, console, "pos-intent")
    console.daemon.kill()
    shown = tab.value(SHOWN_ID)
    tab.press("Enter")
    console.daemon.start("pos-intent")
    tab.until(FREE, 30)
    if tab.value(SHOWN_ID) == shown:  # this machine took longer than the page waits
        assert "No daemon answers" in tab.value(f"({SHOWN}).querySelector('.error').textContent")
        pressed(tab, "Enter")
    assert [("anna", "accept", "")] == said_of(console, shown)


@pytest.mark.release
def test_page_shows_that_console_stopped_and_recovers(console, tab):
    """A page shows that its console has stopped, and recovers when the console starts again."""
    tab.until("!!document.querySelector('#live h1')")
    console.stop()
    tab.until("!document.querySelector('#lost').hidden")
    console.start()
    tab.until("document.querySelector('#lost').hidden")


@pytest.mark.slow
def test_missed_value_can_be_selected_in_redaction_audit(browser, tmp_path):
    """In the redaction audit, text that a reviewer selects is stored as a missed value, and a value that is not in the
    text shows an error."""
    settings = {"examples": EXAMPLES, "redaction": {"task": "pii", "audit_share": 1.0}}
    select = """(() => {
        const range = document.createRange(), end = document.querySelector('[data-original] p').lastChild;
        range.setStart(end, 4); range.setEnd(end, 8); getSelection().removeAllRanges(); getSelection().addRange(range);
        document.querySelector('[data-add-selection]').click(); return document.querySelector('#values').value; })()"""
    with RunningDaemon(tmp_path, **settings) as daemon, daemon.admin() as admin, daemon.client() as client:
        pii = echo_bundle(tmp_path / "pii", "pii", "redact", ("O", "B-ROOM", "I-ROOM"), weights=b"pii")
        daemon.install(echo_bundle(tmp_path / "pos"), pii)
        client.classify("pos-intent", ["room 101 of Anna", "room 102 of Anna"])
        eventually_sync(lambda: admin.status().redaction.audit.waiting == 2)
        with RunningConsole(daemon) as console:
            tab = browser.tab()
            tab.look(width=1280, height=900)
            tab.go(console.link)
            tab.go(f"{console.url}/redaction/audit")
            tab.type("Bob")
            tab.value("document.querySelector('button.main').click()")
            tab.until("document.querySelector('form .error').textContent.includes('is not in the text')")
            assert "Bob; Anna" == tab.value(select)
            shot(tab, Path(os.environ.get("CONSOLE_PICTURES", tmp_path), "audit.png"))
            tab.value("document.querySelector('#values').value = 'Anna'")
            tab.value("document.querySelector('button.main').focus(); document.activeElement.click()")
            tab.until("document.querySelector('[data-original]')?.textContent.includes('102')")
            tab.until("document.activeElement.id === 'values'")  # the next text is judged without a mouse
            for width, name in ((820, "tablet"), (390, "phone")):
                tab.look(width=width, height=1180, dark=width < 500)
                shot(tab, Path(os.environ.get("CONSOLE_PICTURES", tmp_path), f"audit-{name}.png"))
            assert [each for each in tab.complaints() if "422" not in each] == []
        [text] = admin.redaction_audit(judged=True)
        assert [(12, 16)] == [(each.start, each.end) for each in text.missed]


@pytest.mark.release
def test_layout_fits_all_screens_and_is_accessible(console, tab, tmp_path):
    """On three screen sizes, light and dark, and without a daemon, no page overflows and every control has a name."""
    folder = Path(os.environ.get("CONSOLE_PICTURES", tmp_path))
    for number in range(12):
        asked(console, texts=tuple(f"{text}{' ' * number}" for text in INPUTS))
    asked(console, "visit", ("I am Anna Smith and come at ten",))
    with console.daemon.client() as client:
        [decision] = client.decide("front-desk", ["My kettle burns, send somebody now"])
    eventually_sync(lambda: decision["severity"].prediction_id in queue_of(console, "front-desk/severity"))
    console.sign_in()
    eventually_sync(lambda: "<svg" in console.get("/tasks/front-desk").text, 60)  # figures are kept for a while
    tasks = {"review": "pos-intent", "review-record": "visit", "review-question": "front-desk/severity"}
    for size, (width, height) in {"wide": (1280, 900), "tablet": (820, 1180), "phone": (390, 844)}.items():
        for dark in (False, True):
            tab.look(width=width, height=height, dark=dark)
            scheme = "dark" if dark else "light"
            for name, path in {"overview": "/", "task": "/tasks/pos-intent", "questions": "/tasks/front-desk"}.items():
                tab.go(f"{console.url}{path}")
                tab.until("!!document.querySelector('figure svg')")
                shot(tab, folder / f"{name}-{size}-{scheme}.png")
            for name, task in tasks.items():
                desk(tab, console, task)
                shot(tab, folder / f"{name}-{size}-{scheme}.png")
    tab.go(console.url)
    console.daemon.kill()
    tab.until("document.querySelector('#live h1').textContent === 'The daemon does not answer'")
    shot(tab, folder / "offline.png")
    tab.go(f"{console.url}/review")
    shot(tab, folder / "offline-review.png")
    console.daemon.start("pos-intent")
    tab.until("!!document.querySelector('#queue')")


def shot(tab: Tab, path: Path) -> None:
    """Take a screenshot; nothing overflows the window, controls have names, and scrollable areas can be reached by
    keyboard."""
    assert 0 >= tab.value("document.documentElement.scrollWidth - document.documentElement.clientWidth"), path.name
    nameless = "[...document.querySelectorAll('button, a, input:not([type=hidden]), textarea:not([hidden])')]"
    script = f"{nameless}.filter((each) => !(each.labels?.length || each.ariaLabel || each.textContent.trim())).length"
    assert 0 == tab.value(script)
    moved = "[...document.querySelectorAll('.scroll')].filter((each) => each.scrollWidth > each.clientWidth)"
    assert 0 == tab.value(f"{moved}.filter((each) => each.tabIndex < 0 || !each.ariaLabel).length"), path.name
    tab.picture(path)
