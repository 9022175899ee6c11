"""The site of the flywheel: a box that an enrolment file made a site, its two daemons, its devices and its expert."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from benchmarks.flywheel.commands import Commands, StepFailed
from benchmarks.flywheel.goods import TASK, Row
from edge_agent.client import AdminClient, Classification, Client, ExamplesStatus, FieldSeries, ReviewClient
from edge_agent.formats import enrolment_file
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.large_model import KEY

AT_ONCE = 8
INPUT_PRICE, OUTPUT_PRICE = 2.5, 10.0
"""Of a million tokens, in any currency: what large models cost in 2026."""
CALL_SECONDS_MAX = 30.0
_LOOK_SECONDS = 0.5
_SETTLED_SECONDS_MAX = 300.0
_EXPERT = "expert"


class AnsweredCall(NamedTuple):
    """A call and what came of it."""

    row: Row
    answer: Classification

    @property
    def right(self) -> bool:
        """The caller got the right label."""
        return self.answer.label == self.row.label

    @property
    def local(self) -> bool:
        """The small model gave it."""
        return self.answer.route == "LOCAL"

    @property
    def local_label(self) -> str:
        """The small model's label, even if another model answered; empty if there is no small model."""
        return self.answer.scores[0][0] if self.answer.scores else ""


REVIEW_SHARE = 0.4
"""Of all answers, drawn for the random audit, of which calibration and test are made: the walk has few answers."""


