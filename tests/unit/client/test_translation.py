"""API messages translated to values by field name, and the equal signatures of sync and async clients."""

import dataclasses
import inspect
from datetime import UTC, datetime

from edge_agent.client import (
    AsyncClient,
    AsyncReviewClient,
    Client,
    Engine,
    ReviewClient,
    SealedExamples,
    Status,
    TaskUpdate,
    UplinkStatus,
    translation,
)
from edge_agent.client.operator_reports import (
    ErasedValues,
    ErasureRecord,
    FieldReport,
    FieldSeries,
    KeptExamples,
    PrivacyTotal,
    SitePrivacy,
)
from edge_agent.v1 import admin_pb2, field_pb2

VALUES = {
    Engine: admin_pb2.Engine(),
    Status: admin_pb2.GetStatusResponse(),
    TaskUpdate: admin_pb2.TaskUpdate(),
    UplinkStatus: admin_pb2.UplinkStatus(),
    SealedExamples: admin_pb2.SealExamplesResponse(),
    FieldReport: admin_pb2.GetFieldReportResponse(),
    ErasedValues: admin_pb2.EraseValuesResponse(),
    SitePrivacy: admin_pb2.GetPrivacyReportResponse(),
    PrivacyTotal: admin_pb2.PrivacyCount(),
    KeptExamples: admin_pb2.HeldExamples(),
    ErasureRecord: admin_pb2.Erasure(),
    FieldSeries: field_pb2.FieldSeries(),
}


def test_value_is_translated_by_field_names():
    """A translated value has enum words without their prefix, times in UTC, None for unset fields, and nested
    values."""
    message = admin_pb2.TaskUpdate(task="pos", state=admin_pb2.UPDATE_STATE_ROLLED_BACK, attempts=2)
    message.active.version = "1.2.0"
    message.since_time.FromSeconds(86400)
    update = translation.value_of(TaskUpdate, message)
    since = datetime(1970, 1, 2, tzinfo=UTC)
    assert ("ROLLED_BACK", since, "1.2.0", None) == (
        update.state,
        update.since,
        update.active.version,
        update.candidate,
    )
    assert "" == translation.value_of(TaskUpdate, admin_pb2.TaskUpdate()).state
    engine = translation.value_of(Engine, admin_pb2.Engine(state=99, details={"threads": "4"}, tasks=["pos"]))
    assert ("99", {"threads": "4"}, ("pos",)) == (engine.state, engine.details, engine.tasks)


def test_every_field_of_a_value_is_read_from_its_message():
    """Every field of a value is read from its message, so a renamed field of the API does not silently become a
    default."""
    for kind, message in VALUES.items():
        names = {field.name for field in dataclasses.fields(kind)}
        read = {name for name, _ in translation.field_readers(kind, message.DESCRIPTOR)}
        assert set() == names - read, kind


def test_sync_and_async_clients_have_the_same_signatures():
    """The sync client has the calls of the async one with the same arguments, so an example for one works for the
    other."""
    for sync, asynchronous in ((Client, AsyncClient), (ReviewClient, AsyncReviewClient)):
        for name in vars(asynchronous.__mro__[1]):
            if not name.startswith("_") and callable(getattr(asynchronous, name)):
                assert inspect.signature(getattr(sync, name)) == inspect.signature(getattr(asynchronous, name)), name
                assert not inspect.iscoroutinefunction(getattr(sync, name))
