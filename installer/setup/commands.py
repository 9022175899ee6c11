"""What the commands do, step by step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from installer.setup import durable_files, install_report, installed_files, program_build, target_machine
from installer.setup.errors import DONE, FAILED, MACHINE, USAGE, SetupError
from installer.setup.install_paths import SERVE, UPLINK, InstallPaths
from installer.setup.payload import Payload
from installer.setup.programs import InstalledProgram, InstalledPrograms, drop, has_its_python, read_program
from installer.setup.screen import Stopwatch, done, note, say, size
from installer.setup.services import Services, accounts


@dataclass(frozen=True)
class SetupRun:
    """One run of edge-agent-setup."""

    places: InstallPaths
    services: Services
    programs: InstalledPrograms

    def install(self, payload: Payload) -> None:
        """Install or upgrade; the same again repairs. Raises SetupError, OSError."""
        here = target_machine.this_machine()
        say(f"Edge Agent {payload.version} ({payload.variant}), under Python {here.python} at {here.interpreter}")
        free = target_machine.free_below(self.places.home)
        target_machine.check(here, payload, free)
        if not self.places.trial:
            target_machine.check_shared(here.interpreter)
        done(f"this machine: {here.architecture}, glibc {target_machine.dotted(here.glibc)}, {size(free)} free")
        before = self.programs.current
        program = self._make(payload, here)
        changed = self._switch(program, before)
        gone = self.programs.prune()
        if gone:
            done(f"removed what is older: {', '.join(gone)}")
        self._say_what_next(program, before, changed=changed)

    def _make(self, payload: Payload, here: target_machine.TargetMachine) -> InstalledProgram:
        folder, program = self.programs.find(payload, here)
        if program:
            done(f"the program {program.name} is there already, and undamaged")
            return program
        watch = Stopwatch()
        drop(folder)  # what a stopped setup left
        try:
            program_build.build_program(folder, payload, here)
            done(f"made the program {folder.name} ({watch})")
            done(f"it runs here: {'; '.join(program_build.test_program(folder, payload))}")
            program_build.complete_program(folder, payload, here)
        finally:
            if read_program(folder) is None:  # failed, or was interrupted
                drop(folder)
        _, program = self.programs.find(payload, here)
        if program is None:
            said = "the new program was damaged while it was written"
            raise SetupError(FAILED, said, "Nothing was changed. Check the disk: 'dmesg' may say more.")
        return program

    def _switch(self, program: InstalledProgram, before: InstalledProgram | None) -> bool:
        """Make a program the program; tell whether that changed anything."""
        self.programs.activate(program)
        if before is None:
            done(f"the program is now {program.title}")
        elif before.name != program.name:
            done(f"switched from {before.title} to {program.title}")
        try:
            return self._bring_up(program, before)
        except SetupError as error:
            if before is None or before.name == program.name or self.programs.previous is None:
                raise
            note(f"the new program does not come up; going back to {before.title}")
            self._bring_up(self.programs.go_back(), program)
            raise SetupError(error.code, error.message, f"{before.title} runs again. {error.remedy}") from None

    def _bring_up(self, program: InstalledProgram, before: InstalledProgram | None) -> bool:
        """Lay a program's files and start its services; tell whether anything was to be changed.

        Services that run unchanged, with nothing laid or made for them, are left alone.
        """
        same = before is not None and before.name == program.name
        settled = same and self.services.run_unchanged(program)
        changed = self._lay(program, before)
        if settled and not changed:
            done("the services run from this program already: they were not restarted")
            return False
        self.services.start(installed_files.unit_names(program))
        return changed or not same or self.services.acts

    def _lay(self, program: InstalledProgram, before: InstalledProgram | None) -> bool:
        """Lay a program's files, and make the users and folders that they name; tell whether anything changed."""
        known = accounts()
        laid = installed_files.install_files(self.places, program, before)
        for path in laid.aside:
            note(f"{path} had been edited: the old text is beside it, in {path.name}.edited (a drop-in would last)")
        configured = installed_files.install_configuration(self.places, program)
        if configured:
            done(f"wrote the sample configuration, {self.places.config / 'agent.yaml'}")
        done("installed units and man pages" if laid.changed else "units and man pages are unchanged")
        for made in self.services.prepare():
            done(made)
        return laid.changed or configured or known != accounts()

    def _say_what_next(self, program: InstalledProgram, before: InstalledProgram | None, *, changed: bool) -> None:
        if self.services.acts:
            state, enabled = self.services.state(SERVE)
            done(f"{SERVE} is {state}, {enabled}")
        elif not self.places.trial:
            note("systemd does not run here, or --no-start was given: nothing was started")
        if before is None:
            if self.services.acts and (said := disabled_uplink(self.places, self.services.state(UPLINK)[1])):
                note(said)
            say(f"Installed. Next: edge-agent doctor; the configuration is {self.places.config / 'agent.yaml'}.")
        else:
            said = f"Done: {program.title}." if changed else f"Nothing to change: {program.title} is installed."
            say(f"{said} {self._way_back()}".rstrip())

    def _way_back(self) -> str:
        """Say how to go back to the program before; empty where there is none."""
        before = self.programs.previous
        return f"'sudo edge-agent-setup rollback' goes back to {before.title}." if before else ""

    def rollback(self) -> None:
        """Go back to the program before."""
        now = self.programs.current
        self.programs.go_back()
        program = self.programs.current
        assert program is not None
        try:
            self._bring_up(program, now)
        except SetupError as error:
            raise SetupError(error.code, error.message, f"{error.remedy} {self._way_back()}".rstrip()) from None
        say(f"The program is now {program.title}. {self._way_back()}".rstrip())

    def uninstall(self) -> None:
        """Remove the program; state and configuration stay."""
        self._remove_program()
        kept = self.places.kept
        if not kept:
            say("Removed. Nothing was kept.")
            return
        say("Removed. Kept:")
        for path in kept:
            say(f"  {path}")
        say("'sudo sh FILE.run purge', with any installer file, removes these too.")

    def purge(self, *, agreed: bool) -> None:
        """Remove the program, the configuration, the state, the keys, the users. Raises SetupError if one stays."""
        kept = self.places.kept
        links = {path: path.resolve() for path in kept if path.is_symlink()}
        for path in kept:
            leads = f"a link to {links[path]}, which stays" if path in links else size(durable_files.size_of(path))
            say(f"  {path}  {leads}")
        if not agreed and not _asked(
            "This removes the program and all of the above, for good. Type 'purge' to go on: "
        ):
            raise SetupError(USAGE, "nothing was removed", "'purge --yes' does not ask.")
        self._remove_program()
        for path in kept:
            durable_files.remove(path)
        staying = self.services.remove_users()
        _end_purge([*_left_paths(kept, links), *staying])
        if staying:
            said = "users or groups of Edge Agent are still there"
            raise SetupError(
                FAILED, said, "End what the notes name, then run 'sudo sh FILE.run purge', with any installer file."
            )

    def _remove_program(self) -> None:
        self.services.stop()
        installed_files.remove_files(self.places)
        done("stopped the services; removed units, man pages and commands")
        for path in (self.places.current, self.places.previous, self.places.home):
            durable_files.remove(path)
        self.services.forget()
        done(f"removed {self.places.home}")

    def status(self, *, as_json: bool) -> int:
        """Say what is installed, and whether it is what was installed; return the exit code."""
        program = self.programs.current
        if program is None:
            raise SetupError(MACHINE, "edge-agent is not installed", "Run the installer file.")
        found = install_report.look(self.places, self.services, self.programs.previous, program)
        say(install_report.as_json(found) if as_json else install_report.as_text(found))
        if found.damaged:
            count = len(found.damaged)
            said = "1 file is not what was installed" if count == 1 else f"{count} files are not what was installed"
            raise SetupError(FAILED, said, "Run the installer file of this version again: it makes the program again.")
        if not has_its_python(program):
            said = f"the program does not run: it was made for Python {program.python}, which is gone from this machine"
            raise SetupError(FAILED, said, "Run the installer file again: settings and data stay.")
        return DONE

    def enrol(self, kit: Path, options: Sequence[str]) -> int:
        """Hand an enrolment file to the installed program; return its exit code."""
        command = [str(self.places.current / "bin/edge-agent"), "enrol", str(kit), *options]
        if self.places.trial:
            command += ["--etc", str(self.places.config.parent)]
        if not self.services.running or not self.services.wanted:
            command.append("--no-restart")
        return subprocess.run(command, check=False).returncode  # noqa: S603 - our own program


def disabled_uplink(places: InstallPaths, state: str) -> str:
    """Return what to run where the uplink of a site that was enrolled before an uninstall does not start; else empty.

    It opens the network, so only a person enables it again. site.yaml is the one that enrolment wrote.
    """
    site = places.config / "site.yaml"
    if state != "disabled" or not site.is_file() or "url: " not in site.read_text(encoding="utf-8", errors="replace"):
        return ""
    return f"this site was enrolled before, and {UPLINK} is disabled: sudo systemctl enable --now {UPLINK}"


def _asked(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    sys.stdout.write(question)
    sys.stdout.flush()
    return sys.stdin.readline().strip() == "purge"


def _left_paths(kept: Sequence[Path], links: Mapping[Path, Path]) -> Iterator[str]:
    for path in filter(Path.exists, kept):
        yield f"{path} is emptied and stays, because a disk is mounted there: sudo umount {path}"
    for path, target in links.items():
        yield f"{path} was a link to {target}, which stays: remove it yourself"


def _end_purge(notes: Sequence[str]) -> None:
    for each in notes:
        note(each)
    say("Removed everything else." if notes else "Removed everything.")
