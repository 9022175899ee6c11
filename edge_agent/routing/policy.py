"""Which model answers: pure functions from a task's mode, an answer's confidence and the large model's state.

A task goes through modes. *bootstrap*: there is no local model yet, the large one answers. *shadow*: the large one
answers, the local one also runs and is compared. *hybrid*: the local one gives its confident answers, the large one the
rest. *local*: nothing is escalated. No call waits for a large model that is not available: the blocker of an escalation
is known in advance (`escalation_blocker`), and the answer reports it.

The table in docs/routing.md is generated from these functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from edge_agent.formats.calibration_and_gate import Confidence, Threshold
from edge_agent.formats.plan import Mode

LowConfidencePolicy = Literal["as_mode", "answer", "abstain", "escalate"]
"""The caller's policy for an unconfident answer: by the task's mode, the local one, none, or the large model's."""
RouteName = Literal["local", "upstream", "abstained", "deferred"]


class RouteReason(StrEnum):
    """The reason for the route of an answer."""

    SURE = "SURE"
    """At or above threshold and floor, and the input resembles the calibration texts."""
    UNGRADED = "UNGRADED"
    """A kind of task without confidence; the local model answers unless the caller asks for the large one."""
    CALLER_ASKED = "CALLER_ASKED"
    MODE_LOCAL = "MODE_LOCAL"
    MODE_SHADOW = "MODE_SHADOW"
    MODE_BOOTSTRAP = "MODE_BOOTSTRAP"
    BELOW_THRESHOLD = "BELOW_THRESHOLD"
    BELOW_FLOOR = "BELOW_FLOOR"
    """At or above the threshold, but below the floor."""
    OUT_OF_DISTRIBUTION = "OUT_OF_DISTRIBUTION"
    """The gate of the bundle finds that the input does not resemble its training data, so no answer is confident."""
    INPUT_UNUSUAL = "INPUT_UNUSUAL"
    """Confident, but the input is unlike the calibration texts, so the threshold guarantees nothing."""
    SCORES_VARY = "SCORES_VARY"
    """The scores depend on the other inputs of the batch, so no threshold is valid and no answer is confident."""
    UPSTREAM_NOT_CONFIGURED = "UPSTREAM_NOT_CONFIGURED"
    UPSTREAM_NOT_ALLOWED = "UPSTREAM_NOT_ALLOWED"
    """The site does not let inputs of this task leave."""
    UPSTREAM_OFFLINE = "UPSTREAM_OFFLINE"
    UPSTREAM_BUDGET_SPENT = "UPSTREAM_BUDGET_SPENT"
    UPSTREAM_BUSY = "UPSTREAM_BUSY"
    DEADLINE_TOO_SHORT = "DEADLINE_TOO_SHORT"
    """The large model usually takes longer than the caller has left."""
    UPSTREAM_FAILED = "UPSTREAM_FAILED"
    """It gave no usable answer, or could not be asked, for example because a redaction rule failed."""


UNCONFIDENT = frozenset(
    {RouteReason.BELOW_THRESHOLD, RouteReason.BELOW_FLOOR, RouteReason.OUT_OF_DISTRIBUTION, RouteReason.SCORES_VARY}
)
"""Why an answer is not confident; such an answer is withheld from a caller that wants none."""
PERMANENT_BLOCKERS = frozenset({RouteReason.UPSTREAM_NOT_CONFIGURED, RouteReason.UPSTREAM_NOT_ALLOWED})
"""Blockers that time does not remove: nothing is deferred because of them."""


@dataclass(frozen=True)
class LargeModelAvailability:
    """Whether the large model can be asked about a task, as known before asking."""

    configured: bool = False
    allowed: bool = False
    """The inputs of the task may leave the site."""
    online: bool = False
    affordable: bool = False
    """The budgets of the day and the month allow another question."""
    free: bool = False
    """Fewer questions are in progress than the limit."""
    seconds_expected: float = 0.0
    """The usual time of an answer; 0 = not known yet."""


ABSENT = LargeModelAvailability()


