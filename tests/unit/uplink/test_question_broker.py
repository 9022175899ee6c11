"""The uplink's question broker: spending caps, places, retries and memory, against a real server."""

import asyncio
import contextlib
import json
import os
import threading
from dataclasses import replace

import pytest

from edge_agent.config import EscalationConfig
from edge_agent.errors import (
    ConfigInvalid,
    SiteError,
    StoreDamaged,
    UpstreamBusy,
    UpstreamFailed,
    UpstreamMissing,
    UpstreamRefused,
    UpstreamUnreachable,
)
from edge_agent.uplink.escalation.decision_protocols import TypedAnswer, TypedQuestion
from edge_agent.uplink.escalation.escalation_server import read_key
from edge_agent.uplink.escalation.large_model_client import EscalationQuestion, LargeModelBusy, QuestionRefused
from edge_agent.uplink.escalation.large_model_client import LargeModelClient as Endpoint
from edge_agent.uplink.escalation.question_broker import EscalationBroker, PricedAnswer
from edge_agent.uplink.escalation.spend_ledger import SpendLedger
from tests.support.eventually import eventually
from tests.support.large_model import KEY, LargeModel

NOON = 1_795_694_400.0  # 2026-11-26 12:00 UTC
QUESTION = EscalationQuestion((("user", "hi, how are you today?"),), None, 100)
TOKENS = (5, 4)
"""Of the question and its answer, as the server counts them."""
PRICES = {"input_token_price": 1.0, "output_token_price": 2.0}


@pytest.fixture
def oracle():
    with LargeModel(lambda _: "hello there") as server:
        yield server


@contextlib.asynccontextmanager
async def broker_for(oracle, folder, now=lambda: NOON, key=KEY, **settings):
    """Open a broker and wait until it has reached the server."""
    fast = {"retry_seconds_first": 0.01, "retry_seconds_max": 0.02}
    config = EscalationConfig(url=oracle.url, model="m", tasks=("t",), **{**fast, **settings})
    endpoint = Endpoint(config, key)
    broker = EscalationBroker(config, endpoint, SpendLedger(folder, config, now))
    running = asyncio.create_task(broker.run())
    try:
        await eventually(lambda: broker.status().online or broker.status().problem is not None)
        yield broker
    finally:
        running.cancel()
        await endpoint.close()


async def said(broker, question=QUESTION, seconds=5.0):
    """Ask a question; return the text and the end."""
    async with contextlib.aclosing(broker.ask(question, seconds)) as events:
        parts = [event async for event in events]
    return "".join(parts[:-1]), parts[-1]


async def test_answer_costs_the_counted_tokens(oracle, tmp_path):
    """The price of the tokens that the server counted is stored."""
    async with broker_for(oracle, tmp_path, **PRICES) as broker:
        text, end = await said(broker)
    assert ("hello there", TOKENS[0] + 2 * TOKENS[1]) == (text, end.cost_micros)
    assert {"2026-11-26": end.cost_micros} == json.loads((tmp_path / "spending.json").read_text())["days"]
    assert isinstance(end, PricedAnswer)


async def test_no_question_is_sent_beyond_the_cap(oracle, tmp_path):
    """A question whose highest possible price exceeds the cap is not sent; the next day has a new cap."""
    today = [NOON]
    async with broker_for(oracle, tmp_path, lambda: today[0], day_cost_max=0.0004, **PRICES) as broker:
        await said(broker)
        while broker.ledger.affords(QUESTION.input_tokens_max, 100):
            await said(broker)
        with pytest.raises(UpstreamBusy, match="cap of the day"):
            await said(broker)
        sent = len(oracle.asked)
        assert sent * (TOKENS[0] + 2 * TOKENS[1]) <= 400
        assert not broker.status().affordable
        today[0] += 86_400
        await said(broker)
    assert sent + 1 == len(oracle.asked)


