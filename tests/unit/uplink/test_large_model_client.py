"""One question to servers that take different requests, over real HTTP."""

import contextlib

import pytest

from edge_agent.config import EscalationConfig
from edge_agent.errors import UpstreamFailed, UpstreamMissing, UpstreamRefused, UpstreamUnreachable
from edge_agent.uplink.escalation.escalation_server import parse_question
from edge_agent.uplink.escalation.large_model_client import (
    AnswerEnd,
    EscalationQuestion,
    LargeModelClient,
    QuestionRefused,
)
from edge_agent.v1 import escalation_pb2 as pb
from tests.support.large_model import KEY, LargeModel

SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}
QUESTION = EscalationQuestion((("user", "hi, how are you today?"),), SCHEMA, 100, task="greeting")
ADAPTABLE = ("max_tokens", "temperature", "stream_options", "stream", "strict", "response_format")


@pytest.fixture
def oracle():
    with LargeModel(lambda _: "hello there") as server:
        yield server


@contextlib.asynccontextmanager
async def client_of(oracle, **settings):
    """Open a client of the server."""
    plain = {"url": oracle.url, "model": "m", "tasks": ("greeting",)}
    client = LargeModelClient(EscalationConfig(**plain | settings), KEY)
    try:
        yield client
    finally:
        await client.close()


async def ask(client, question=QUESTION):
    """Return the text of an answer, and its end."""
    async with client.answering(question) as events:
        *texts, end = [event async for event in events]
    assert isinstance(end, AnswerEnd)
    return "".join(texts), end


@pytest.mark.parametrize("refused", [*[(each,) for each in ADAPTABLE], ADAPTABLE[::-1]])
async def test_a_request_is_written_as_the_server_takes_it(oracle, refused):
    """A member that a server refuses by name is written otherwise or left out; only the first question takes longer."""
    oracle.refuses = refused
    async with client_of(oracle) as client:
        said, end = await ask(client)
        tries = len(oracle.received)
        assert ("hello there" in said, end.complete) == (True, True)
        await ask(client)
    assert tries + 1 == len(oracle.received)
    assert oracle.asked[0] == oracle.asked[1]
    assert ("response_format" in oracle.asked[0]) is ("response_format" not in refused)
    (limit,) = oracle.asked[0].keys() & {"max_tokens", "max_completion_tokens"}
    assert ("max_completion_tokens" if "max_tokens" in refused else "max_tokens", 100) == (
        limit,
        oracle.asked[0][limit],
    )
    assert not oracle.asked[0].keys() & {*refused}


async def test_an_answer_in_one_piece_is_like_a_stream(oracle):
    """OpenAI streams some models only to verified organizations: text, end, price and thoughts are the same without."""
    oracle.refuses, oracle.thoughts = ("stream",), "<think>hm</think>"
    async with client_of(oracle) as client:
        said, end = await ask(client)
    assert ('{"label": "hello there"}', 5, 4, True) == (said, end.input_tokens, end.output_tokens, end.complete)


async def test_what_a_model_refuses_is_remembered_for_the_task_alone(oracle):
    """OpenAI takes a schema or not by what is in it: another task has another one."""
    oracle.refuses = ("response_format",)
    async with client_of(oracle) as client:
        await ask(client)
        oracle.refuses = ()
        await ask(client)
        await ask(client, EscalationQuestion(QUESTION.turns, SCHEMA, 100, task="other"))
    assert [False, False, True] == ["response_format" in each for each in oracle.asked]


async def test_a_refusal_of_what_the_site_wants_is_final(oracle):
    """Neither a member of 'parameters' nor a question that the server takes in no form is sent again."""
    oracle.refuses = ("reasoning_effort",)
    async with client_of(oracle, parameters={"reasoning_effort": "low"}) as client:
        with pytest.raises(QuestionRefused) as caught:
            await ask(client)
        assert "'parameters'" in caught.value.remedy
        assert 1 == len(oracle.received)
        oracle.refuses, oracle.way = (), "400"
        with pytest.raises(QuestionRefused):
            await ask(client)
    assert 2 == len(oracle.received)


async def test_a_server_that_refuses_everything_is_asked_a_few_times(oracle):
    """Each member is given up once: whatever the server says, the question ends."""
    oracle.refuses = ("messages",)
    async with client_of(oracle) as client:
        with pytest.raises(QuestionRefused):
            await ask(client)
    assert 8 == len(oracle.received)


@pytest.mark.parametrize("status", ["401", "403"])
async def test_a_key_that_may_not_list_models_may_ask(oracle, status):
    """OpenAI's keys have a right for each; what is sent to find out is no question that anybody pays for."""
    oracle.listing = status
    async with client_of(oracle) as client:
        await client.check_reachable()
    assert [] == oracle.asked
    oracle.way = "401"
    async with client_of(oracle) as client:
        with pytest.raises(UpstreamRefused, match="refuses the key"):
            await client.check_reachable()


async def test_a_proxy_is_asked_for_the_server(oracle):
    """The proxy gets the whole address, and the server's name is its business."""
    settings = {"url": "http://models.invalid/v1", "proxy_url": oracle.url.removesuffix("/v1")}
    async with client_of(oracle, **settings) as client:
        await client.check_reachable()
        assert "hello there" in (await ask(client))[0]
    assert [
        "GET http://models.invalid/v1/models HTTP/1.1",
        "POST http://models.invalid/v1/chat/completions HTTP/1.1",
    ] == [each.partition("\n")[0] for each in oracle.received]


