"""Exit codes: one for each family of errors."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from edge_agent import errors
from edge_agent.cli.exits import REMEDIES, ExitCode, exit_code, exit_code_of, reported_errors

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


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENAMETOOLONG, errno.EIO])
def test_a_path_that_cannot_be_used_is_named_without_a_traceback(capsys: pytest.CaptureFixture[str], code: int):
    """A file of another user and a drive that fails are facts of this machine, with what to do."""
    with pytest.raises(typer.Exit) as ended, reported_errors(_context()):
        raise OSError(code, os.strerror(code), "/media/usb/bundle")
    said = capsys.readouterr().err
    assert (ExitCode.SITE, True) == (ended.value.exit_code, f"error: /media/usb/bundle: {os.strerror(code)}" in said)
    assert "what to do: " in said


@pytest.mark.parametrize("code", [errno.ECONNREFUSED, errno.EACCES])
def test_an_error_of_no_path_is_a_bug(code: int):
    """Its traceback is shown: nobody could tell which socket or file it is."""
    with pytest.raises(OSError, match=os.strerror(code)), reported_errors(_context()):
        raise OSError(code, os.strerror(code))


@pytest.mark.parametrize(
    "arguments",
    [("run", "x" * 300, "hello"), ("demo", "x" * 300), ("config", "path", "--config", "x" * 300)],
)
def test_a_name_that_is_too_long_is_no_traceback(arguments: tuple[str, ...]):
    """The system's sentence stands on standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "edge_agent.cli", *arguments], capture_output=True, text=True, check=False
    )
    assert (ExitCode.SITE, False) == (done.returncode, "Traceback" in done.stderr), done.stderr
    assert "File name too long" in done.stderr


def test_more_tokens_than_any_number_of_the_api_is_wrong_usage():
    """The range is named; no daemon is needed for that."""
    words = ["generate", "assistant", "hello", "--output-tokens-max", str(10**30)]
    done = subprocess.run([sys.executable, "-m", "edge_agent.cli", *words], capture_output=True, text=True, check=False)
    assert (ExitCode.USAGE, False) == (done.returncode, "Traceback" in done.stderr), done.stderr


def _context() -> typer.Context:
    return typer.Context(typer.main.get_command(typer.Typer(callback=lambda: None)))
