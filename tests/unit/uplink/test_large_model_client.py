"""One question to servers that accept different requests, over real HTTP."""

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
    """Return the text of an answer and its end."""
    async with client.answering(question) as events:
        *texts, end = [event async for event in events]
    assert isinstance(end, AnswerEnd)
    return "".join(texts), end


@pytest.mark.parametrize("refused", [*[(each,) for each in ADAPTABLE], ADAPTABLE[::-1]])
async def test_request_is_adapted_to_what_the_server_accepts(oracle, refused):
    """A member that the server refuses by name is written differently or omitted; only the first question takes
    longer."""
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


async def test_answer_without_a_stream_is_the_same(oracle):
    """If a server refuses streams, as OpenAI does for unverified organizations, text, end and price are the same."""
    oracle.refuses, oracle.thoughts = ("stream",), "<think>hm</think>"
    async with client_of(oracle) as client:
        said, end = await ask(client)
    assert ('{"label": "hello there"}', 5, 4, True) == (said, end.input_tokens, end.output_tokens, end.complete)


async def test_refused_member_is_remembered_for_its_task(oracle):
    """Whether a schema is accepted depends on its content, so the refusal is remembered for that task only."""
    oracle.refuses = ("response_format",)
    async with client_of(oracle) as client:
        await ask(client)
        oracle.refuses = ()
        await ask(client)
        await ask(client, EscalationQuestion(QUESTION.turns, SCHEMA, 100, task="other"))
    assert [False, False, True] == ["response_format" in each for each in oracle.asked]


async def test_refused_parameter_of_the_site_is_an_error(oracle):
    """A refused member of 'parameters', or a question that is refused in every form, is not sent again."""
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


async def test_server_that_refuses_everything_gets_few_requests(oracle):
    """Each member is dropped once, so a question ends after 8 requests."""
    oracle.refuses = ("messages",)
    async with client_of(oracle) as client:
        with pytest.raises(QuestionRefused):
            await ask(client)
    assert 8 == len(oracle.received)


@pytest.mark.parametrize("status", ["401", "403"])
async def test_key_without_the_right_to_list_models_is_accepted(oracle, status):
    """OpenAI's keys have separate rights, and the request that checks the key costs nothing."""
    oracle.listing = status
    async with client_of(oracle) as client:
        await client.check_reachable()
    assert [] == oracle.asked
    oracle.way = "401"
    async with client_of(oracle) as client:
        with pytest.raises(UpstreamRefused, match="refuses the key"):
            await client.check_reachable()


async def test_proxy_is_used(oracle):
    """The proxy gets the whole address and resolves the server's name."""
    settings = {"url": "http://models.invalid/v1", "proxy_url": oracle.url.removesuffix("/v1")}
    async with client_of(oracle, **settings) as client:
        await client.check_reachable()
        assert "hello there" in (await ask(client))[0]
    assert [
        "GET http://models.invalid/v1/models HTTP/1.1",
        "POST http://models.invalid/v1/chat/completions HTTP/1.1",
    ] == [each.partition("\n")[0] for each in oracle.received]


async def test_refused_key_is_checked_at_the_question_endpoint(oracle):
    """A 404 of a server that has no chat endpoint, or of a wrong address, does not prove the key valid."""
    oracle.listing, oracle.way = "401", "404"
    async with client_of(oracle, protocol="systemone") as client:
        with pytest.raises(UpstreamRefused, match="refuses the key"):
            await client.check_reachable()
    async with client_of(oracle) as client:
        with pytest.raises(UpstreamMissing, match="refuses the question for the model 'm'"):
            await client.check_reachable()


async def test_proxy_that_does_not_connect_is_named(oracle):
    """The question has not left the machine, so the error is not a lost connection whose question may have cost."""
    proxy = oracle.url.removesuffix("/v1")
    async with client_of(oracle, url="https://models.invalid/v1", proxy_url=proxy) as client:
        with pytest.raises(UpstreamUnreachable, match=f"the proxy {proxy} does not connect") as caught:
            await ask(client)
    assert (UpstreamUnreachable, True) == (type(caught.value), "'proxy_url'" in caught.value.remedy)


@pytest.mark.parametrize(("beside", "room", "tokens"), [("", 0, 9), ("hm, a greeting", 0, 16), ("", 2000, 100)])
async def test_uncounted_thoughts_are_priced(oracle, beside, room, tokens):
    """If the server counts no tokens, everything that it sends beside the answer counts, up to the limit."""
    oracle.refuses, oracle.beside, oracle.answer = ("stream_options",), beside, lambda _: "hello"
    async with client_of(oracle, thinking_tokens_max=room) as client:
        said, end = await ask(client)
    assert ('{"label": "hello"}', QUESTION.input_tokens_max, tokens) == (said, end.input_tokens, end.output_tokens)


async def test_parameters_of_the_site_are_sent(oracle):
    """Parameters of the configuration are sent in each request, nested ones included."""
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
    """A thinking block at the beginning of an answer is removed; any other text belongs to the answer."""
    oracle.thoughts = thoughts
    async with client_of(oracle) as client:
        assert answer == (await ask(client))[0]


async def test_an_answer_that_ends_in_thoughts_is_empty(oracle):
    """If a model never stops thinking, its answer is empty."""
    oracle.thoughts = "<think>" + "and then " * 9
    async with client_of(oracle) as client:
        said, end = await ask(client)
    assert ("", True) == (said, end.complete)


@pytest.mark.parametrize("tokens", [1, 2, 30])
async def test_model_that_thinks_until_its_limit_is_reported(oracle, tokens):
    """The remedy names the settings that allow more thinking or reduce it."""
    oracle.thoughts = "<think>" + "and then " * 99
    async with client_of(oracle) as client:
        with pytest.raises(UpstreamFailed, match=f"used its {tokens} tokens before it answered") as caught:
            await ask(client, EscalationQuestion(QUESTION.turns, SCHEMA, tokens, task="greeting"))
    assert "'thinking_tokens_max'" in caught.value.remedy
    assert "'parameters: {reasoning_effort: low}'" in caught.value.remedy


@pytest.mark.parametrize(("wanted", "sent"), [(64, 2064), (0, 3024), (5000, 3024)])
def test_thinking_tokens_are_added_to_the_limit(wanted, sent):
    """The limit of thinking tokens is added to that of the answer, so the price of both is reserved."""
    request = pb.AskRequest(task="greeting", turns=[pb.Turn(role="user", text="hi")], output_tokens_max=wanted)
    assert sent == parse_question(request, EscalationConfig(thinking_tokens_max=2000)).output_tokens_max


def test_parameters_that_the_uplink_sets_are_refused():
    """Members that decide model, price or form of a request cannot be set by 'parameters'."""
    for name in ("model", "messages", "max_tokens", "stream", "n"):
        with pytest.raises(ValueError, match=f"{name}: the uplink sets this itself"):
            EscalationConfig(parameters={name: 1})
    with pytest.raises(ValueError, match="the limit is 4096"):
        EscalationConfig(parameters={"metadata": {"note": "x" * 4096}})
    assert {} == EscalationConfig().parameters


@pytest.mark.parametrize("size", [1, 2, 5, 7, 8, 100])
async def test_pieces_of_any_size_give_the_same_answer(oracle, size):
    """The answer does not depend on where the stream is divided."""
    oracle.thoughts, oracle.piece_characters = " <think>a < b </thin k></think>\n ", size
    oracle.answer = lambda _: '{"label": "<think>"}'
    async with client_of(oracle) as client:
        assert '{"label": "<think>"}' == (await ask(client))[0]
