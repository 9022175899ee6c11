"""Exit codes: one for each family of errors."""

from pathlib import Path

import pytest

from edge_agent import errors
from edge_agent.cli.exits import REMEDIES, ExitCode, exit_code, exit_code_of

DOCUMENT = Path(__file__).parents[3] / "docs" / "exit-codes.md"


@pytest.mark.parametrize(
    ("expected", "error"),
    [
        (ExitCode.FAILED, errors.ModelFailed),
        (ExitCode.USAGE, errors.UnknownTask),
        (ExitCode.USAGE, errors.NothingToRollBack),
        (ExitCode.SITE, errors.ConfigInvalid),
        (ExitCode.SITE, errors.SiteError),
        (ExitCode.TRY_LATER, errors.QueueFull),
        (ExitCode.TRY_LATER, errors.DeadlineExpired),
        (ExitCode.REFUSED, errors.HashMismatch),
        (ExitCode.REFUSED, errors.SignatureInvalid),
    ],
)
def test_each_family_of_errors_has_its_code(expected, error):
    """The code says who must act, whether the error was raised here or came over the wire."""
    assert expected == exit_code_of(error)
    if error is not errors.SiteError:
        assert expected == exit_code(error.reason)


def test_every_reason_but_the_models_has_a_code_of_its_family():
    """No new error falls through to 'failed' unnoticed."""
    failed = {reason for reason in errors.BY_REASON if exit_code(reason) is ExitCode.FAILED}
    assert {"MODEL_LOAD_FAILED", "MODEL_FAILED", "ENGINE_CRASHED", "INPUT_QUARANTINED"} == failed


@pytest.mark.parametrize(
    ("expected", "reason"),
    [
        (ExitCode.SITE, "UNREACHABLE"),
        (ExitCode.USAGE, "MESSAGE_TOO_LARGE"),
        (ExitCode.TRY_LATER, "RESOURCE_EXHAUSTED"),
        (ExitCode.USAGE, "INVALID_ARGUMENT"),
        (ExitCode.FAILED, "SOMETHING_NEW"),
    ],
)
def test_reasons_that_the_daemon_does_not_write_have_codes_too(expected, reason):
    """The client's own reasons and gRPC's are mapped; an unknown one is a failure."""
    assert expected == exit_code(reason)


def test_the_document_lists_every_code():
    """docs/exit-codes.md has a row for each code."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [] == [code for code in ExitCode if f"\n| {code.value} | " not in text]


def test_every_code_has_a_remedy():
    """An error that does not say what to do is given the words of its code."""
    assert set(ExitCode) - {ExitCode.OK} == set(REMEDIES)
