"""The status object: what a site reports about itself to the central team, signed by the site's key. Pure.

It names the highest sequence number of each epoch, so that the central team learns of missing segments without listing
anything. Counters are totals of the epoch and never decrease within it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Field

from edge_agent.formats import signed_document
from edge_agent.formats.example_records import Consent
from edge_agent.formats.manifest import Kind, Sha256, TaskName, Version
from edge_agent.formats.signed_document import At, Epoch, ExchangedModel, SignedDocument, SiteId

SCHEMA = "edge-agent/status/v1"
FILE_NAME = "status.json"
Count = Annotated[int, Field(ge=0, le=2**62)]
Millionths = Annotated[int, Field(ge=0, le=1_000_000)]
"""A share, 0 to 1, in millionths: a signed document holds no fractions."""
TASK_ALARMS_MAX = 16
"""Of one task; a decide task with alarms of many questions reports the first."""


UpdateState = Literal[
    "waiting", "fetching", "staged", "testing", "switching", "probation", "done", "failed", "rolled_back", "held"
]
"""Where a task stands on its way to the bundle that the plan wants.

waiting: the plan wants it later, in another window, on other hardware, or has halted it. fetching: files are missing.
staged: all files are here, but a temporary condition (memory, disk, the window) blocks the update. testing: the
self-test runs in a child of its own. switching: the new engine gets ready. probation: it answers and is watched. done:
it answers for good. failed: it failed here, and is tried again only when the plan changes. rolled_back: it failed in
probation, likewise. held: an operator rolled back; it stays so until the plan changes.
"""


class UpdateStatus(ExchangedModel):
    """The bundle that the plan wants for one task, and the progress of that update."""

    candidate: Sha256
    version: Version
    state: UpdateState
    since: At
    plan_version: Annotated[int, Field(ge=1, le=2**31)]
    reason: str = Field(default="", max_length=64)
    """The code of why it is in that state; empty = nothing blocks it."""
    message: str = Field(default="", max_length=1000)
    """The same as a sentence."""
    attempts: Count = 0
    """Tries that failed because of this machine."""


class TaskStatus(ExchangedModel):
    """One task of the site."""

    task: TaskName
    kind: Kind
    version: Version
    digest: Sha256
    ready: bool
    collect: Consent
    previous: Sha256 | None = None
    """The bundle to which 'rollback' returns."""
    update: UpdateStatus | None = None
    """None = the plan does not name the task."""
    revoked: bool = False
    """It runs a bundle that was signed, and no longer is."""
    alarms: tuple[RaisedAlarm, ...] = Field(default=(), max_length=TASK_ALARMS_MAX)
    """Raised alarms about its bundle."""


class RedactionReport(ExchangedModel):
    """The figures of a site's redaction audit for its present redaction bundle, without any text."""

    model: str = Field(max_length=200)
    """task@version; empty = no bundle redacts now."""
    rules: str = Field(max_length=40)
    """Version of the built-in rules at the site."""
    proved_rules: str = Field(default="", max_length=40)
    """Version of the rules with which the bundle's bound was proved; empty = it has no bound."""
    target: Millionths | None = None
    """The largest share of personal values that the bundle may miss by its bound."""
    waiting: Count = 0
    """Drawn texts that wait for a person's judgement."""
    texts: Count = 0
    """Texts that people have judged."""
    values: Count = 0
    """Personal values in these."""
    missed: Count = 0
    """Of these, values that remained."""
    low: Millionths = 0
    """Lower end of the 95% interval of the share of values that remain, valid at every look; rounded down."""
    high: Millionths = 1_000_000
    """Upper end, likewise; rounded up."""

    @property
    def is_exceeded(self) -> bool:
        """Whether the interval shows that more remains than the bundle's bound."""
        return self.target is not None and self.low > self.target

    @property
    def is_proved_otherwise(self) -> bool:
        """Whether the bundle's bound was proved with other rules than the site's."""
        return bool(self.proved_rules) and self.proved_rules != self.rules


class SiteUpdates(ExchangedModel):
    """The state of a site's updates, apart from its tasks."""

    arriving: dict[TaskName, UpdateStatus] = Field(default_factory=dict, max_length=1000)
    """Tasks that the plan names, and that no bundle answers yet."""
    channel: str = Field(default="", max_length=32)
    plan_version: Annotated[int, Field(ge=0, le=2**31)] = 0
    """The version of the newest plan that the site trusts; 0 = none."""
    update_problem: str = Field(default="", max_length=1000)
    """Why the latest metadata was not trusted; empty = it was."""


class SiteStatus(SiteUpdates):
    """The heartbeat of a site."""

    schema_: Literal["edge-agent/status/v1"] = Field(default="edge-agent/status/v1", alias="schema")
    site: SiteId
    at: At
    """By the site's clock, which may be wrong."""
    agent_version: str = Field(max_length=64)
    epoch: Epoch
    """The epoch in which the site seals now."""
    highest: dict[Epoch, int] = Field(default_factory=dict, max_length=1000)
    """Highest sequence sealed, by epoch; 0 = none yet."""
    missing: dict[Epoch, tuple[signed_document.SequenceNumber, ...]] = Field(default_factory=dict, max_length=1000)
    """Segments that were sealed, then lost or damaged at the site before a receipt came: they will never arrive."""
    counters: dict[str, Count] = Field(default_factory=dict, max_length=200)
    retained_bytes: Count = 0
    """Bytes of examples that the site holds, sealed or not."""
    tasks: tuple[TaskStatus, ...] = Field(default=(), max_length=1000)
    redaction: RedactionReport | None = None
    """None = no redaction model is configured."""


def verify(raw: bytes, keys: Collection[str] | None) -> SignedDocument[SiteStatus]:
    """Read a status object and check its signature; `keys` as in `signed_document.verify`.

    Raises:
        DocumentInvalid: it is not a status object.
        SignatureInvalid: not signed by one of the keys, or changed afterwards.
    """
    return signed_document.verify(raw, SiteStatus, FILE_NAME, keys)


Alarm = Literal["errors", "opinions", "labels", "confidence", "novelty", "length", "new_inputs"]
"""errors: people found more confident answers wrong than the risk guarantee allows. opinions: the large model disagrees
with more of them than that. labels, confidence: the answers have drifted. novelty, length: the inputs have drifted.
new_inputs: more inputs are outside the bundle's gate than chance explains."""

REMEDIES: dict[Alarm, str] = {
    "errors": "Have the central team calibrate the bundle again with the corrections; shadow mode is safer until then.",
    "opinions": "Look at the disagreements in 'edge-agent review': is the small model wrong, or the large one?",
    "labels": "Look at newer answers in 'edge-agent review'; if the business changed, tell the central team.",
    "confidence": "Correct unsure answers in 'edge-agent review'; the central team then calibrates the bundle again.",
    "novelty": "Look at unusual inputs in 'edge-agent review': what is new about them belongs into the training data.",
    "new_inputs": "Label what 'edge-agent review --stream new' shows first, and train a bundle with these inputs.",
    "length": "Look at newer inputs in 'edge-agent review': did a device begin to send something else?",
}


class RaisedAlarm(ExchangedModel):
    """A raised alarm, in the form for the central team."""

    alarm: Alarm
    since: At
    message: Annotated[str, Field(max_length=500)]
    """A sentence with the figures."""
    demoted: bool = False
    """The task was put into shadow because of it."""