async def test_reserved_price_is_not_shown_as_spent(oracle, tmp_path):
    """While a question is in progress the spending is unchanged, and another question that would exceed the cap is
    refused as busy."""
    oracle.seconds = 60.0
    async with broker_for(oracle, tmp_path, calls_max=4, day_cost_max=0.0016, **PRICES) as broker:
        ledger = broker.ledger
        asking = asyncio.create_task(said(broker, replace(QUESTION, output_tokens_max=400), seconds=50.0))
        await eventually(lambda: oracle.asked)
        status = broker.status()
        assert ledger.spent.on("2026-11-26") > 0 == ledger.paid.on("2026-11-26")
        assert (True, False) == (status.affordable, status.free)
        with pytest.raises(UpstreamBusy, match="cap of the day"):
            await said(broker, replace(QUESTION, output_tokens_max=400))
        oracle.release()
        await asking
        status = broker.status()
        assert (True, True) == (status.affordable, status.free)
        assert TOKENS[0] + 2 * TOKENS[1] == ledger.paid.on("2026-11-26") == ledger.spent.on("2026-11-26")


async def test_timeout_between_two_parts_does_not_cancel_the_reader(oracle, tmp_path):
    """A slow reader gets the error at its next read; what it awaits meanwhile is not cancelled."""
    loop = asyncio.get_running_loop()

    async def read_slowly():
        async with broker_for(oracle, tmp_path) as broker, contextlib.aclosing(broker.ask(QUESTION, 0.5)) as events:
            async for _ in events:
                until = loop.time() + 0.6
                await eventually(lambda until=until: loop.time() >= until)

    with pytest.raises(UpstreamUnreachable):
        await read_slowly()


@pytest.mark.parametrize("way", ["stall", "cut"])
async def test_interrupted_answer_counts_as_spent(oracle, tmp_path, way):
    """The cost of an interrupted answer is unknown, so the reserved amount stays spent."""
    oracle.way = way
    async with broker_for(oracle, tmp_path, **PRICES) as broker:
        with pytest.raises((UpstreamFailed, UpstreamUnreachable)):
            await said(broker, seconds=0.4)
        for amounts in (broker.ledger.spent, broker.ledger.paid):
            assert QUESTION.input_tokens_max + 200 == amounts.on("2026-11-26")


@pytest.mark.parametrize(
    ("way", "error"), [("429", LargeModelBusy), ("404", UpstreamMissing), ("401", UpstreamRefused)]
)
async def test_refused_question_costs_nothing(oracle, tmp_path, way, error):
    """A refused question is not charged, and the server's text is not shown."""
    async with broker_for(oracle, tmp_path, **PRICES) as broker:
        oracle.way = way
        with pytest.raises(error) as raised:
            await said(broker)
        assert "SECRET" not in raised.value.message + raised.value.remedy
        assert 0 == broker.ledger.spent.on("2026-11-26")
        assert 0.0 == broker.status().usual_ms, "how fast it refuses says nothing of how long an answer takes"


@pytest.mark.parametrize("way", ["400", "413", "422"])
async def test_a_refused_question_leaves_the_large_model_online_for_others(oracle, tmp_path, way):
    """A question that the server refuses costs nothing, is not repeated and does not take the large model offline."""
    async with broker_for(oracle, tmp_path, retry_seconds_first=30, retry_seconds_max=30, **PRICES) as broker:
        for _ in range(4):
            oracle.way = way
            with pytest.raises(QuestionRefused, match=rf"refuses one question \(HTTP {way}\)") as raised:
                await said(broker)
            assert "SECRET" not in raised.value.message + raised.value.remedy
            assert (True, True, raised.value) == (
                broker.status().online,
                broker.status().free,
                broker.status().problem,
            )
        oracle.way = "well"
        assert 0 == broker.ledger.spent.on("2026-11-26")
        assert 0.0 == broker.status().usual_ms
        assert "hello there" == (await said(broker))[0]
        assert broker.status().problem is None
    assert 5 == len(oracle.asked)


async def test_missing_model_of_one_task_does_not_affect_others(oracle, tmp_path):
    """A 404 for a model in `task_models` affects its task; for the default model it takes the large model offline."""
    async with broker_for(oracle, tmp_path, task_models={"t": "gone"}, retry_seconds_first=30) as broker:
        oracle.way = "404"
        with pytest.raises(QuestionRefused, match="for the model 'gone'"):
            await said(broker, replace(QUESTION, task="t"))
        assert broker.status().online
        with pytest.raises(UpstreamMissing):
            await said(broker, replace(QUESTION, task="another"))
        assert not broker.status().online


