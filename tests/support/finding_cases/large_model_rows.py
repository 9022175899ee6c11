"""Rows of the large model: its uplink, its key, its caps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.finding_cases.case import made
from tests.support.finding_cases.site import TASK, FaultySite
from tests.support.large_model import KEY, LargeModel

ORACLES: dict[Path, LargeModel] = {}
"""The large model of each site, by its folder."""
PRICE = {"input_token_price": 1.0, "output_token_price": 1.0, "answer_tokens_max": 16}
"""For a million tokens: a token costs a millionth."""
CAP = 0.04
SETTLED_SECONDS = 5.0
"""What is set aside for a question has come back by then, also on a busy machine."""


def escalating(folder: Path, **more: Any) -> Mapping[str, Any]:
    """Give the site a large model, which it asks about every input."""
    oracle = ORACLES[folder] = LargeModel(lambda _: "refund")
    key = folder / "key"
    key.write_text(f"{KEY}\n")
    key.chmod(0o600)
    section = {
        "url": oracle.url,
        "model": "oracle-1",
        "credentials_file": str(key),
        "tasks": [TASK],
        "modes": {TASK: "bootstrap"},
        "socket": str(folder / "esc"),
        "retry_seconds_first": 0.05,
        "retry_seconds_max": 0.2,
        "later_questions_max": 0,
        "audit_share": 0,
        **more,
    }
    return {"escalation": section, "uplink": {"notes_dir": str(folder / "notes")}}


def _start(site: FaultySite) -> None:
    site.ends.enter_context(ORACLES[site.folder])
    site.serve("uplink", "large-model")


def _restart_uplink(site: FaultySite) -> None:
    site.end("uplink")
    site.serve("uplink")


def _ask(site: FaultySite, count: int = 8) -> None:
    with site.daemon.client() as client:
        client.classify(TASK, ["where is my money"] * count)


@made("large-model/fault/no-task-can-ask-it", settings=escalating, prepare=_start)
def uplink_ended(site: FaultySite) -> None:
    """The uplink, through which it is asked, was killed."""
    site.end("uplink")
    site.until_found("large-model")


def _name_tasks(tasks: list[str] | None) -> Callable[[FaultySite], None]:
    def name(site: FaultySite) -> None:
        site.edit(escalation={"tasks": tasks, "modes": {TASK: "bootstrap"} if tasks else None})
        site.restart()
        _restart_uplink(site)
        site.until_found("large-model", is_found=not tasks)

    return name


made("large-model/note/no-task-may-ask-it", settings=escalating, prepare=_start, by_hand=_name_tasks([TASK]))(
    _name_tasks(None)
)


def _answering(way: str) -> Callable[[FaultySite], None]:
    def answer(site: FaultySite) -> None:
        ORACLES[site.folder].way = ORACLES[site.folder].listing = way
        if way != "well":
            _ask(site)
        site.until_found("large-model", is_found=way != "well")

    return answer


made("large-model/note/", settings=escalating, prepare=_start, by_hand=_answering("well"))(_answering("429"))
made("large-model/warning/is-offline", settings=escalating, prepare=_start, by_hand=_answering("well"))(
    _answering("lost")
)


@made(
    "large-model-key/fault/",
    settings=escalating,
    prepare=_start,
    with_it=("large-model",),
    person="the central team",
)
def key_withdrawn(site: FaultySite) -> None:
    """The large model no longer accepts the key."""
    (site.folder / "key").write_text("sk-withdrawn\n")
    _restart_uplink(site)
    site.until_found("large-model-key")


def _raise_the_cap(site: FaultySite) -> None:
    site.edit(escalation={"day_cost_max": 1000.0})
    site.restart()
    _restart_uplink(site)
    site.until_found("large-model-budget", is_found=False)


def _capped(folder: Path) -> Mapping[str, Any]:
    return escalating(folder, day_cost_max=CAP, **PRICE)


@made("large-model-budget/note/nearly-spent", settings=_capped, prepare=_start, by_hand=_raise_the_cap)
def cap_nearly_reached(site: FaultySite) -> None:
    """The questions of the day have cost nine tenths of what they may."""

    def is_nearly_spent() -> bool:
        # By what the large model has charged: the daemon also counts what is set aside for a question, for a while.
        _ask(site, 1)
        return ORACLES[site.folder].tokens >= 0.9 * CAP * 1e6

    site.until(is_nearly_spent)
    site.until_found("large-model-budget")


@made("large-model-budget/warning/budget-spent", settings=_capped, prepare=_start, by_hand=_raise_the_cap)
def cap_reached(site: FaultySite) -> None:
    """The questions of the day have cost what they may."""
    since: float | None = None

    def is_spent() -> bool:
        nonlocal since
        with site.daemon.admin() as admin:
            large = admin.status().large_model
        assert large is not None
        if large.affordable:
            since = None
            _ask(site)
        else:
            since = since or time.monotonic()
        # What is set aside for a question counts, too, and comes back: only what stays spent for a while is.
        return since is not None and time.monotonic() - since > SETTLED_SECONDS

    def is_told() -> bool:
        return any((each["check"], each["verdict"]) == ("large-model-budget", "warning") for each in site.everything())

    site.until(is_spent)
    site.until(is_told)
