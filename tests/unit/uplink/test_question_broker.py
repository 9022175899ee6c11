"""The uplink's broker for questions: caps, places, retries and what is remembered, against a real server."""

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
    """Open a broker and wait until it has seen the server."""
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
    """Ask; return the text and the end."""
    async with contextlib.aclosing(broker.ask(question, seconds)) as events:
        parts = [event async for event in events]
    return "".join(parts[:-1]), parts[-1]


async def test_an_answer_costs_what_was_counted(oracle, tmp_path):
    """The price of the tokens that the server counted is on the disk afterwards, and no more."""
    async with broker_for(oracle, tmp_path, **PRICES) as broker:
        text, end = await said(broker)
    assert ("hello there", TOKENS[0] + 2 * TOKENS[1]) == (text, end.cost_micros)
    assert {"2026-11-26": end.cost_micros} == json.loads((tmp_path / "spending.json").read_text())["days"]
    assert isinstance(end, PricedAnswer)


async def test_no_question_is_sent_beyond_the_cap(oracle, tmp_path):
    """The dearest answer must fit under the cap; what does not is not sent, and the next day is another."""
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


async def test_what_is_set_aside_for_a_question_in_progress_is_not_shown_as_spent(oracle, tmp_path):
    """The budget is not spent and the figure does not move; another question is busy until the real price is known."""
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


async def test_a_time_limit_that_ends_between_two_parts_does_not_cancel_the_reader(oracle, tmp_path):
    """A slow reader has the error at its next read; what it awaits meanwhile is left alone."""
    loop = asyncio.get_running_loop()

    async def read_slowly():
        async with broker_for(oracle, tmp_path) as broker, contextlib.aclosing(broker.ask(QUESTION, 0.5)) as events:
            async for _ in events:
                until = loop.time() + 0.6
                await eventually(lambda until=until: loop.time() >= until)

    with pytest.raises(UpstreamUnreachable):
        await read_slowly()


@pytest.mark.parametrize("way", ["stall", "cut"])
async def test_what_was_cut_off_counts_as_spent(oracle, tmp_path, way):
    """The cost of a broken answer is unknown: the reserved amount stays spent."""
    oracle.way = way
    async with broker_for(oracle, tmp_path, **PRICES) as broker:
        with pytest.raises((UpstreamFailed, UpstreamUnreachable)):
            await said(broker, seconds=0.4)
        for amounts in (broker.ledger.spent, broker.ledger.paid):
            assert QUESTION.input_tokens_max + 200 == amounts.on("2026-11-26")


@pytest.mark.parametrize(
    ("way", "error"), [("429", LargeModelBusy), ("404", UpstreamMissing), ("401", UpstreamRefused)]
)
async def test_what_was_refused_costs_nothing(oracle, tmp_path, way, error):
    """A server that did no work is owed nothing; its own words are shown to nobody."""
    async with broker_for(oracle, tmp_path, **PRICES) as broker:
        oracle.way = way
        with pytest.raises(error) as raised:
            await said(broker)
        assert "SECRET" not in raised.value.message + raised.value.remedy
        assert 0 == broker.ledger.spent.on("2026-11-26")
        assert 0.0 == broker.status().usual_ms, "how fast it refuses says nothing of how long an answer takes"


@pytest.mark.parametrize("way", ["400", "413", "422"])
async def test_a_refused_question_leaves_the_large_model_online_for_others(oracle, tmp_path, way):
    """It costs nothing and is not asked again; the next question is asked at once, and its answer ends the message."""
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


async def test_a_model_that_is_missing_for_one_task_leaves_the_others_alone(oracle, tmp_path):
    """A 404 is that of the model which `task_models` gives to the task; of the model of all tasks it closes the way."""
    async with broker_for(oracle, tmp_path, task_models={"t": "gone"}, retry_seconds_first=30) as broker:
        oracle.way = "404"
        with pytest.raises(QuestionRefused, match="for the model 'gone'"):
            await said(broker, replace(QUESTION, task="t"))
        assert broker.status().online
        with pytest.raises(UpstreamMissing):
            await said(broker, replace(QUESTION, task="another"))
        assert not broker.status().online


@pytest.mark.slow
async def test_patience_is_tried_once(oracle, tmp_path):
    """A question that was refused unworked is sent once more, and then the server is left alone: there, not free."""
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


async def test_who_has_no_time_for_patience_does_not_wait(oracle, tmp_path):
    """A pause that ends after the caller's deadline is not begun: the refusal comes long before, and costs nothing."""
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
async def test_a_server_that_asks_for_patience_is_left_alone_by_all(oracle, tmp_path):
    """While one question waits for the time that the server named, no other is sent."""
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
async def test_a_hostile_answer_is_a_failure_with_a_name(oracle, tmp_path, way):
    """Ten megabytes in one line, in an error or packed into a few: none is read to its end, and it may have cost."""
    oracle.way = way
    async with broker_for(oracle, tmp_path, **PRICES) as broker:
        with pytest.raises((UpstreamFailed, UpstreamUnreachable)):
            await said(broker)
        assert 1 == len(oracle.asked)
        assert QUESTION.input_tokens_max + 200 == broker.ledger.spent.on("2026-11-26")


@pytest.mark.slow
@pytest.mark.parametrize("listing", ["500", "html", "huge", "packed", "lost", "array"])
async def test_a_hostile_list_of_models_ends_no_looking(oracle, tmp_path, listing):
    """Whatever comes of the look whether the large model is there, the next look follows."""
    oracle.listing = listing
    async with broker_for(oracle, tmp_path) as broker:
        looks = len(oracle.received)
        await eventually(lambda: broker.status().online or len(oracle.received) > looks + 1)
        oracle.listing = "well"
        await eventually(lambda: broker.status().online)
        assert "hello there" == (await said(broker))[0]