@pytest.mark.slow
async def test_refused_question_is_retried_once(oracle, tmp_path):
    """An unprocessed question is sent once more; then the server counts as busy."""
    async with broker_for(oracle, tmp_path) as broker:
        oracle.way = "503"
        with pytest.raises(UpstreamBusy):
            await said(broker)
        assert 2 == len(oracle.asked)
        assert isinstance(broker.status().problem, UpstreamBusy)
        assert (True, False) == (broker.status().online, broker.status().free)
        oracle.way = "well"
        await eventually(lambda: broker.status().free)
        assert "hello there" == (await said(broker))[0]


async def test_question_without_time_for_a_retry_is_refused_at_once(oracle, tmp_path):
    """A pause that would end after the caller's deadline is not started, and nothing is charged."""
    oracle.way, oracle.retry_after = "429", "90"
    async with broker_for(oracle, tmp_path, **PRICES) as broker:
        asking = asyncio.create_task(said(broker, seconds=60))
        await eventually(asking.done)
        with pytest.raises(LargeModelBusy):
            await asking
        with pytest.raises(LargeModelBusy):
            await said(broker)
        assert (1, 0) == (len(oracle.asked), broker.ledger.spent.on("2026-11-26"))


@pytest.mark.slow
async def test_retry_after_applies_to_all_questions(oracle, tmp_path):
    """While one question waits for the server's Retry-After, no other is sent."""
    oracle.way, oracle.retry_after = "429", "1"
    async with broker_for(oracle, tmp_path) as broker:
        waiting = asyncio.create_task(said(broker))
        await eventually(lambda: not broker.status().free and isinstance(broker.status().problem, LargeModelBusy))
        for _ in range(5):
            with pytest.raises(LargeModelBusy):
                await said(broker)
        assert 1 == len(oracle.asked)
        oracle.way = "well"
        assert "hello there" == (await waiting)[0]
    assert 2 == len(oracle.asked)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["huge-line", "huge-500", "packed", "lost", "html"])
async def test_hostile_response_is_an_error(oracle, tmp_path, way):
    """10 MB in one line, in an error or compressed are not read to the end, and count as spent."""
    oracle.way = way
    async with broker_for(oracle, tmp_path, **PRICES) as broker:
        with pytest.raises((UpstreamFailed, UpstreamUnreachable)):
            await said(broker)
        assert 1 == len(oracle.asked)
        assert QUESTION.input_tokens_max + 200 == broker.ledger.spent.on("2026-11-26")


@pytest.mark.slow
@pytest.mark.parametrize("listing", ["500", "html", "huge", "packed", "lost", "array"])
async def test_hostile_list_of_models_does_not_end_the_checks(oracle, tmp_path, listing):
    """Whatever the list of models contains, the next check follows."""
    oracle.listing = listing
    async with broker_for(oracle, tmp_path) as broker:
        looks = len(oracle.received)
        await eventually(lambda: broker.status().online or len(oracle.received) > looks + 1)
        oracle.listing = "well"
        await eventually(lambda: broker.status().online)
        assert "hello there" == (await said(broker))[0]


async def test_interrupted_answer_raises_the_expected_latency(oracle, tmp_path):
    """After a caller's deadline passed, the expected latency exceeds it, so the next caller with as little time is not
    sent."""
    oracle.seconds = 30
    async with broker_for(oracle, tmp_path) as broker:
        with pytest.raises(UpstreamUnreachable):
            await said(broker, seconds=0.3)
        assert broker.status().usual_ms > 500


async def test_answer_cancelled_just_before_its_deadline_counts_as_late(oracle, tmp_path):
    """Whichever clock ends it first, three late answers take the large model offline."""
    oracle.seconds = 30
    async with broker_for(oracle, tmp_path, retry_seconds_first=30, retry_seconds_max=30) as broker:
        for _ in range(3):
            asking = asyncio.create_task(said(broker, seconds=0.3))
            await asyncio.wait([asking], timeout=0.27)
            asking.cancel()
            await asyncio.wait([asking])
        assert not broker.status().online


