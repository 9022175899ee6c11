"""The commands of edge-agent-setup, step by step."""

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
from installer.setup.programs import InstalledProgram, InstalledPrograms, has_its_python, read_program, remove_program
from installer.setup.screen import Stopwatch, done, note, say, size
from installer.setup.services import Services, accounts


@dataclass(frozen=True)
class SetupRun:
    """One run of edge-agent-setup."""

    paths: InstallPaths
    services: Services
    programs: InstalledPrograms

    def install(self, payload: Payload) -> None:
        """Install, upgrade, or repair the same version. Raises SetupError, OSError."""
        here = target_machine.this_machine()
        say(f"Edge Agent {payload.version} ({payload.variant}), under Python {here.python} at {here.interpreter}")
        free = target_machine.free_below(self.paths.home)
        target_machine.check(here, payload, free)
        if not self.paths.trial:
            target_machine.check_shared(here.interpreter)
        done(f"this machine: {here.architecture}, glibc {target_machine.dotted(here.glibc)}, {size(free)} free")
        before = self.programs.current
        program = self._make(payload, here)
        changed = self._switch(program, before)
        removed = self.programs.prune()
        if removed:
            done(f"removed older programs: {', '.join(removed)}")
        self._report_result(program, before, changed=changed)

    def _make(self, payload: Payload, here: target_machine.TargetMachine) -> InstalledProgram:
        folder, program = self.programs.find(payload, here)
        if program:
            done(f"the program {program.name} is already there, and undamaged")
            return program
        watch = Stopwatch()
        remove_program(folder)  # left by a setup that was stopped
        try:
            program_build.build_program(folder, payload, here)
            done(f"made the program {folder.name} ({watch})")
            done(f"it runs here: {'; '.join(program_build.test_program(folder, payload))}")
            program_build.complete_program(folder, payload, here)
        finally:
            if read_program(folder) is None:  # failed, or was interrupted
                remove_program(folder)
        _, program = self.programs.find(payload, here)
        if program is None:
            message = "the new program was damaged while it was written"
            raise SetupError(FAILED, message, "Nothing was changed. Check the disk: 'dmesg' may say more.")
        return program

    def _switch(self, program: InstalledProgram, before: InstalledProgram | None) -> bool:
        """Make a program the current one; return whether that changed anything."""
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
            note(f"the new program does not start; going back to {before.title}")
            self._bring_up(self.programs.go_back(), program)
            raise SetupError(error.code, error.message, f"{before.title} runs again. {error.remedy}") from None

    def _bring_up(self, program: InstalledProgram, before: InstalledProgram | None) -> bool:
        """Install a program's files and start its services; return whether anything changed.

        If neither the program nor a file of it changed, running services are not restarted.
        """
        same = before is not None and before.name == program.name
        up_to_date = same and self.services.run_unchanged(program)
        changed = self._install_files(program, before)
        if up_to_date and not changed:
            done("the services already run from this program: they were not restarted")
            return False
        self.services.start(installed_files.unit_names(program))
        return changed or not same or self.services.acts

    def _install_files(self, program: InstalledProgram, before: InstalledProgram | None) -> bool:
        """Install a program's files, users and folders; return whether anything changed."""
        accounts_before = accounts()
        installed = installed_files.install_files(self.paths, program, before)
        for path in installed.edited:
            note(f"{path} was edited: its old text is now in {path.name}.edited (to keep a change, use a drop-in)")
        configured = installed_files.install_configuration(self.paths, program)
        if configured:
            done(f"wrote the sample configuration, {self.paths.config / 'agent.yaml'}")
        done("installed units and man pages" if installed.changed else "units and man pages are unchanged")
        for step in self.services.prepare():
            done(step)
        return installed.changed or configured or accounts_before != accounts()

    def _report_result(self, program: InstalledProgram, before: InstalledProgram | None, *, changed: bool) -> None:
        if self.services.acts:
            state, enabled = self.services.state(SERVE)
            done(f"{SERVE} is {state}, {enabled}")
        elif not self.paths.trial:
            note("nothing was started, because systemd does not run here or --no-start was given")
        if before is None:
            if self.services.acts and (hint := disabled_uplink(self.paths, self.services.state(UPLINK)[1])):
                note(hint)
            say(f"Installed. Next: edge-agent doctor; the configuration is {self.paths.config / 'agent.yaml'}.")
        else:
            message = f"Done: {program.title}." if changed else f"Nothing to change: {program.title} is installed."
            say(f"{message} {self._rollback_hint()}".rstrip())

    def _rollback_hint(self) -> str:
        """Return how to go back to the previous program; empty if there is none."""
        before = self.programs.previous
        return f"'sudo edge-agent-setup rollback' goes back to {before.title}." if before else ""

    def rollback(self) -> None:
        """Go back to the previous program."""
        before = self.programs.current
        self.programs.go_back()
        program = self.programs.current
        assert program is not None
        try:
            self._bring_up(program, before)
        except SetupError as error:
            raise SetupError(error.code, error.message, f"{error.remedy} {self._rollback_hint()}".rstrip()) from None
        say(f"The program is now {program.title}. {self._rollback_hint()}".rstrip())

    def uninstall(self) -> None:
        """Remove the program; state and configuration stay."""
        self._remove_program()
        kept = self.paths.kept
        if not kept:
            say("Removed. Nothing was kept.")
            return
        say("Removed. Kept:")
        for path in kept:
            say(f"  {path}")
        say("'sudo sh FILE.run purge', with any installer file, removes these too.")

    def purge(self, *, agreed: bool) -> None:
        """Remove the program, the configuration, the state, the keys, the users. Raises SetupError if one stays."""
        kept = self.paths.kept
        links = {path: path.resolve() for path in kept if path.is_symlink()}
        for path in kept:
            shown = f"a link to {links[path]}, which stays" if path in links else size(durable_files.size_of(path))
            say(f"  {path}  {shown}")
        if not agreed and not _confirmed(
            "This removes the program and all of the above, for good. Type 'purge' to continue: "
        ):
            raise SetupError(USAGE, "nothing was removed", "'purge --yes' does not ask.")
        self._remove_program()
        for path in kept:
            durable_files.remove(path)
        staying = self.services.remove_users()
        _end_purge([*_left_paths(kept, links), *staying])
        if staying:
            message = "users or groups of Edge Agent are still there"
            raise SetupError(
                FAILED, message, "Fix what the notes name, then run 'sudo sh FILE.run purge', with any installer file."
            )

    def _remove_program(self) -> None:
        self.services.stop()
        installed_files.remove_files(self.paths)
        done("stopped the services; removed units, man pages and commands")
        for path in (self.paths.current, self.paths.previous, self.paths.home):
            durable_files.remove(path)
        self.services.reload_units()
        done(f"removed {self.paths.home}")

    def status(self, *, as_json: bool) -> int:
        """Print what is installed, and whether a file of it is damaged; return the exit code."""
        program = self.programs.current
        if program is None:
            raise SetupError(MACHINE, "edge-agent is not installed", "Run the installer file.")
        report = install_report.read_report(self.paths, self.services, self.programs.previous, program)
        say(install_report.as_json(report) if as_json else install_report.as_text(report))
        if report.damaged:
            count = len(report.damaged)
            message = "1 file is damaged or missing" if count == 1 else f"{count} files are damaged or missing"
            raise SetupError(FAILED, message, "Run the installer file of this version again: it repairs the program.")
        if not has_its_python(program):
            message = f"the program does not run: its Python {program.python} is no longer on this machine"
            raise SetupError(FAILED, message, "Run the installer file again: configuration and data stay.")
        return DONE

    def enrol(self, kit: Path, options: Sequence[str]) -> int:
        """Hand an enrolment file to the installed program; return its exit code."""
        command = [str(self.paths.current / "bin/edge-agent"), "enrol", str(kit), *options]
        if self.paths.trial:
            command += ["--etc", str(self.paths.config.parent)]
        if not self.services.running or not self.services.starts_units:
            command.append("--no-restart")
        return subprocess.run(command, check=False).returncode  # noqa: S603 - our own program


def disabled_uplink(paths: InstallPaths, state: str) -> str:
    """Return the command that starts the uplink of a site enrolled before an uninstall; empty if it is not disabled.

    The uplink uses the network, so only a person enables it again. site.yaml is the file that enrolment wrote.
    """
    site = paths.config / "site.yaml"
    if state != "disabled" or not site.is_file() or "url: " not in site.read_text(encoding="utf-8", errors="replace"):
        return ""
    return f"this site was enrolled before, and {UPLINK} is disabled: sudo systemctl enable --now {UPLINK}"


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    sys.stdout.write(question)
    sys.stdout.flush()
    return sys.stdin.readline().strip() == "purge"


def _left_paths(kept: Sequence[Path], links: Mapping[Path, Path]) -> Iterator[str]:
    for path in filter(Path.exists, kept):
        yield f"{path} was emptied and stays, because a disk is mounted there: sudo umount {path}"
    for path, target in links.items():
        yield f"{path} was a link to {target}, which stays: remove it yourself"


def _end_purge(notes: Sequence[str]) -> None:
    for each in notes:
        note(each)
    say("Removed everything else." if notes else "Removed everything.")