async def test_an_answer_that_is_never_waited_for_is_not_asked_for_again(oracle, tmp_path):
    """Whoever was cut off has learnt that it takes longer than that: the next with as much time knows it before."""
    oracle.seconds = 30
    async with broker_for(oracle, tmp_path) as broker:
        with pytest.raises(UpstreamUnreachable):
            await said(broker, seconds=0.3)
        assert broker.status().usual_ms > 500


async def test_an_answer_that_was_given_up_a_moment_before_its_deadline_counts_as_late(oracle, tmp_path):
    """It is the caller's clock that ends it, or this one's: three of them close the way either way."""
    oracle.seconds = 30
    async with broker_for(oracle, tmp_path, retry_seconds_first=30, retry_seconds_max=30) as broker:
        for _ in range(3):
            asking = asyncio.create_task(said(broker, seconds=0.3))
            await asyncio.wait([asking], timeout=0.27)
            asking.cancel()
            await asyncio.wait([asking])
        assert not broker.status().online


async def test_one_more_than_may_be_under_way_is_refused(oracle, tmp_path):
    """Places are counted; a full broker says so beforehand, and a place is free again when its question ends."""
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


async def test_who_is_waited_for_goes_first(oracle, tmp_path):
    """A question that nobody waits for takes no last place: one is always free for a caller."""
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


async def test_who_is_waited_for_has_money_left(oracle, tmp_path):
    """Beyond their share of a cap questions that nobody waits for are not sent; a caller's are."""
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


async def test_nobody_who_can_wait_finds_out_that_nobody_is_there(oracle, tmp_path):
    """While the large model is offline, a question that nobody waits for is refused unsent, so that it can wait."""
    async with broker_for(oracle, tmp_path, key="sk-wrong") as broker:
        assert not broker.status().spare
        with pytest.raises(UpstreamBusy):
            await said(broker, UNHURRIED)


async def test_a_wrong_key_is_found_without_a_question(oracle, tmp_path):
    """The key is tested with a free request; the problem has a remedy."""
    async with broker_for(oracle, tmp_path, key="sk-wrong") as broker:
        assert isinstance(broker.status().problem, UpstreamRefused)
        with pytest.raises(UpstreamRefused, match="refuses the key"):
            await said(broker)
    assert [] == oracle.asked


async def test_a_slow_disk_holds_up_nobody_who_does_not_wait_for_it(oracle, tmp_path):
    """While a price cannot be set aside, an answer under way comes in, and who watches is told; then it is refused."""
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
    """Let whoever writes wait inside the block, or for ten seconds, so that a test that fails ends."""
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


async def test_who_goes_away_while_the_disk_is_slow_is_not_asked_for_and_owes_nothing(oracle, tmp_path):
    """The price that was set aside for a caller who has gone is given back, and a cap is not eaten by nothing."""
    async with broker_for(oracle, tmp_path, **PRICES) as broker:
        gone = [asyncio.create_task(said(broker)) for _ in range(3)]
        await asyncio.wait(gone, timeout=0)  # until each has asked for its price to be set aside
        for each in gone:
            each.cancel()
        await asyncio.wait(gone)
        await eventually(lambda: broker.ledger.spent.on("2026-11-26") == 0)
        assert "hello there" == (await said(broker))[0]
    assert 1 == len(oracle.asked)


async def test_many_at_once_do_not_break_a_cap(oracle, tmp_path):
    """All find room before any has taken it: who comes too late on the disk is refused."""
    async with broker_for(oracle, tmp_path, calls_max=20, day_cost_max=0.0006, **PRICES) as broker:
        came = await asyncio.gather(*(said(broker) for _ in range(20)), return_exceptions=True)
        assert {tuple, UpstreamBusy} == {type(each) for each in came}
        assert 1e6 * 0.0006 >= broker.ledger.spent.on("2026-11-26")


def test_a_damaged_purse_is_not_an_empty_one(tmp_path):
    """What was spent is not forgotten because a file is broken: somebody has to look."""
    (tmp_path / "spending.json").write_text("{}")
    with pytest.raises(StoreDamaged, match="is not a record of the spending"):
        SpendLedger(tmp_path, EscalationConfig(), lambda: NOON)


@pytest.mark.parametrize("content", [b"", b"two words", b"\xff\xfe", b"x" * 5000, b"a\nb"])
def test_a_file_that_holds_no_key_is_refused(tmp_path, content):
    """The key is one word of plain text; anything else is named, and not shown."""
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
    """Of the model that the task has there; the answer is handed on unchecked, and its tokens cost what they cost."""
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


async def test_an_answer_of_another_format_is_a_named_failure(oracle, tmp_path):
    """It is counted as a broken answer; nothing that the server wrote is in the message."""
    oracle.typed = b'{"answers": {"t": {"type": "choice", "probabilities": {"SECRET": NaN}}}}'
    async with broker_for(oracle, tmp_path, protocol="systemone") as broker:
        with pytest.raises(UpstreamFailed, match="it is not JSON, or it holds NaN") as raised:
            await said(broker, TYPED)
        assert broker.status().problem is raised.value
    assert "SECRET" not in raised.value.message


async def test_where_the_large_model_is_asked_by_chat_a_text_answers_typed_questions(oracle, tmp_path):
    """Also a question that has a typed form."""
    async with broker_for(oracle, tmp_path) as broker:
        text, _ = await said(broker, TYPED)
    assert "hello there" == text
