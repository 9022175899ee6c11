"""Prices of questions, from the uplink's connection to the disk, and with the labels to the client."""

import sqlite3

import pytest

from edge_agent.capture.example_capture import ExampleCapture
from edge_agent.client import operator_reports
from edge_agent.client.translation import value_of
from edge_agent.monitoring.answer_observations import (
    AgreementCount,
    BundleSeries,
    ConfidenceCount,
    DailySpend,
    LabelCount,
)
from edge_agent.server.monitoring_messages import money_message, series_message
from edge_agent.v1 import admin_pb2
from tests.support.site_cases import SiteCase, answered, config_of

DAY_NAMES = ("2026-11-25", 20_782)


def paid(collection, *micros):
    """Record prices, store them, and return what the next daemon reads."""
    collection.start()
    for each in micros:
        collection.add_charge("pos-intent", each)
    collection.stop()


def test_prices_are_stored_when_the_daemon_stops(tmp_path):
    """A price that was recorded just before the stop is read by the next daemon."""
    site = SiteCase(tmp_path)
    site.worker.close()
    for _ in range(2):
        paid(ExampleCapture(site.config, site.clock.around()), 300, 200)
    (spent,) = site.open().monitoring.daily_spend()
    assert ("pos-intent", 4, 1000) == (spent.task, spent.questions, spent.micros)


def test_site_without_a_spool_records_no_price(tmp_path):
    """Without a spool no price accumulates in memory, and nothing fails."""
    config = config_of(tmp_path / "state", collect={})
    collection = ExampleCapture(config, SiteCase(tmp_path / "other").clock.around())
    paid(collection, 300)
    assert not (config.state_dir / "spool.db").exists()


def test_older_spool_gets_the_price_tables(tmp_path):
    """The rows of an older spool and the version of its schema stay."""
    site = SiteCase(tmp_path)
    site.keep(answered(1))
    site.worker.close()
    with sqlite3.connect(site.config.state_dir / "spool.db") as database:
        version = database.execute("PRAGMA user_version").fetchone()
        database.execute("DROP TABLE field_labels")
        database.execute("DROP TABLE field_money")
    database.close()
    site.open()
    site.keep(answered(2))
    (series,) = site.worker.monitoring.report("pos-intent")
    assert ((LabelCount("refund", 1, 0),), 2) == (series.labels, site.worker.spool.count_retained()["unsure"])
    with sqlite3.connect(site.config.state_dir / "spool.db") as database:
        assert version == database.execute("PRAGMA user_version").fetchone()
    database.close()


def test_an_erased_answer_stays_counted(tmp_path):
    """Erasing an answer does not change the counts, which have nothing of its text."""
    site = SiteCase(tmp_path)
    site.keep(answered(1))
    with site.worker.spool.transaction():
        site.worker.erasure.erase_answer("p-1")
    assert (LabelCount("refund", 1, 0),) == site.worker.monitoring.report("pos-intent")[0].labels


@pytest.mark.parametrize(("day", "number"), [DAY_NAMES, ("1970-01-01", 0)])
def test_spend_reaches_the_client(day, number):
    """Days since 1970 become dates, and amounts are unchanged."""
    message = admin_pb2.GetFieldReportResponse(money=[money_message(DailySpend("pos-intent", number, 3, 900))])
    assert (operator_reports.FieldMoney("pos-intent", day, 3, 900),) == value_of(
        operator_reports.FieldReport, message
    ).money


def test_labels_reach_the_client():
    """Answers and examples of each label reach the client as counted."""
    known = BundleSeries(
        "pos-intent", "ab" * 32, "1.0.0", 0.0, 0.0, {}, (), (), None, {}, {}, (), (), (LabelCount("price", 5, 2),)
    )
    message = series_message(known, None, active=True, demoted=lambda _: False)
    (series,) = value_of(operator_reports.FieldReport, admin_pb2.GetFieldReportResponse(series=[message])).series
    assert (operator_reports.FieldLabel("price", 5, 2),) == series.labels
    assert series.active


def told(**known):
    """Return what a client receives of a bundle with these figures."""
    plain = {"task": "pos-intent", "digest": "ab" * 32, "version": "1.0.0", "first": 0.0, "last": 0.0, "days": {}}
    nothing = {"agreement": (), "confidences": (), "guarantee": None, "evidence": {}, "streams": {}, "alarms": ()}
    message = series_message(BundleSeries(**{**plain, **nothing, **known}), None, active=True, demoted=lambda _: False)
    (series,) = value_of(operator_reports.FieldReport, admin_pb2.GetFieldReportResponse(series=[message])).series
    return series


def test_agreement_of_the_last_week_is_separate():
    """The last week is seven days before the last day with a comparison, for each label and in total."""
    rows = [
        AgreementCount(day, "shadow", label, 10, same) for day, label, same in [(1, "a", 9), (2, "a", 8), (8, "b", 4)]
    ]
    found = {each.label: each for each in told(agreement=rows).agreement}
    assert [(21, 30), (17, 20), (4, 10)] == [(found[of].agreed.hits, found[of].agreed.rows) for of in ("", "a", "b")]
    assert [(12, 20), (8, 10), (4, 10)] == [(found[of].recent.hits, found[of].recent.rows) for of in ("", "a", "b")]
    old = told(agreement=[*rows, AgreementCount(30, "shadow", "c", 1, 1)]).agreement
    assert [None, 1.0] == [each.recent.value for each in old if each.label in ("b", "c")]


def test_reviews_are_cumulated_by_confidence():
    """Reviews are added up from the highest confidence downwards."""
    rows = (ConfidenceCount(30, 10, 5, 2, 3, 1, 2), ConfidenceCount(95, 20, 8, 8, 1, 1, 0))
    high, low = told(confidences=rows).confidences
    assert [(0, 1, 1), (2, 4, 2)] == [
        (each.reviewed.hits, each.reviewed.rows, each.reviewed_agreed) for each in (high, low)
    ]
    assert (10, 13) == (low.agreed.hits, low.agreed.rows)
