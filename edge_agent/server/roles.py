"""Which roles may call which method: the one table. Pure.

A method that is not in it may be called by nobody. What a listener does not serve does not exist there, whatever stands
here: the sockets keep to their own services, TCP with certificates has them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from edge_agent.config import Role
from edge_agent.errors import RoleMissing
from edge_agent.formats.certificate_fields import ROLE_URI, Certificate

ROLES: frozenset[Role] = frozenset(get_args(Role))
INFER: frozenset[Role] = frozenset({"infer"})
FEEDBACK: frozenset[Role] = frozenset({"feedback"})
ADMIN: frozenset[Role] = frozenset({"admin"})
OPERATOR = ADMIN | INFER
"""What admin.sock gives."""

_SERVICES: dict[str, dict[str, frozenset[Role]]] = {
    "edge_agent.v1.InferenceService": {
        "Classify": INFER,
        "Decide": INFER,
        "Extract": INFER,
        "Generate": INFER,
        "Embed": INFER,
        "ListTasks": INFER,
        "GetTask": INFER,
    },
    "inference.GRPCInferenceService": {
        "ServerLive": INFER,
        "ServerReady": INFER,
        "ModelReady": INFER,
        "ServerMetadata": INFER,
        "ModelMetadata": INFER,
        "ModelInfer": INFER,
        "ModelStreamInfer": INFER,
        "ModelConfig": INFER,
        "ModelStatistics": INFER,
    },
    "edge_agent.v1.FeedbackService": {
        "SubmitFeedback": FEEDBACK,
        "ListReviewQueue": FEEDBACK,
        "GetPrediction": FEEDBACK,
        "ErasePrediction": FEEDBACK,
    },
    "edge_agent.v1.AdminService": {
        "GetStatus": ADMIN,
        "ListBundles": ADMIN,
        "InstallBundle": ADMIN,
        "ActivateBundle": ADMIN,
        "RollbackTask": ADMIN,
        "RemoveBundle": ADMIN,
        "SealExamples": ADMIN,
        "ReadReceipts": ADMIN,
        "ImportUpdate": ADMIN,
        "AllowUpdate": ADMIN,
        "Drain": ADMIN,
        "SetMode": ADMIN,
        "GetFieldReport": ADMIN,
        "EraseValues": ADMIN,
        "GetPrivacyReport": ADMIN,
        "TryRedaction": ADMIN,
        "ListRedactionAudit": ADMIN,
        "JudgeRedaction": ADMIN,
    },
    "grpc.health.v1.Health": {"Check": ROLES, "Watch": ROLES},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": ADMIN},
}
METHODS: dict[str, frozenset[Role]] = {
    f"/{service}/{name}": roles for service, methods in _SERVICES.items() for name, roles in methods.items()
}
"""The roles that may call a method, each of them alone."""


def role_missing(call: str, allowed: frozenset[Role], who: str, roles: frozenset[Role]) -> RoleMissing:
    """Return the refusal of a call that only `allowed` may make, to a client with other roles."""
    needs = " or ".join(sorted(allowed)) if allowed else "a role that nobody has"
    has = f"has the role {' and '.join(sorted(roles))}" if roles else "has no role"
    role = min(allowed, default="")
    command = f" ('sudo edge-agent certs issue CLIENT --role {role}')" if role else ""
    return RoleMissing(
        f"{who} {has}; {call} needs {needs}",
        remedy=f"Have a certificate issued with {ROLE_URI}{role or '…'}{command}, or use the socket of that role.",
        client=who,
        call=call,
        roles=",".join(sorted(roles)),
        needs=",".join(sorted(allowed)),
    )


_LOOKING = frozenset(
    {
        "GetStatus",
        "GetFieldReport",
        "GetPrivacyReport",
        "ListBundles",
        "TryRedaction",
        "ListRedactionAudit",
        "ServerReflectionInfo",
    }
)
CallTreatment = Literal["work", "look", "change", "health"]


def call_treatment(method: str) -> CallTreatment:
    """Return how limits and the audit log treat a call.

    work = a client's rate counts it; look = an operator's that changes nothing; change = each one has a line in the
    audit log, as has what a reviewer erases; health = neither.
    """
    name, allowed = method.rpartition("/")[2], METHODS.get(method, frozenset())
    if allowed == ROLES:
        return "health"
    if name == "ErasePrediction" or (allowed == ADMIN and name not in _LOOKING):
        return "change"
    return "look" if allowed == ADMIN else "work"


def certificate_roles(certificate: Certificate, configured: Mapping[str, Iterable[Role]]) -> frozenset[Role]:
    """Return the roles of a client: those that its certificate says, and those configured for one of its names.

    A URI is told from other names, so that no authority for DNS names can be talked into issuing a role.
    """
    own = {role for role in ROLES if f"{ROLE_URI}{role}" in certificate.uris}
    given = {
        role
        for pattern, granted in configured.items()
        if any(_fits(name, pattern) for name in _comparable(certificate, pattern))
        for role in granted
    }
    return frozenset(own | given)


def _comparable(certificate: Certificate, pattern: str) -> Iterable[str]:
    return certificate.uris if "://" in pattern else set(certificate.names) - set(certificate.uris)


def _fits(name: str, pattern: str) -> bool:
    if pattern.startswith("*"):
        return name.endswith(pattern[1:])
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
