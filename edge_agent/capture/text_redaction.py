"""Redacts one text while somebody waits for it: a text that leaves the site now, a correction, or a trial.

The rules and the model are those for kept examples. A model that does not answer in time is an error where the site
holds what rules alone would let pass.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.config import Config
from edge_agent.errors import ConfigInvalid, RedactionHeld

if TYPE_CHECKING:
    from edge_agent.capture.redact.model_findings import ModelFindings
    from edge_agent.capture.redact.redactor import RedactionSession, Redactor, ReplacedValue
    from edge_agent.capture.redaction_queue import RedactionDependencies, RedactionQueue


@dataclass(frozen=True)
class TriedRedaction:
    """What redaction makes of a text."""

    redacted: str
    replaced: tuple[ReplacedValue, ...]
    model: str
    """The bundle that read the text; empty = rules alone did."""
    held_because: str
    """Why the model did not read it; empty = it did, or there is none."""


class TextRedaction:
    """The rules of one site, and its redaction model if the configuration names one."""

    def __init__(self, config: Config, reader: RedactionDependencies | None, queue: RedactionQueue | None) -> None:
        """Ask the model through `reader`; `queue` counts what passes without it. Both are None without a model."""
        self._config, self._reader, self._queue = config, reader, queue

    @functools.cached_property
    def rules(self) -> Redactor:
        """The compiled rules. Raises ConfigInvalid."""
        # A site that neither collects nor escalates does without: the patterns take a tenth of a second to compile.
        return build_redactor(self._config)

    async def start(self, task: str, text: str, seconds: float) -> RedactionSession:
        """Start to redact one input that leaves the site now.

        Raises:
            RedactionHeld: the model has not read it within that time, and rules alone do not suffice for this task.
        """
        findings = await self.find(task, [text], min(seconds, self._config.redaction.seconds_max))
        draw = secrets.randbelow if task in self._config.redaction.surrogates else None
        return self.rules.start(findings=findings, draw=draw)

    async def find(self, task: str, texts: Sequence[str], seconds: float | None = None) -> ModelFindings | None:
        """Return what the redaction model finds in texts of a task; None = rules alone redact them.

        Raises:
            RedactionHeld: it does not answer, and rules alone do not suffice.
        """
        if self._queue is None or self._reader is None:
            return None
        try:
            return await self._reader.find(texts, seconds or self._config.redaction.seconds_max)
        except RedactionHeld:
            if self._config.redaction.holds(task):
                raise
            self._queue.counts["passed_by_rules"] += 1
            return None

    async def show(self, text: str) -> TriedRedaction:
        """Redact a text as an example, and show what was found by what; nothing of it is kept."""
        held_because, findings = "", None
        if self._reader is not None and self._queue is not None:
            try:
                findings = await self._reader.find([text], self._config.redaction.seconds_max)
            except RedactionHeld as error:
                held_because = error.message
        redacted, replaced = self.rules.start(findings=findings).trace(text)
        return TriedRedaction(redacted, tuple(replaced), findings.model if findings else "", held_because)


def build_redactor(config: Config) -> Redactor:
    """Compile the rules of a site: the built-in ones, and what its configuration adds to them.

    Raises:
        ConfigInvalid: a pattern of the site is invalid, a region of telephone numbers is unknown, or the pipeline of
            names cannot be loaded.
    """
    from edge_agent.capture.redact.redactor import Redactor  # noqa: PLC0415
    from edge_agent.capture.redact.telephone_numbers import is_known_region  # noqa: PLC0415

    patterns, pipeline = config.examples.site_rules, config.examples.presidio_pipeline
    regions = config.examples.phone_regions
    for region in regions:
        if not is_known_region(region):
            raise ConfigInvalid(
                f"examples.phone_regions: there is no telephone numbering plan of {region}",
                remedy="Use the code of a country of ISO 3166-1, such as GB, DE or US.",
            )
    if not patterns and not pipeline:
        return Redactor(phone_regions=regions)
    # Only a site with detectors of its own loads what runs them.
    from edge_agent.capture.redact.site_detectors import name_detector, site_rules  # noqa: PLC0415

    return Redactor(site_rules(patterns), name_detector(Path(pipeline)) if pipeline else None, regions)