@dataclass(frozen=True)
class RouteDecision:
    """The route of an answer, and what the caller learns about it."""

    route: RouteName
    reason: RouteReason
    threshold: float | None = None
    """The minimum confidence of a confident answer: the larger of threshold and floor."""
    below_threshold: bool = False
    """The answer is not confident, whatever the reason."""
    degraded: tuple[str, ...] = ()

    later: bool = False
    """The large model will be asked when that is possible, for a training label."""
    held_up: RouteReason | None = None
    """Why a local answer is not confident, even if `reason` differs. None = it is confident or ungraded."""
    p_value: float | None = None
    """How well the input resembles the training data, over 0 to 1; None = the bundle has no gate."""


@dataclass(frozen=True)
class InputObservation:
    """What a model reported about an input."""

    input_tokens: int
    """In the rendered prompt."""
    label_mass: float = 1.0
    scores_vary: bool = False
    """The scores depend on the other inputs of the batch."""
    ood_score: float | None = None
    """The OOD score from the model's graph, if it computes one."""


@dataclass(frozen=True)
class EscalationContext:
    """The task's mode, the caller's policy, and whether the large model can be asked."""

    mode: Mode = "local"
    low_confidence: LowConfidencePolicy = "as_mode"
    blocker: RouteReason | None = RouteReason.UPSTREAM_NOT_CONFIGURED
    """Why the large model cannot be asked now (`escalation_blocker`); None = it can."""
    deferrable: bool = False
    """The redacted input is stored, so the large model can be asked later."""


BLOCKERS = (
    RouteReason.UPSTREAM_NOT_CONFIGURED,
    RouteReason.UPSTREAM_NOT_ALLOWED,
    RouteReason.UPSTREAM_OFFLINE,
    RouteReason.UPSTREAM_BUDGET_SPENT,
    RouteReason.UPSTREAM_BUSY,
    RouteReason.DEADLINE_TOO_SHORT,
    RouteReason.UPSTREAM_FAILED,
)


def escalation_blocker(large_model: LargeModelAvailability, seconds_left: float) -> RouteReason | None:
    """Return why a caller with that much time cannot ask the large model; None = it can."""
    conditions = (
        large_model.configured,
        large_model.allowed,
        large_model.online,
        large_model.affordable,
        large_model.free,
        seconds_left > large_model.seconds_expected,
    )
    return next((reason for reason, met in zip(BLOCKERS, conditions, strict=False) if not met), None)


def decide_before_local_answer(context: EscalationContext) -> RouteDecision | None:
    """Decide before the local model answers; None = it is asked first."""
    if context.mode == "bootstrap":
        return _route_bootstrap(context)
    if context.mode == "shadow" and context.blocker is None:
        return RouteDecision("upstream", RouteReason.MODE_SHADOW)
    return None


def decide_graded(
    confidence: float, calibration: Confidence, context: EscalationContext, observation: InputObservation | None = None
) -> RouteDecision:
    """Decide on a local answer with that calibrated confidence, 0 to 1."""
    threshold = calibration if isinstance(calibration, Threshold) else None
    scores_vary = observation is not None and observation.scores_vary and threshold is not None
    valid_threshold = None if scores_vary else threshold  # it was proved with scores that other neighbours do not give
    p_value, is_ood = check_ood_gate(calibration, observation)
    novelty = calibration.novelty
    unusual = novelty.unusual(observation.label_mass, observation.input_tokens) if novelty and observation else ()
    held_up = _unconfident_reason(confidence, valid_threshold, scores_vary=scores_vary, is_ood=is_ood)
    decision = _route_graded(context, held_up or (RouteReason.INPUT_UNUSUAL if unusual else None))
    degraded = (*decision.degraded, *unusual, *ood_marks(is_ood), *((RouteReason.SCORES_VARY,) if scores_vary else ()))
    return replace(
        decision,
        threshold=valid_threshold.confidence_min if valid_threshold else None,
        below_threshold=held_up is not None,
        degraded=degraded,
        held_up=held_up,
        p_value=p_value,
    )


def check_ood_gate(calibration: Confidence, observation: InputObservation | None) -> tuple[float | None, bool]:
    """Return the p-value of an input, and whether it is out of distribution; without a gate nothing is."""
    gate = calibration.gate
    if gate is None:
        return None, False
    score = math.nan if observation is None else gate.score_of(observation.ood_score, observation.label_mass)
    return gate.p_value(score), gate.holds_up(score)


