"""The command line of edge-agent-setup and of the installer file."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from installer.setup import payload, target_machine
from installer.setup.commands import SetupRun
from installer.setup.errors import DONE, INTERRUPTED, LATER, USAGE, SetupError, from_os_error
from installer.setup.install_paths import InstallPaths
from installer.setup.programs import InstalledPrograms
from installer.setup.services import Services

_EPILOG = """\
Run the installer file of any version to install, upgrade or repair it; that is
the command 'install'.

exit codes: 0 done; 1 the new program does not run here, and the previous one
is unchanged; 2 wrong usage; 3 a problem of this machine (no root, no Python,
disk full); 4 another setup is running, try again; 5 the installer file
is damaged, nothing was run; 130 interrupted
"""
_COMMANDS = {
    "install": "install, upgrade or repair; the default of the installer file",
    "status": "show what is installed, and check its files",
    "rollback": "go back to the previous program",
    "uninstall": "remove the program; keep configuration and state",
    "purge": "remove everything, including configuration, state and keys",
}
_NAME_THE_FILE = "Name the enrolment file that the central team made for this site."


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    commands = "\n".join(f"  {name:<10} {purpose}" for name, purpose in _COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="edge-agent-setup",
        description=f"Install Edge Agent, or look after its installation.\n\ncommands:\n{commands}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=list(_COMMANDS), metavar="COMMAND", help="see above")
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="install below DIR, as a trial")
    parser.add_argument("--no-start", action="store_true", help="start and restart nothing")
    parser.add_argument(
        "--kit", type=Path, metavar="FILE", help="enrol this site with the enrolment file from the central team"
    )
    parser.add_argument(
        "--code", default="", metavar="CODE", help="the code of the enrolment file, as the central team reads it out"
    )
    parser.add_argument("--yes", action="store_true", help="ask for no confirmation, of a purge or of the code")
    parser.add_argument("--json", action="store_true", help="print the status as JSON")
    parser.add_argument("--payload", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--installed", type=Path, help=argparse.SUPPRESS)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit code. Raises SetupError, OSError."""
    paths = InstallPaths(_root(arguments))
    setup = SetupRun(paths, Services(paths, starts_units=not arguments.no_start), InstalledPrograms(paths))
    command = arguments.command or _default_command(arguments)
    if command == "status":
        return setup.status(as_json=arguments.json)
    if not paths.trial:
        target_machine.check_root(target_machine.this_machine())
    if arguments.kit and not arguments.kit.is_file():
        raise SetupError(USAGE, f"there is no file {arguments.kit}", f"Nothing was changed. {_NAME_THE_FILE}")
    with _exclusive_lock(paths.lock):
        _change(setup, command, arguments)
        return setup.enrol(arguments.kit.absolute(), _enrol_options(arguments)) if arguments.kit else DONE


def _change(setup: SetupRun, command: str, arguments: argparse.Namespace) -> None:
    match command:
        case "install" if arguments.payload is None:
            raise SetupError(USAGE, "there is no unpacked installer to install from", "Run the installer file.")
        case "install":
            setup.install(payload.read_payload(arguments.payload))
        case "rollback":
            setup.rollback()
        case "uninstall":
            setup.uninstall()
        case "purge":
            setup.purge(agreed=arguments.yes)


def _enrol_options(arguments: argparse.Namespace) -> list[str]:
    return [*(["--code", arguments.code] if arguments.code else []), *(["--yes"] if arguments.yes else [])]


def _default_command(arguments: argparse.Namespace) -> str:
    """Return the command to run when none is given."""
    if arguments.payload is not None:
        return "install"
    return "enrol" if arguments.kit else "status"


def _root(arguments: argparse.Namespace) -> Path:
    """Return the root of the installation: as given, or the one that contains this program."""
    installed: Path | None = arguments.installed
    root: Path = arguments.root
    if installed is not None and root == Path("/"):
        return installed.resolve().parents[3]  # of ROOT/opt/edge-agent/venvs/NAME
    return root.absolute()


@contextlib.contextmanager
def _exclusive_lock(lock: Path) -> Iterator[None]:
    """Hold the lock; the kernel releases it when this process ends, for whatever reason. Raises SetupError."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            message = f"another edge-agent-setup is running here (process {file.read().strip() or 'unknown'})"
            raise SetupError(LATER, message, "Wait until it has ended, and run the same command again.") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)


def main() -> int:
    """Run the command; report an error as a message and an exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    os.umask(0o022)
    try:
        return run(build_parser().parse_args())
    except OSError as error:
        return _report(from_os_error(error))
    except SetupError as error:
        return _report(error)
    except KeyboardInterrupt:
        return _report(
            SetupError(INTERRUPTED, "interrupted", "Run the same command again: it continues where it was stopped.")
        )


def _report(error: SetupError) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"error: {error.message}\nwhat to do: {error.remedy}\n")
    return error.code


if __name__ == "__main__":
    sys.exit(main())