class Site:
    """Enrolled from an enrolment file when the block begins; serve and the uplink run until it ends."""

    def __init__(self, commands: Commands, oracle_url: str, enrolment_file: Path) -> None:
        """Note what to start."""
        self._commands, self._enrolment = commands, enrolment_file
        self.folder = commands.folder / "box"
        etc = self.folder / "etc" / "edge-agent"
        etc.mkdir(parents=True)
        (etc / "large-model.key").write_text(f"{KEY}\n")
        # Sockets have short paths.
        self._socket = Path("/tmp") / f"ea-{secrets.token_hex(4)}.sock"  # noqa: S108
        escalation = {
            "url": oracle_url,
            "model": "scripted-oracle",
            "credentials_file": str(etc / "large-model.key"),
            "socket": str(self._socket),
            "tasks": [TASK],
            "calls_max": AT_ONCE,
            "input_token_price": INPUT_PRICE,
            "output_token_price": OUTPUT_PRICE,
        }
        looks = dict.fromkeys(
            ("updates_seconds", "scan_seconds", "heartbeat_seconds", "receipts_seconds"), _LOOK_SECONDS
        )
        self.daemon = RunningDaemon(
            etc,
            store={"allow_unsigned": False},
            examples={
                "collect": {TASK: "upstream"},
                "disk_reserve_bytes": 0,
                "routine_share": 1.0,
                "review_share": REVIEW_SHARE,
            },
            update={"check_seconds": _LOOK_SECONDS},
            uplink={**looks, "disk_reserve_bytes": 0},
            escalation=escalation,
        )
        self.daemon.start_seconds_max = _SETTLED_SECONDS_MAX

    def __enter__(self) -> Self:
        """Enrol, and start."""
        spoken = enrolment_file.verification_code(enrolment_file.parse(self._enrolment.read_bytes())[1])
        self._command("enrol", self._enrolment, "--code", spoken, "--etc", self.folder / "etc")
        with contextlib.ExitStack() as stack:  # whatever fails on the way leaves nothing running
            stack.callback(self._socket.unlink, missing_ok=True)
            stack.callback(self._end_serve)
            stack.enter_context(self.daemon)
            self.client: Client = stack.enter_context(self.daemon.client())
            self.admin: AdminClient = stack.enter_context(self.daemon.admin())
            self._reviewer = stack.enter_context(ReviewClient(f"unix:{self.daemon.run_dir}/review.sock"))
            stack.enter_context(self._uplink())
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End both."""
        self._stack.close()

    def code(self) -> str:
        """Return what the technician reads out of the site's key."""
        return str(json.loads(self._command("site", "--json"))["code"])

    def until(self, version: str, mode: str) -> None:
        """Wait until that version answers in that mode, and the large model is available."""
        _settled(f"version {version} in mode {mode}", lambda: self._stands(version, mode))

    def ask(self, rows: Sequence[Row]) -> Iterator[AnsweredCall]:
        """Call for each row, as devices do."""
        for at in range(0, len(rows), AT_ONCE):
            some = rows[at : at + AT_ONCE]
            texts = [row.text for row in some]
            for row, answer in zip(
                some, self.client.classify(TASK, texts, timeout_seconds=CALL_SECONDS_MAX), strict=True
            ):
                if not isinstance(answer, Classification):
                    raise StepFailed(f"a call got no answer: {answer}")
                yield AnsweredCall(row, answer)

    def review(self, truth: Mapping[str, str]) -> tuple[int, int]:
        """Let the expert go through the queue; return how many answers were accepted, and how many corrected.

        Args:
            truth: the right label by prediction id.
        """
        waiting = [kept for kept in self._reviewer.queue(TASK) if kept.prediction_id in truth]
        wrong = [kept.output != truth[kept.prediction_id] for kept in waiting]
        with ThreadPoolExecutor(AT_ONCE) as hands:
            list(
                hands.map(lambda kept: self._judge(kept.prediction_id, kept.output, truth[kept.prediction_id]), waiting)
            )
        return len(waiting) - sum(wrong), sum(wrong)

    def carry(self, store: Path) -> int:
        """Seal the stored examples, and wait until the uplink has uploaded them; return the number of segments."""
        self.admin.seal_examples()
        folder = Path(self.admin.seal_examples().outbox_path) / "segments"
        sealed = {path.name for path in folder.iterdir()}
        _settled(
            "the uplink to bring the segments", lambda: sealed <= {path.name for path in store.rglob("segments/*")}
        )
        return len([name for name in sealed if name.endswith(".json")])

    def receipted(self) -> None:
        """Wait until the central team's receipts have come, and the site has deleted its segments."""
        _settled("the receipts", lambda: not self._examples().outbox_segments)

    def counted(self, answers: int) -> FieldSeries:
        """Return the site's own counts of its bundle, once they include that many answers."""
        _settled("the answers to be counted", lambda: self._series().totals["answers"] >= answers)
        return self._series()

    def report(self, page: Path) -> dict[str, Any]:
        """Return the JSON of `edge-agent report` for the task; also write its page."""
        found: dict[str, Any] = json.loads(self._command("report", TASK, "--html", page, "--json"))
        return found

    def cost_micros(self) -> int:
        """Return what the large model has cost this month, in millionths of the currency."""
        large = self.admin.status().large_model
        assert large is not None
        return large.month_micros

    # --- within ---

    def _end_serve(self) -> None:
        if self.daemon.process is not None and self.daemon.process.poll() is None:
            self.daemon.kill()

    def _judge(self, prediction_id: str, said: str, right: str) -> None:
        if said == right:
            self._reviewer.accept(prediction_id, reviewer=_EXPERT)
        else:
            self._reviewer.correct(prediction_id, right, reviewer=_EXPERT)

    def _series(self) -> FieldSeries:
        return next(found for found in self.admin.field_report(TASK).series if found.active)

    def _examples(self) -> ExamplesStatus:
        found = self.admin.status().examples
        assert found is not None
        return found

    def _stands(self, version: str, mode: str) -> bool:
        found = self.admin.status()
        tasks = {task.name: task for task in found.tasks}
        there = TASK in tasks and (version, mode.upper()) == (tasks[TASK].bundle.version, tasks[TASK].mode)
        return there and tasks[TASK].ready and bool(found.large_model and found.large_model.online)

    def _command(self, *arguments: object) -> str:
        return self._commands.agent(self.daemon.command()[3:], *arguments)

    @contextlib.contextmanager
    def _uplink(self) -> Iterator[None]:
        with (self.folder / "uplink.log").open("ab") as log:
            command = [*self.daemon.command(), "uplink"]
            with subprocess.Popen(command, stdout=log, stderr=log) as process:  # noqa: S603 - our own command
                try:
                    yield
                finally:
                    process.terminate()


def _settled(what: str, condition: Callable[[], bool]) -> None:
    try:
        eventually_sync(condition, seconds=_SETTLED_SECONDS_MAX)
    except AssertionError:
        raise StepFailed(f"waited {_SETTLED_SECONDS_MAX:.0f} s for {what}") from None