async def test_only_the_page_that_questions_are_sent_to_overrules_a_refused_key(oracle):
    """A server of decisions has no page for chat, which says nothing of its key; nor does a wrong address."""
    oracle.listing, oracle.way = "401", "404"
    async with client_of(oracle, protocol="systemone") as client:
        with pytest.raises(UpstreamRefused, match="refuses the key"):
            await client.check_reachable()
    async with client_of(oracle) as client:
        with pytest.raises(UpstreamMissing, match="refuses the question for the model 'm'"):
            await client.check_reachable()


async def test_a_proxy_that_does_not_connect_is_named_and_nothing_was_asked(oracle):
    """The question has not left the machine: it is no lost connection, whose question may have been paid for."""
    proxy = oracle.url.removesuffix("/v1")
    async with client_of(oracle, url="https://models.invalid/v1", proxy_url=proxy) as client:
        with pytest.raises(UpstreamUnreachable, match=f"the proxy {proxy} does not connect") as caught:
            await ask(client)
    assert (UpstreamUnreachable, True) == (type(caught.value), "'proxy_url'" in caught.value.remedy)


@pytest.mark.parametrize(("beside", "room", "tokens"), [("", 0, 9), ("hm, a greeting", 0, 16), ("", 2000, 100)])
async def test_thoughts_that_no_server_counts_are_paid_for(oracle, beside, room, tokens):
    """Where the server does not count, what it sends beside the answer counts; a thinker may send nothing of it."""
    oracle.refuses, oracle.beside, oracle.answer = ("stream_options",), beside, lambda _: "hello"
    async with client_of(oracle, thinking_tokens_max=room) as client:
        said, end = await ask(client)
    assert ('{"label": "hello"}', QUESTION.input_tokens_max, tokens) == (said, end.input_tokens, end.output_tokens)


async def test_parameters_of_the_site_are_sent(oracle):
    """What the site wants further stands in each request, also nested, and the rest is as ever."""
    further = {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}, "temperature": 1.0}
    async with client_of(oracle, parameters=further) as client:
        await ask(client)
    assert further.items() <= oracle.asked[0].items()
    assert "m" == oracle.asked[0]["model"]


@pytest.mark.parametrize(
    ("thoughts", "answer"),
    [
        ("<think>Could be {x}. Hm.</think>\n\n", '{"label": "hello there"}'),
        ("\n<think></think>", '{"label": "hello there"}'),
        ("  <thinking is fun> ", '  <thinking is fun> {"label": "hello there"}'),
        ("", '{"label": "hello there"}'),
        ("    ", '    {"label": "hello there"}'),
    ],
)
async def test_thoughts_before_an_answer_are_not_the_answer(oracle, thoughts, answer):
    """Some servers write what a model thinks into its answer; anything else at its beginning belongs to it."""
    oracle.thoughts = thoughts
    async with client_of(oracle) as client:
        assert answer == (await ask(client))[0]


async def test_an_answer_that_ends_in_thoughts_is_empty(oracle):
    """A model that never stops thinking has answered nothing."""
    oracle.thoughts = "<think>" + "and then " * 9
    async with client_of(oracle) as client:
        said, end = await ask(client)
    assert ("", True) == (said, end.complete)


@pytest.mark.parametrize("tokens", [1, 2, 30])
async def test_a_model_that_thinks_until_its_limit_is_told_so(oracle, tokens):
    """The remedy names the settings that give it room, or let it think less."""
    oracle.thoughts = "<think>" + "and then " * 99
    async with client_of(oracle) as client:
        with pytest.raises(UpstreamFailed, match=f"used its {tokens} tokens before it answered") as caught:
            await ask(client, EscalationQuestion(QUESTION.turns, SCHEMA, tokens, task="greeting"))
    assert "'thinking_tokens_max'" in caught.value.remedy
    assert "'parameters: {reasoning_effort: low}'" in caught.value.remedy


@pytest.mark.parametrize(("wanted", "sent"), [(64, 2064), (0, 3024), (5000, 3024)])
def test_thinking_has_room_beside_the_answer(wanted, sent):
    """What a model may think is added to what it may answer, so that the price of both is set aside."""
    request = pb.AskRequest(task="greeting", turns=[pb.Turn(role="user", text="hi")], output_tokens_max=wanted)
    assert sent == parse_question(request, EscalationConfig(thinking_tokens_max=2000)).output_tokens_max


def test_settings_that_the_uplink_makes_itself_are_refused():
    """Who decides what is sent to whom, and at which price, is the section, not a member of a request."""
    for name in ("model", "messages", "max_tokens", "stream", "n"):
        with pytest.raises(ValueError, match=f"{name}: the uplink sets this itself"):
            EscalationConfig(parameters={name: 1})
    with pytest.raises(ValueError, match="the limit is 4096"):
        EscalationConfig(parameters={"metadata": {"note": "x" * 4096}})
    assert {} == EscalationConfig().parameters


@pytest.mark.parametrize("size", [1, 2, 5, 7, 8, 100])
async def test_pieces_of_any_size_give_the_same_answer(oracle, size):
    """Where a piece ends decides nothing."""
    oracle.thoughts, oracle.piece_characters = " <think>a < b </thin k></think>\n ", size
    oracle.answer = lambda _: '{"label": "<think>"}'
    async with client_of(oracle) as client:
        assert '{"label": "<think>"}' == (await ask(client))[0]
