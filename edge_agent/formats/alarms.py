"""The alarms that a site raises about a bundle in the field: their names, what each says, and what to do next. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edge_agent.formats.document import At, Exchanged

Alarm = Literal["errors", "opinions", "labels", "confidence", "novelty", "length", "new_inputs"]
"""errors: people found more of the sure answers wrong than the bundle promises. opinions: the large model disagrees
with more of them than that. The others: the answers (their labels, their confidence) or the inputs (unlike those of
calibration, their length) are not what they were. new_inputs: more inputs are outside the bundle's gate than chance
explains."""

REMEDIES: dict[Alarm, str] = {
    "errors": "Have the bundle calibrated anew with the corrections; until then shadow or the bundle before is safer.",
    "opinions": "Look at the disagreements in 'edge-agent review': is the small model wrong, or the large one?",
    "labels": "Look at newer answers in 'edge-agent review'; if the business changed, gather examples and train anew.",
    "confidence": "Look at unsure answers in 'edge-agent review', correct them, and have the bundle calibrated anew.",
    "novelty": "Look at unusual inputs in 'edge-agent review': what is new about them belongs into the training data.",
    "new_inputs": "Label the inputs with the smallest p-values in 'edge-agent review', and train a bundle with them.",
    "length": "Look at newer inputs in 'edge-agent review': did a device begin to send something else?",
}


class RaisedAlarm(Exchanged):
    """An alarm that stands, as the centre reads it."""

    alarm: Alarm
    since: At
    message: Annotated[str, Field(max_length=500)]
    """A sentence with the figures."""
    demoted: bool = False
    """The task was put into shadow because of it."""
