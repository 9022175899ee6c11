"""The Python client of edge-agent, sync and aio. It knows the API (`edge_agent.v1`) and nothing else of the appliance.

    from edge_agent.client import CallFailed, Client

    with Client("unix:/run/edge-agent/inference.sock") as client:
        [answer] = client.classify("pos-intent", ["I want my money back"])

Over the network a daemon is called with a certificate, which says what this client may do:

    Client("shop.example:9443", Tls(ca="ca.crt", certificate="till-3.crt", key="till-3.key"))

A device that is to bear a busy daemon, and one that is started anew, says so:

    Client("unix:/run/edge-agent/inference.sock", retry=Retry())

docs/client.md has all of it. Every call has a deadline. A call that gets no answer raises CallFailed, with a stable
`reason` and a `remedy`; an input of a batch that fails alone is a Failure in its place.
"""

import importlib
from typing import TYPE_CHECKING, Any

from edge_agent.client.admin import AdminClient
from edge_agent.client.answers import (
    Answer,
    Bundle,
    BundleRef,
    Classification,
    Durations,
    Embedding,
    Engine,
    Entity,
    ExamplesStatus,
    Extraction,
    Failure,
    Feedback,
    FieldAlarm,
    Finish,
    ImportProgress,
    Prediction,
    ReviewAudit,
    SealedExamples,
    Status,
    Task,
    TaskCounts,
    TaskUpdate,
    Timings,
    TokenLogprob,
    UpdatesStatus,
    UplinkDownloads,
    UplinkProblem,
    UplinkStatus,
)
from edge_agent.client.failure import CallFailed
from edge_agent.client.retry import Retry
from edge_agent.client.sync import Client, GenerateStream
from edge_agent.client.tls import Tls
from edge_agent.client.wire import GenerateOptions, Mode, OnLowConfidence

if TYPE_CHECKING:
    from edge_agent.client.aio import AsyncClient, AsyncGenerateStream
    from edge_agent.client.aio_admin import AsyncAdminClient
    from edge_agent.client.field import (
        FieldAgreement,
        FieldConfidence,
        FieldDay,
        FieldDisagreement,
        FieldEvent,
        FieldReport,
        FieldSeries,
        FieldStream,
        FieldTest,
        Share,
    )
    from edge_agent.client.large_model import LargeModel
    from edge_agent.client.review import AsyncReviewClient, ReviewClient

_LATE = {
    "aio": ("AsyncClient", "AsyncGenerateStream"),
    "aio_admin": ("AsyncAdminClient",),
    "field": (
        *("FieldAgreement", "FieldConfidence", "FieldDay", "FieldDisagreement", "FieldEvent"),
        *("FieldReport", "FieldSeries", "FieldStream", "FieldTest", "Share"),
    ),
    "large_model": ("LargeModel",),
    "review": ("AsyncReviewClient", "ReviewClient"),
}
"""What most programs do without, by module: imported when it is first named (PEP 562)."""
_MODULE_OF = {name: module for module, names in _LATE.items() for name in names}

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
    "Prediction",
    "Retry",
    "ReviewAudit",
    "ReviewClient",
    "SealedExamples",
    "Share",
    "Status",
    "Task",
    "TaskCounts",
    "TaskUpdate",
    "Timings",
    "Tls",
    "TokenLogprob",
    "UpdatesStatus",
    "UplinkDownloads",
    "UplinkProblem",
    "UplinkStatus",
]


def __getattr__(name: str) -> Any:
    """Import what is named for the first time. Raises AttributeError."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List what there is, whether it was imported already or not."""
    return sorted({*globals(), *__all__})
