"""The installer file and edge-agent-setup, executed for real below a folder."""

from __future__ import annotations

import fcntl
import json
import sys
from pathlib import Path

import pytest

from tests.support.installer_cases import PYTHON, Site, installer, needs_pip

pytestmark = [needs_pip, pytest.mark.skipif(sys.platform != "linux", reason="an installer for Linux")]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "root")


@pytest.mark.slow
def test_install_upgrade_rollback_and_uninstall(tmp_path: Path, site: Site):
    """A first file installs and a second one upgrades; rollback switches between both versions; uninstall keeps the
    configuration."""
    first, second = installer(tmp_path, "1.0"), installer(tmp_path, "2.0", {"systemd/edge-uplink.service": "[Unit]\n"})
    assert (0, "") == ((done := site.run(first)).returncode, done.stderr)
    assert "edge-agent 1.0" == site.version()
    (site.root / "etc/edge-agent/agent.yaml").write_text("# mine\n")
    assert 0 == site.run(second).returncode
    assert ("edge-agent 2.0", "# mine\n") == (site.version(), site.read("etc/edge-agent/agent.yaml"))
    uplink = site.root / "etc/systemd/system/edge-uplink.service"
    assert (0, "edge-agent 1.0", False) == (site.setup("rollback").returncode, site.version(), uplink.exists())
    assert (0, "edge-agent 2.0", True) == (site.setup("rollback").returncode, site.version(), uplink.exists())
    again = site.run(second).stdout
    assert ("Nothing to change: 2.0", "goes back to 1.0") == tuple(
        said for said in ("Nothing to change: 2.0", "goes back to 1.0") if said in again
    )
    status = json.loads(site.setup("status", "--json").stdout)
    assert ("2.0", "1.0", "x64", []) == (
        status["program"]["version"],
        status["previous"]["version"],
        status["cpu_variant"],
        status["damaged"],
    )
    removed = site.setup("uninstall")
    assert (0, True) == (removed.returncode, "etc/edge-agent" in removed.stdout)
    assert (False, "# mine\n") == (uplink.exists(), site.read("etc/edge-agent/agent.yaml"))
    assert (2, True) == (site.run(second, "purge").returncode, (site.root / "etc/edge-agent").exists())
    assert (0, False) == (site.run(second, "purge", "--yes").returncode, (site.root / "etc/edge-agent").exists())


@pytest.mark.release
def test_second_install_changes_nothing_or_repairs_damage(tmp_path: Path, site: Site):
    """Running the same installer again keeps the program; if status names a damaged file, it rebuilds the program next
    to it."""
    file = installer(tmp_path)
    site.run(file)
    before = site.programs()
    again = site.run(file).stdout
    assert (True, True, False) == tuple(said in again for said in ("already there", "Nothing to change", "rollback"))
    assert before == site.programs()
    damage_program(site)
    assert (1, True) == ((said := site.setup("status")).returncode, "edge_agent/cli.py" in said.stdout)
    assert (0, "edge-agent 1.0") == (site.run(file).returncode, site.version())
    assert 0 == site.setup("status").returncode


def replace_python(program: Path) -> None:
    """Replace the Python of a program by another version, as an upgrade of the system does."""
    python = program / "bin/python"
    python.unlink()
    python.write_text("#!/bin/sh\necho 3.10\n")
    python.chmod(0o755)


def damage_program(site: Site) -> None:
    """Damage a module of the program in use, as a failing disk does."""
    [module] = site.current.resolve().glob("lib/python*/site-packages/edge_agent/cli.py")
    module.write_text("spoilt")


def test_damaged_unit_is_reported_and_not_installed(tmp_path: Path, site: Site):
    """status names a damaged unit in the program, and the same installer rebuilds the program instead of installing
    that unit."""
    file = installer(tmp_path)
    site.run(file)
    (site.current.resolve() / "share/systemd/edge-agent.service").write_text("spoilt")
    assert (1, True) == ((said := site.setup("status")).returncode, "share/systemd/edge-agent.service" in said.stdout)
    assert "1 file is damaged or missing" in said.stderr
    assert (0, 0) == (site.run(file).returncode, site.setup("status").returncode)
    assert "ExecStart" in site.read("etc/systemd/system/edge-agent.service")


@pytest.mark.slow
def test_damaged_program_is_not_kept_for_rollback(tmp_path: Path, site: Site):
    """An upgrade from a damaged program keeps the program before it; after a rollback from a damaged program no
    previous one remains."""
    for version in ("1.0", "2.0"):
        site.run(installer(tmp_path, version))
    damage_program(site)
    assert 0 == site.run(installer(tmp_path, "3.0")).returncode
    status = json.loads(site.setup("status", "--json").stdout)
    assert ("3.0", "1.0") == (status["program"]["version"], status["previous"]["version"])
    damage_program(site)
    assert (0, "edge-agent 1.0") == (site.setup("rollback").returncode, site.version())
    assert json.loads(site.setup("status", "--json").stdout)["previous"] is None
    assert not (site.current.parent / "previous").is_symlink()