async def test_questions_in_progress_are_limited(oracle, tmp_path):
    """A question beyond the limit is refused, and a place is free again when its question ends."""
    async with broker_for(oracle, tmp_path, calls_max=2) as broker:
        oracle.seconds = 0.5
        asking = [asyncio.create_task(said(broker)) for _ in range(2)]
        await eventually(lambda: not broker.status().free)
        with pytest.raises(UpstreamBusy, match="2 questions are under way"):
            await said(broker)
        assert ["hello there"] * 2 == [text for text, _ in await asyncio.gather(*asking)]
        assert broker.status().free
        assert broker.status().usual_ms > 400


UNHURRIED = replace(QUESTION, background=True)


async def test_live_questions_have_a_reserved_place(oracle, tmp_path):
    """A deferred question never takes the last place."""
    async with broker_for(oracle, tmp_path, calls_max=2) as broker:
        assert broker.status().spare
        oracle.seconds = 0.5
        asking = asyncio.create_task(said(broker, UNHURRIED))
        await eventually(lambda: not broker.status().spare)
        assert broker.status().free
        with pytest.raises(UpstreamBusy, match="reserved for callers who wait"):
            await said(broker, UNHURRIED)
        assert ["hello there"] * 2 == [text for text, _ in await asyncio.gather(asking, said(broker))]
        assert broker.status().spare
    async with broker_for(oracle, tmp_path, calls_max=1) as broker:
        assert not broker.status().spare


async def test_live_questions_have_a_reserved_budget(oracle, tmp_path):
    """Beyond their share of a cap deferred questions are refused; live ones are sent."""
    async with broker_for(oracle, tmp_path, day_cost_max=0.004, later_cost_share=0.25, **PRICES) as broker:
        while broker.ledger.affords(QUESTION.input_tokens_max, 100, 0.25):
            await said(broker, UNHURRIED)
        sent = len(oracle.asked)
        assert sent > 1
        with pytest.raises(UpstreamBusy, match="reserved for callers who wait"):
            await said(broker, UNHURRIED)
        assert broker.status().affordable
        await said(broker)
    assert sent + 1 == len(oracle.asked)


async def test_deferred_question_is_not_sent_while_offline(oracle, tmp_path):
    """While the large model is offline a deferred question is refused unsent, so it can wait."""
    async with broker_for(oracle, tmp_path, key="sk-wrong") as broker:
        assert not broker.status().spare
        with pytest.raises(UpstreamBusy):
            await said(broker, UNHURRIED)


async def test_a_wrong_key_is_found_without_a_question(oracle, tmp_path):
    """The key is tested with a free request, and the problem has a remedy."""
    async with broker_for(oracle, tmp_path, key="sk-wrong") as broker:
        assert isinstance(broker.status().problem, UpstreamRefused)
        with pytest.raises(UpstreamRefused, match="refuses the key"):
            await said(broker)
    assert [] == oracle.asked


async def test_slow_disk_delays_only_the_question_that_needs_it(oracle, tmp_path):
    """While a price cannot be reserved, an answer in progress arrives and the status is sent; the question is then
    refused."""
    async with broker_for(oracle, tmp_path, **PRICES) as broker:
        oracle.seconds = 0.3
        coming = broker.ask(QUESTION, 5.0)
        first = asyncio.ensure_future(anext(coming))
        await eventually(lambda: len(oracle.asked) == 1)
        pipe = tmp_path / ".spending.json.partial"
        os.mkfifo(pipe)  # whoever opens it to write waits for a reader, as for a disk that does not answer
        with slow(pipe):
            stuck = asyncio.create_task(said(broker))
            hasty = asyncio.create_task(said(broker, seconds=0.2))
            events = [await first, *[await anext(coming) for _ in range(4)]]
            assert ("hello there", True) == ("".join(events[:-1]), isinstance(events[-1], PricedAnswer))
            assert not stuck.done()
            assert broker.status().online
        with pytest.raises(SiteError, match=r"spending\.json"):  # a pipe cannot be synced
            await stuck
        with pytest.raises(UpstreamBusy, match="disk took longer"):
            await hasty
        await coming.aclose()
    assert 1 == len(oracle.asked)
    assert {"2026-11-26": TOKENS[0] + 2 * TOKENS[1]} == json.loads((tmp_path / "spending.json").read_text())["days"]


@contextlib.contextmanager
def slow(pipe):
    """Make writers wait inside the block, up to ten seconds, so that a failing test ends."""
    over = threading.Event()

    def read():
        over.wait(10)
        pipe.read_bytes()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        over.set()
        reader.join()


