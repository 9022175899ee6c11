"""From a client device to the training file: both programs, connected by a USB drive."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from convert import cli as factory
from convert.publish import central_keys
from edge_agent import cli as appliance
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.client import ReviewClient
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.segments import CentralTeam

CARD = "4111 1111 1111 1111"
Run = Callable[..., str]


def runner(app, *before: object) -> Run:
    """Return a function that runs a command, requires success, and returns its output."""

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, list(map(str, (*before, *arguments))))
        assert 0 == result.exit_code, result.output
        return result.output

    return run


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def convert(tmp_path: Path) -> Run:
    """Return a runner of edge-convert after it made the central team's keys."""
    run = runner(factory.app)
    run("keys", "create", tmp_path / "keys")
    return run


@pytest.mark.slow
def test_correction_becomes_training_data(tmp_path: Path, convert: Run):
    """A corrected label reaches the messages and preference datasets, an erased example is removed, and the central
    team's files never contain the original card number."""
    public, drive = central_keys.read_public(tmp_path / "keys"), tmp_path / "drive"
    drive.mkdir()
    site = {"id": "shop-1", "recipients": [public.recipient], "receipt_keys": [public.receipts]}
    collect = ("collect", drive, "--keys", tmp_path / "keys", "--out", tmp_path / "collected")
    with RunningDaemon(tmp_path / "site", examples={"collect": {"pos": "upstream"}}, site=site) as daemon:
        daemon.install(echo_bundle(tmp_path / "pos", "pos", labels=("refund", "price", "hours")))
        agent = runner(appliance.app, *daemon.command()[3:])
        with daemon.client() as client:
            answers = client.classify("pos", [f"charge {CARD} again", "second text", "third text"])
        right = next(label for label in ("refund", "price") if label != answers[0].label)
        with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as client:
            client.correct(answers[0].prediction_id, right, reviewer="anna")
            client.accept(answers[1].prediction_id, reviewer="anna")
        agent("export", drive)
        assert "pos: 3 examples, 2 reviewed (1 corrected" in convert(*collect)
        agent("import", drive)
        assert [] == list((daemon.state_dir / "outbox" / "segments").iterdir())
        # Erased on the site after it was shipped: a tombstone follows, and the central team forgets it.
        with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as client:
            client.erase(answers[1].prediction_id)
        agent("export", drive)
        assert "pos: 2 examples, 1 reviewed" in convert(*collect)

    shares = ("--shares", "train=1")
    dataset = ("dataset", tmp_path / "collected", "--task", "pos", *shares)
    convert(*dataset, "--format", "messages", "--out", tmp_path / "messages")
    (row,) = rows_of(tmp_path / "messages" / "train.jsonl")
    user, assistant = row["messages"]
    asked = "charge [CARD_1] again"
    # The text is like those that devices send, with a card of its own.
    assert (asked, False, 1) == (Redactor().start().text(user["content"]), CARD in user["content"], row["surrogates"])
    assert (right, asked != user["content"]) == (assistant["content"], True)
    convert(*dataset, "--format", "preference", "--out", tmp_path / "preference", "--placeholders", "keep")
    (row,) = rows_of(tmp_path / "preference" / "train.jsonl")
    assert (asked, right, answers[0].label) == tuple(row[k][0]["content"] for k in ("prompt", "chosen", "rejected"))
    assert "1 usable to learn from" in convert("assess", tmp_path / "collected", "--task", "pos")
    assert not any(CARD.encode() in content for content in CentralTeam(tmp_path).files().values())