@pytest.mark.slow
def test_status_reports_a_missing_python_after_a_system_upgrade(tmp_path: Path, site: Site):
    """If the Python version of a program is no longer on the machine, status fails and names it, and rollback does not
    offer that program."""
    for version in ("1.0", "2.0"):
        site.run(installer(tmp_path, version))
    replace_python(site.current)
    status = site.setup("status")
    assert (1, True) == (status.returncode, f"its Python {PYTHON} is no longer on this machine" in status.stderr)
    replace_python(site.current.parent / "previous")
    repaired = site.run(installer(tmp_path, "3.0"))
    assert (0, False) == (repaired.returncode, "rollback" in repaired.stdout), repaired.stdout
    assert (0, "edge-agent 3.0", 1) == (site.setup("status").returncode, site.version(), len(site.programs()))
    assert 3 == site.setup("rollback").returncode


def test_command_without_its_python_names_the_remedy(tmp_path: Path, site: Site):
    """If the program's Python version is missing, `edge-agent` exits with 3 and tells the user to run the installer
    file again."""
    assert 0 == site.run(installer(tmp_path)).returncode
    assert (0, "edge-agent 1.0") == (site.setup("status").returncode, site.version())
    packages = site.current.resolve() / f"lib/python{PYTHON}"
    packages.rename(packages.with_name("python3.10"))
    done = site.agent("status")
    message = f"error: the program does not run: its Python {PYTHON} is no longer on this machine\n"
    remedy = "what to do: run the installer file again: configuration and data stay\n"
    assert (3, "", message + remedy) == (done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
def test_uninstall_needs_no_readable_program(tmp_path: Path, site: Site):
    """uninstall removes units, files for users, man pages and commands even if the record of the program is
    unreadable."""
    file = installer(tmp_path, share={"systemd/edge-uplink.service": "[Unit]\n"})
    assert 0 == site.run(file).returncode
    (site.current.resolve() / "program.json").write_bytes(b"\0" * 100)
    assert 0 == site.run(file, "uninstall").returncode
    left = [path for path in site.root.rglob("*") if path.is_file() or path.is_symlink()]
    assert ["etc/edge-agent/agent.yaml", "run/edge-agent-setup.lock"] == sorted(
        str(path.relative_to(site.root)) for path in left
    )


@pytest.mark.release
def test_program_that_fails_its_tests_is_not_installed(tmp_path: Path, site: Site):
    """The new program's tests run before the switch: if one fails, the old program stays and nothing of the new one
    remains."""
    site.run(installer(tmp_path, "1.0"))
    kept = site.programs()
    broken = site.run(installer(tmp_path, "2.0", tests=[["-c", "raise SystemExit('illegal instruction')"]]))
    assert (1, True) == (broken.returncode, "illegal instruction" in broken.stderr)
    assert ("edge-agent 1.0", kept) == (site.version(), site.programs())


@pytest.mark.release
def test_only_the_current_and_the_previous_program_are_kept(tmp_path: Path, site: Site):
    """Installing a third version removes the first."""
    for version in ("1.0", "2.0", "3.0"):
        done = site.run(installer(tmp_path, version))
    assert (2, True) == (len(site.programs()), "removed older programs" in done.stdout)


def test_second_simultaneous_setup_is_refused(tmp_path: Path, site: Site):
    """While one setup runs, a second one exits with 4 and changes nothing."""
    lock = site.root / "run/edge-agent-setup.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = site.run(installer(tmp_path))
    assert (4, []) == (done.returncode, site.programs())


@pytest.mark.release
def test_edited_unit_is_kept_next_to_the_new_one(tmp_path: Path, site: Site):
    """An upgrade installs its unit, keeps the text of an edited unit in a `.edited` file, and reports it."""
    site.run(installer(tmp_path, "1.0"))
    unit = site.root / "etc/systemd/system/edge-agent.service"
    unit.write_text("[Service]\nNice=5\n")
    assert "was edited" in site.run(installer(tmp_path, "2.0")).stdout
    assert "Nice=5" in unit.with_name("edge-agent.service.edited").read_text()
    assert "ExecStart" in unit.read_text()


@pytest.mark.release
def test_kit_option_enrols_with_the_installed_program(tmp_path: Path, site: Site):
    """`--kit` enrols after the installation or alone, and the exit code is that of the installed program."""
    good, bad = tmp_path / "shop.kit", tmp_path / "holiday.jpg"
    good.write_text("kit")
    bad.write_text("beach")
    assert 0 == site.run(installer(tmp_path), "--kit", str(good)).returncode
    assert (0, 1, 2) == tuple(
        site.setup("--kit", str(enrolment)).returncode for enrolment in (good, bad, tmp_path / "none")
    )


def test_missing_enrolment_file_stops_the_installation(tmp_path: Path, site: Site):
    """If the enrolment file does not exist, the installer exits with 2 before it writes anything."""
    done = site.run(installer(tmp_path), "--kit", str(tmp_path / "none"))
    assert (2, True, []) == (done.returncode, "Nothing was changed" in done.stderr, site.programs())


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"glibc": "9.1"}, "needs glibc 9.1"),
        ({"machine": "riscv64"}, "is for riscv64"),
        ({"installed_bytes": {f"{sys.version_info.major}.{sys.version_info.minor}": 1 << 60}}, "are free"),
    ],
)
def test_unsuitable_machine_is_refused_with_the_reason(tmp_path: Path, site: Site, about: dict[str, object], said: str):
    """glibc, architecture and disk space are checked before anything is written; the exit code is 3 and the error has
    the reason."""
    done = site.run(installer(tmp_path, **about))
    assert (3, True, []) == (done.returncode, said in done.stderr, site.programs())