async def test_cancelled_question_releases_its_reserved_price(oracle, tmp_path):
    """A price that was reserved for a caller who left is released, and its question is not sent."""
    async with broker_for(oracle, tmp_path, **PRICES) as broker:
        gone = [asyncio.create_task(said(broker)) for _ in range(3)]
        await asyncio.wait(gone, timeout=0)  # until each has asked for its price to be set aside
        for each in gone:
            each.cancel()
        await asyncio.wait(gone)
        await eventually(lambda: broker.ledger.spent.on("2026-11-26") == 0)
        assert "hello there" == (await said(broker))[0]
    assert 1 == len(oracle.asked)


async def test_simultaneous_questions_do_not_exceed_a_cap(oracle, tmp_path):
    """Of 20 simultaneous questions, those that would exceed the cap are refused."""
    async with broker_for(oracle, tmp_path, calls_max=20, day_cost_max=0.0006, **PRICES) as broker:
        came = await asyncio.gather(*(said(broker) for _ in range(20)), return_exceptions=True)
        assert {tuple, UpstreamBusy} == {type(each) for each in came}
        assert 1e6 * 0.0006 >= broker.ledger.spent.on("2026-11-26")


def test_damaged_spending_record_is_refused(tmp_path):
    """A damaged spending record raises StoreDamaged instead of counting as nothing spent."""
    (tmp_path / "spending.json").write_text("{}")
    with pytest.raises(StoreDamaged, match="is not a record of the spending"):
        SpendLedger(tmp_path, EscalationConfig(), lambda: NOON)


@pytest.mark.parametrize("content", [b"", b"two words", b"\xff\xfe", b"x" * 5000, b"a\nb"])
def test_file_without_a_key_is_refused(tmp_path, content):
    """A key is one word of plain text; any other content is refused and not shown."""
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(ConfigInvalid, match=r"escalation\.credentials_file") as raised:
        read_key(EscalationConfig(credentials_file=str(path)))
    assert "two words" not in raised.value.message


TYPED = EscalationQuestion(
    (("user", "hi"),),
    None,
    100,
    task="t",
    questions=(TypedQuestion("t", "choice", "Which?", (("refund", ""), ("price", "money"))),),
    text="hi there",
)
ANSWERED = {"type": "choice", "probabilities": {"refund": 0.75, "price": 0.25}}


async def test_typed_questions_are_asked_by_their_protocol_and_priced(oracle, tmp_path):
    """The task's model is asked in its protocol, the answer is passed on unchecked, and its tokens are priced."""
    counted = {"input_tokens": 7, "output_tokens": 0}
    oracle.typed = json.dumps({"model": "big-1", "answers": {"t": ANSWERED}, "usage": counted}).encode()
    settings = {"protocol": "systemone", "task_models": {"t": "other"}, **PRICES}
    async with (
        broker_for(oracle, tmp_path, **settings) as broker,
        contextlib.aclosing(broker.ask(TYPED, 5.0)) as events,
    ):
        typed, end = [event async for event in events]
    assert (TypedAnswer("t", (("refund", 0.75), ("price", 0.25))),) == typed
    assert ("big-1", 7, 7) == (end.end.model, end.end.input_tokens, end.cost_micros)
    [asked] = oracle.asked
    assert ("other", "hi there", {"refund": None, "price": "money"}) == (
        asked["model"],
        asked["state"],
        asked["questions"]["t"]["criteria"],
    )


async def test_invalid_typed_answer_is_an_error(oracle, tmp_path):
    """It counts as a broken answer, and the message has no text of the server."""
    oracle.typed = b'{"answers": {"t": {"type": "choice", "probabilities": {"SECRET": NaN}}}}'
    async with broker_for(oracle, tmp_path, protocol="systemone") as broker:
        with pytest.raises(UpstreamFailed, match="it is not JSON, or it holds NaN") as raised:
            await said(broker, TYPED)
        assert broker.status().problem is raised.value
    assert "SECRET" not in raised.value.message


async def test_chat_protocol_answers_typed_questions_with_text(oracle, tmp_path):
    """Also a question that has a typed form."""
    async with broker_for(oracle, tmp_path) as broker:
        text, _ = await said(broker, TYPED)
    assert "hello there" == text
