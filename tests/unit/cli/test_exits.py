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
def test_each_family_of_errors_has_its_exit_code(expected, error):
    """An error ends with the exit code of its family, whether it was raised here or received from the daemon."""
    assert expected == exit_code_of(error)
    if error is not errors.SiteError:
        assert expected == exit_code(error.reason)


def test_only_model_failures_map_to_exit_code_failed():
    """Only the reasons of model failures map to `FAILED`, so a new error without a family is noticed."""
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
def test_client_and_grpc_reasons_have_exit_codes(expected, reason):
    """The client's own reasons and gRPC's status codes are mapped; an unknown reason is `FAILED`."""
    assert expected == exit_code(reason)


def test_document_lists_every_exit_code():
    """docs/exit-codes.md has a row for each exit code."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [] == [code for code in ExitCode if f"\n| {code.value} | " not in text]


def test_every_exit_code_has_a_default_remedy():
    """Each exit code except 0 has a default remedy for errors that have none."""
    assert set(ExitCode) - {ExitCode.OK} == set(REMEDIES)


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENAMETOOLONG, errno.EIO])
def test_unusable_path_is_reported_with_exit_code_3(capsys: pytest.CaptureFixture[str], code: int):
    """An error of the operating system about a path ends with 3, and the message has the path and a remedy instead of a
    traceback."""
    with pytest.raises(typer.Exit) as ended, reported_errors(_context()):
        raise OSError(code, os.strerror(code), "/media/usb/bundle")
    said = capsys.readouterr().err
    assert (ExitCode.SITE, True) == (ended.value.exit_code, f"error: /media/usb/bundle: {os.strerror(code)}" in said)
    assert "what to do: " in said


@pytest.mark.parametrize("code", [errno.ECONNREFUSED, errno.EACCES])
def test_system_error_without_path_is_raised(code: int):
    """An error of the operating system without a path is raised with its traceback, because the message alone would not
    identify the file or socket."""
    with pytest.raises(OSError, match=os.strerror(code)), reported_errors(_context()):
        raise OSError(code, os.strerror(code))


@pytest.mark.parametrize(
    "arguments",
    [("run", "x" * 300, "hello"), ("demo", "x" * 300), ("config", "path", "--config", "x" * 300)],
)
def test_too_long_file_name_ends_with_3(arguments: tuple[str, ...]):
    """A file name that is too long ends with 3 and the system's message, without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "edge_agent.cli", *arguments], capture_output=True, text=True, check=False
    )
    assert (ExitCode.SITE, False) == (done.returncode, "Traceback" in done.stderr), done.stderr
    assert "File name too long" in done.stderr


def test_token_limit_beyond_the_api_range_is_wrong_usage():
    """`generate --output-tokens-max` with a number above the API's range ends with 2 without a traceback; no daemon is
    needed."""
    words = ["generate", "assistant", "hello", "--output-tokens-max", str(10**30)]
    done = subprocess.run([sys.executable, "-m", "edge_agent.cli", *words], capture_output=True, text=True, check=False)
    assert (ExitCode.USAGE, False) == (done.returncode, "Traceback" in done.stderr), done.stderr


def _context() -> typer.Context:
    return typer.Context(typer.main.get_command(typer.Typer(callback=lambda: None)))
