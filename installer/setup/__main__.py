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

exit codes: 0 done; 1 the new program does not run here, and what was there
before still does; 2 wrong usage; 3 something on this machine (no root, no
Python, disk full); 4 another setup is running, try again; 5 the installer file
is damaged, nothing was run; 130 interrupted
"""
_COMMANDS = {
    "install": "what the installer file does when it is given no command",
    "status": "what is installed, and whether it is undamaged",
    "rollback": "go back to the program before",
    "uninstall": "remove the program; keep configuration and state",
    "purge": "remove everything, configuration, state and keys too",
}
_NAME_THE_FILE = "Name the enrolment file that the central team made for this site."


def parser() -> argparse.ArgumentParser:
    """Return what understands the arguments."""
    commands = "\n".join(f"  {name:<10} {said}" for name, said in _COMMANDS.items())
    parsing = argparse.ArgumentParser(
        prog="edge-agent-setup",
        description=f"Install Edge Agent, or look after its installation.\n\ncommands:\n{commands}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parsing.add_argument("command", nargs="?", choices=list(_COMMANDS), metavar="COMMAND", help="see above")
    parsing.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="install below DIR, to try it")
    parsing.add_argument("--no-start", action="store_true", help="start and restart nothing")
    parsing.add_argument(
        "--kit", type=Path, metavar="FILE", help="enrol this site with the enrolment file from the central team"
    )
    parsing.add_argument(
        "--code", default="", metavar="CODE", help="the code of the enrolment file, as the central team reads it out"
    )
    parsing.add_argument("--yes", action="store_true", help="ask nothing: not before purge, not about the code")
    parsing.add_argument("--json", action="store_true", help="status for programs")
    parsing.add_argument("--payload", type=Path, help=argparse.SUPPRESS)
    parsing.add_argument("--installed", type=Path, help=argparse.SUPPRESS)
    return parsing


def run(given: argparse.Namespace) -> int:
    """Do what was asked; return the exit code. Raises SetupError, OSError."""
    places = InstallPaths(_root(given))
    setup = SetupRun(places, Services(places, wanted=not given.no_start), InstalledPrograms(places))
    command = given.command or _usual(given)
    if command == "status":
        return setup.status(as_json=given.json)
    if not places.trial:
        target_machine.check_root(target_machine.this_machine())
    if given.kit and not given.kit.is_file():
        raise SetupError(USAGE, f"there is no file {given.kit}", f"Nothing was changed. {_NAME_THE_FILE}")
    with _alone(places.lock):
        _change(setup, command, given)
        return setup.enrol(given.kit.absolute(), _for_enrol(given)) if given.kit else DONE


def _change(setup: SetupRun, command: str, given: argparse.Namespace) -> None:
    match command:
        case "install" if given.payload is None:
            raise SetupError(USAGE, "there is nothing here to install", "Run the installer file.")
        case "install":
            setup.install(payload.read_payload(given.payload))
        case "rollback":
            setup.rollback()
        case "uninstall":
            setup.uninstall()
        case "purge":
            setup.purge(agreed=given.yes)


def _for_enrol(given: argparse.Namespace) -> list[str]:
    return [*(["--code", given.code] if given.code else []), *(["--yes"] if given.yes else [])]


def _usual(given: argparse.Namespace) -> str:
    """Return the command that is meant when none is given."""
    if given.payload is not None:
        return "install"
    return "enrol" if given.kit else "status"


def _root(given: argparse.Namespace) -> Path:
    """Return the root of the installation: as given, or the one that this very program was installed in."""
    installed: Path | None = given.installed
    root: Path = given.root
    if installed is not None and root == Path("/"):
        return installed.resolve().parents[3]  # of ROOT/opt/edge-agent/venvs/NAME
    return root.absolute()


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold the lock; the kernel gives it back when this process ends, however it does. Raises SetupError."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            said = f"another edge-agent-setup is running here (process {file.read().strip() or 'unknown'})"
            raise SetupError(LATER, said, "Wait until it has ended, and run the same command again.") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)


def main() -> int:
    """Run, and turn what goes wrong into a sentence and an exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    os.umask(0o022)
    try:
        return run(parser().parse_args())
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