def ood_marks(is_ood: bool) -> tuple[str, ...]:
    """Return the `degraded` reasons of an answer whose input is out of distribution, or none."""
    return (RouteReason.OUT_OF_DISTRIBUTION,) if is_ood else ()


def _unconfident_reason(
    confidence: float, threshold: Threshold | None, *, scores_vary: bool, is_ood: bool
) -> RouteReason | None:
    """Return why an answer is not confident; None = it is."""
    if scores_vary:
        return RouteReason.SCORES_VARY
    if is_ood:
        return RouteReason.OUT_OF_DISTRIBUTION
    if threshold is None:
        return RouteReason.BELOW_THRESHOLD
    shortfall = threshold.shortfall(confidence)
    return RouteReason(shortfall) if shortfall else None


def decide_ungraded(context: EscalationContext) -> RouteDecision:
    """Decide on a task whose answers have no confidence: only a caller that asks for the large model gets it."""
    if context.mode == "bootstrap":
        return _route_bootstrap(context)
    if context.low_confidence != "escalate":
        return RouteDecision("local", RouteReason.UNGRADED)
    if context.mode == "local" and context.blocker not in PERMANENT_BLOCKERS:
        return RouteDecision("local", RouteReason.MODE_LOCAL, degraded=(RouteReason.MODE_LOCAL,))
    return _escalate(context, RouteReason.CALLER_ASKED) or _route_blocked(context, "local")


def is_drawn_for_audit(decision: RouteDecision, context: EscalationContext, share: float, draw: float) -> bool:
    """Return whether the large model checks an answer later; `draw` is random, from 0 to below 1.

    Only permanent blockers count: a sample without the answers given while the large model was offline or busy would
    not be a sample of all confident answers.
    """
    sure = context.mode == "hybrid" and decision.reason is RouteReason.SURE
    return sure and context.deferrable and context.blocker not in PERMANENT_BLOCKERS and draw < share


def with_blocker(context: EscalationContext, reason: RouteReason = RouteReason.UPSTREAM_FAILED) -> EscalationContext:
    """Return the context after the large model gave no usable answer."""
    return replace(context, blocker=reason)


def _route_bootstrap(context: EscalationContext) -> RouteDecision:
    return _escalate(context, RouteReason.MODE_BOOTSTRAP) or _route_blocked(context, "abstained")


def _route_graded(context: EscalationContext, doubt: RouteReason | None) -> RouteDecision:
    if context.mode == "shadow":
        return _route_without_large_model(context, doubt)
    if doubt is None:
        return RouteDecision("local", RouteReason.SURE)
    if context.low_confidence == "answer" or (context.mode == "local" and context.low_confidence != "escalate"):
        # Abstain only if the answer is not confident: an unusual input is only marked.
        withheld = context.low_confidence == "abstain" and doubt in UNCONFIDENT
        return RouteDecision("abstained" if withheld else "local", doubt)
    if context.mode == "local" and context.blocker not in PERMANENT_BLOCKERS:
        return RouteDecision("local", RouteReason.MODE_LOCAL, degraded=(RouteReason.MODE_LOCAL,))
    return _escalate(context, doubt) or _route_without_large_model(context, doubt)


def _route_without_large_model(context: EscalationContext, doubt: RouteReason | None) -> RouteDecision:
    """Decide where the large model should answer and cannot: abstain only if the caller wants that."""
    withheld = doubt in UNCONFIDENT and context.low_confidence == "abstain"
    return _route_blocked(context, "abstained" if withheld else "local")


def _escalate(context: EscalationContext, reason: RouteReason) -> RouteDecision | None:
    return RouteDecision("upstream", reason) if context.blocker is None else None


def _route_blocked(context: EscalationContext, route: RouteName) -> RouteDecision:
    reason = context.blocker or RouteReason.UPSTREAM_FAILED
    later = context.deferrable and reason not in PERMANENT_BLOCKERS
    return RouteDecision("deferred" if later and route == "local" else route, reason, degraded=(reason,), later=later)
