"""Why an export holds no examples: one sentence for each state of a site."""

from __future__ import annotations

import dataclasses

import pytest

from edge_agent.cli.export_explanation import explain_empty_export
from edge_agent.client import ExamplesStatus

COLLECTING = ExamplesStatus(
    {}, {"routine": 12, "feedback": 0}, 1, 0, 0, "e", {"pos": "upstream"}, review_waiting={"audit": 3, "uncertain": 9}
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"collect": {}, "retained": {}}, "'examples.collect' in agent.yaml names no task"),
        ({"collect": {"pos": "local"}}, "The examples of pos stay on this machine: set the task to 'upstream'"),
        ({}, "12 answers wait for review, and none has been reviewed since the last export: 'edge-agent review'"),
        ({"review_waiting": {"audit": 1}}, "1 answer waits for review"),
        ({"review_waiting": {}, "retained": {}}, "No answer of pos has been kept yet"),
        ({"review_waiting": {}}, "The central team has confirmed all examples that may leave"),
    ],
)
def test_the_reason_is_that_of_the_site(changes: dict[str, object], said: str) -> None:
    """Nothing collected, nothing allowed to leave, nothing reviewed, nothing kept, and all confirmed differ."""
    assert said in explain_empty_export(dataclasses.replace(COLLECTING, **changes), {})


def test_a_site_that_keeps_no_examples_says_so() -> None:
    """The daemon reports no examples at all where nothing is collected."""
    assert explain_empty_export(None, {}).startswith("No examples are kept here")


def test_the_command_works_for_the_user_who_typed_sudo() -> None:
    """After 'sudo edge-agent media export' the next command needs sudo, too."""
    assert "'sudo edge-agent review'" in explain_empty_export(COLLECTING, {"SUDO_USER": "anna"})
