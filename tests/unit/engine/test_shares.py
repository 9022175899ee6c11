"""Shares of a bounded room, and turns in rounds: one client alone has it all, and many have the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.shares import (
    CLIENTS_MAX,
    GENEROSITY,
    TURN_ROWS,
    TURNS_MIN,
    Rounds,
    fits,
    most_of,
    room,
    turns_of,
)

LIMITS = st.integers(1, 500)


def filled(limit: int, order: list[int], clients: int) -> list[int]:
    """Let clients ask for a place as they are named, and then in turn until nobody gets one; count what each has."""
    held = [0] * clients
    for client in order:
        held[client] += fits(held[client], sum(held), 1, limit)
    while any(asked := [fits(each, sum(held), 1, limit) for each in held]):
        held[asked.index(True)] += 1
    return held


@given(limit=LIMITS, more=st.integers(1, 600), held=st.integers(0, 500))
def test_one_client_alone_may_fill_it(limit: int, more: int, held: int) -> None:
    """To the limit, and not beyond, in whatever portions."""
    assert (held + more <= limit) == fits(held, held, more, limit)


@given(limit=LIMITS, clients=st.integers(1, 8), order=st.lists(st.integers(0, 7), max_size=400))
def test_there_is_never_more_than_the_room(limit: int, clients: int, order: list[int]) -> None:
    """Whoever asks, in whatever order."""
    assert sum(filled(limit, [each % clients for each in order], clients)) <= room(limit)


@given(limit=LIMITS)
def test_one_more_client_finds_a_place(limit: int) -> None:
    """However long another has been asking for all it could get; a third of it, if nobody else comes."""
    (held,) = filled(limit, [], 1)
    assert limit == held
    assert fits(0, held, max(1, limit // 3), limit)


@given(limit=LIMITS, clients=st.integers(1, 8), order=st.lists(st.integers(0, 7), max_size=400))
def test_no_client_with_places_is_taken_where_a_new_one_is_not(limit: int, clients: int, order: list[int]) -> None:
    """So what comes free is the new one's."""
    held = filled(limit, [each % clients for each in order], clients)
    for one in range(clients):
        for free in range(4):
            total = max(0, sum(held) - free)
            assert held[one] == 0 or not fits(held[one], total, 1, limit) or fits(0, total, 1, limit)


@given(limit=st.integers(24, 500), clients=st.integers(2, 6))
def test_greedy_clients_have_the_same(limit: int, clients: int) -> None:
    """Those that come together and want more than there is differ by one place at most."""
    held = filled(limit, list(range(clients)) * 1000, clients)
    assert max(held) - min(held) <= 1


@given(limit=st.integers(24, 300), first=st.integers(1, 300))
def test_a_late_client_comes_to_its_share(limit: int, first: int) -> None:
    """One has filled the room; as places come free in turn, the other's share grows until both have the same."""
    held = [min(first, limit), 0]
    for _ in range(4 * limit):
        for client in (0, 1):
            held[client] -= held[client] > 0
        for asks in (0, 1) * 3:  # more often than places come free
            held[asks] += fits(held[asks], sum(held), 1, limit)
    assert abs(held[0] - held[1]) <= 2 * GENEROSITY


@given(clients=st.lists(st.sampled_from("abc"), min_size=1, max_size=60))
def test_a_client_has_one_turn_in_a_round(clients: list[str]) -> None:
    """Dealt in the order of its asking; who has asked for little is not behind who has asked for much."""
    rounds = Rounds()
    dealt = [(client, rounds.deal(client)) for client in clients]
    for name in "abc":
        own = [turn for client, turn in dealt if client == name]
        assert list(range(len(own))) == own


@given(
    backlog=st.integers(0, 50),
    steps=st.lists(st.booleans(), max_size=200),
)
def test_nobody_waits_for_more_than_one_turn_of_each_other(backlog: int, steps: list[bool]) -> None:
    """A client that asks for one turn at a time, against one that always has many waiting."""
    rounds, waiting = Rounds(), []
    for _ in range(backlog + 1):
        waiting.append((rounds.deal("noisy"), "noisy"))
    behind = 0
    for asks in steps:
        if asks and not any(client == "quiet" for _, client in waiting):
            waiting.append((rounds.deal("quiet"), "quiet"))
            behind = 0
        turn, client = min(waiting)
        waiting.remove((turn, client))
        rounds.started(turn)
        behind += client == "noisy"
        assert behind <= 1 or not any(client == "quiet" for _, client in waiting)
        waiting.append((rounds.deal("noisy"), "noisy"))


def test_a_client_that_asks_again_at_once_does_not_stay_in_front() -> None:
    """Its next turn is in the next round, though it has nothing waiting: the other goes on."""
    rounds, started = Rounds(), []
    waiting = [(rounds.deal("noisy"), "noisy") for _ in range(10)]
    for _ in range(10):
        waiting.append((rounds.deal("quick"), "quick"))
        waiting.sort()
        turn, client = waiting.pop(0)
        rounds.started(turn)
        started.append(client)
    assert 4 <= started.count("noisy") <= 6


@pytest.mark.parametrize("clients", [CLIENTS_MAX + 1, 3 * CLIENTS_MAX])
def test_the_table_of_a_round_is_bounded(clients: int) -> None:
    """A round with more clients than it knows ends; nobody's turn is lost."""
    rounds = Rounds()
    dealt = [rounds.deal(str(number)) for number in range(clients)]
    assert sorted(dealt) == dealt
    assert len(rounds._until) <= CLIENTS_MAX


def test_turns_are_work_and_not_calls() -> None:
    """In ten rounds a client of large jobs starts two of five turns each, one of small jobs forty."""
    rounds = Rounds()
    begun = {
        client: [rounds.deal(client, turns) for _ in range(40)] for client, turns in (("large", 5.0), ("small", 0.25))
    }
    assert [0, 5] == [each for each in begun["large"] if each < 10]
    assert [4] * 10 == [begun["small"].count(each) for each in range(10)]


def test_what_a_job_has_taken_is_counted_afterwards() -> None:
    """A client whose job was dealt one turn and took five begins its next one as much later; another does not."""
    rounds = Rounds()
    rounds.deal("large")
    rounds.deal("small")
    rounds.correct("large", 4.0)
    assert (5, 1) == (rounds.deal("large"), rounds.deal("small"))
    rounds.correct("gone", 4.0)
    assert 0 == rounds.deal("gone"), "of whom nothing is known, nothing is remembered"


@pytest.mark.parametrize(("rows", "turns"), [(1, TURNS_MIN), (TURN_ROWS, 1.0), (5 * TURN_ROWS, 5.0)])
def test_a_turn_is_so_many_rows(rows: int, turns: float) -> None:
    """A job of few rows takes a part of a turn, but costs something."""
    assert turns == turns_of(rows)


@pytest.mark.parametrize(("places", "most"), [(1, 1), (3, 3), (8, 6), (32, 24)])
def test_no_client_has_all_places(places: int, most: int) -> None:
    """One in four is left to others, where there are so many."""
    assert most == most_of(places)
