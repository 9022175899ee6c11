"""The Python client of edge-agent, sync and for asyncio. It uses the API (`edge_agent.v1`) alone.

    from edge_agent.client import CallFailed, Client

    with Client("unix:/run/edge-agent/inference.sock") as client:
        [answer] = client.classify("pos-intent", ["I want my money back"])

Over the network a client shows a certificate, which holds its roles:

    Client("shop.example:9443", Tls(ca="ca.crt", certificate="till-3.crt", key="till-3.key"))

With `retry` a client waits for a daemon that is busy, or restarts:

    Client("unix:/run/edge-agent/inference.sock", retry=Retry())

docs/client.md describes all of it. Every call has a deadline. A call that gets no answer raises CallFailed, with a
stable `reason` and a `remedy`; an input of a batch that fails alone is a Failure in its place.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_agent.client.admin_client import AdminClient, AsyncAdminClient
    from edge_agent.client.call_failed import CallFailed, Tls
    from edge_agent.client.daemon_connection import Retry
    from edge_agent.client.inference_client import AsyncClient, AsyncGenerateStream, Client, GenerateStream
    from edge_agent.client.operator_reports import (
        FieldAgreement,
        FieldConfidence,
        FieldDay,
        FieldDisagreement,
        FieldEvent,
        FieldReport,
        FieldSeries,
        FieldStream,
        FieldTest,
        RedactionTrial,
        ReplacedSpan,
        Share,
    )
    from edge_agent.client.results import (
        Answer,
        Classification,
        Decision,
        DecisionAnswer,
        Embedding,
        Entity,
        Extraction,
        Failure,
        Feedback,
        Finish,
        GenerateOptions,
        OnLowConfidence,
        Prediction,
        Timings,
        TokenLogprob,
    )
    from edge_agent.client.review_client import AsyncReviewClient, ReviewClient
    from edge_agent.client.site_state import (
        Bundle,
        Durations,
        Engine,
        ExamplesStatus,
        FieldAlarm,
        ImportProgress,
        LargeModel,
        OperatorWarning,
        RedactionAuditState,
        RedactionState,
        ReviewAudit,
        SealedExamples,
        Status,
        TaskCounts,
        TaskUpdate,
        UpdatesStatus,
        UplinkDownloads,
        UplinkProblem,
        UplinkStatus,
    )
    from edge_agent.client.task_description import BundleRef, QuestionOption, Task, TaskQuestion, render_state
    from edge_agent.client.translation import Mode

_NAMES = {
    "admin_client": "AdminClient AsyncAdminClient",
    "call_failed": "CallFailed Tls",
    "daemon_connection": "Retry",
    "inference_client": "AsyncClient AsyncGenerateStream Client GenerateStream",
    "operator_reports": (
        "FieldAgreement FieldConfidence FieldDay FieldDisagreement FieldEvent FieldReport FieldSeries "
        "FieldStream FieldTest RedactionTrial ReplacedSpan Share"
    ),
    "results": (
        "Answer Classification Decision DecisionAnswer Embedding Entity Extraction Failure Feedback Finish "
        "GenerateOptions OnLowConfidence Prediction Timings TokenLogprob"
    ),
    "review_client": "AsyncReviewClient ReviewClient",
    "site_state": (
        "Bundle Durations Engine ExamplesStatus FieldAlarm ImportProgress LargeModel OperatorWarning "
        "RedactionAuditState RedactionState ReviewAudit SealedExamples Status TaskCounts TaskUpdate "
        "UpdatesStatus UplinkDownloads UplinkProblem UplinkStatus"
    ),
    "task_description": "BundleRef QuestionOption Task TaskQuestion render_state",
    "translation": "Mode",
}
"""By module. Each is imported when a name of it is first used (PEP 562): a program loads what it calls."""
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "AdminClient",
    "Answer",
    "AsyncAdminClient",
    "AsyncClient",
    "AsyncGenerateStream",
    "AsyncReviewClient",
    "Bundle",
    "BundleRef",
    "CallFailed",
    "Classification",
    "Client",
    "Decision",
    "DecisionAnswer",
    "Durations",
    "Embedding",
    "Engine",
    "Entity",
    "ExamplesStatus",
    "Extraction",
    "Failure",
    "Feedback",
    "FieldAgreement",
    "FieldAlarm",
    "FieldConfidence",
    "FieldDay",
    "FieldDisagreement",
    "FieldEvent",
    "FieldReport",
    "FieldSeries",
    "FieldStream",
    "FieldTest",
    "Finish",
    "GenerateOptions",
    "GenerateStream",
    "ImportProgress",
    "LargeModel",
    "Mode",
    "OnLowConfidence",
    "OperatorWarning",
    "Prediction",
    "QuestionOption",
    "RedactionAuditState",
    "RedactionState",
    "RedactionTrial",
    "ReplacedSpan",
    "Retry",
    "ReviewAudit",
    "ReviewClient",
    "SealedExamples",
    "Share",
    "Status",
    "Task",
    "TaskCounts",
    "TaskQuestion",
    "TaskUpdate",
    "Timings",
    "Tls",
    "TokenLogprob",
    "UpdatesStatus",
    "UplinkDownloads",
    "UplinkProblem",
    "UplinkStatus",
    "render_state",
]


def __getattr__(name: str) -> Any:
    """Import a name on first use. Raises AttributeError."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List every name, imported already or not."""
    return sorted({*globals(), *__all__})
