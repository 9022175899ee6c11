"""Rows of an installed machine: what its two users may read and write, and the program's versions and links."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.finding_cases.appliance import DAEMON_UID, EXCHANGE_GID, UPLINK_UID
from tests.support.finding_cases.case import made
from tests.support.finding_cases.certificate_rows import LOADING
from tests.support.finding_cases.site import FaultySite
from tests.support.installer_cases import installer
from tests.support.tls_site import TlsSite

KEPT = {"outbox": DAEMON_UID, "wants": DAEMON_UID, "receipts": UPLINK_UID, "incoming": UPLINK_UID, "notes": UPLINK_UID}
"""The folders that daemon and uplink share, and the owner of each."""


def exchanging(folder: Path) -> Mapping[str, Any]:
    """Give the site the folders of an appliance, and a store from which updates come."""
    for name in KEPT:
        (folder / "exchange" / name).mkdir(parents=True)
    (folder / "store").mkdir()
    named = {name: str(folder / "exchange" / name) for name in KEPT}
    return {
        "site": {"id": "shop-7", "outbox_dir": named["outbox"], "receipts_dir": named["receipts"]},
        "update": {"incoming_dir": named["incoming"], "wants_dir": named["wants"]},
        "uplink": {"updates_url": str(folder / "store"), "notes_dir": named["notes"]},
    }


def give_folders(site: FaultySite) -> None:
    for name, owner in KEPT.items():
        path = site.folder / "exchange" / name
        os.chown(path, owner, EXCHANGE_GID)
        path.chmod(0o2750)


def _receipts(site: FaultySite) -> Path:
    return site.folder / "exchange" / "receipts"


shared: Mapping[str, Any] = {"settings": exchanging, "is_appliance": True, "prepare": give_folders}


def _enrol_with_credential(site: FaultySite) -> None:
    """Do what enrolment does with the credential of a file that has one."""
    assert site.appliance is not None
    sealed = site.appliance.etc / "credstore.encrypted"
    sealed.mkdir(exist_ok=True)
    (sealed / "edge-agent-uplink.cred").write_text("x")


@made("credentials/note/no-credential-was-given-for", by_hand=_enrol_with_credential, **shared)
def store_without_a_credential(site: FaultySite) -> None:
    """The site got a store and no credential, as for a public one."""
    site.edit(uplink={"url": "s3://fleet/shop"})


@made("exchange-folders/fault/does-not-exist", **shared)
def folder_removed(site: FaultySite) -> None:
    """Somebody removed the folder of receipts."""
    _receipts(site).rmdir()


@made("exchange-folders/fault/is-not-a-folder", **shared)
def file_in_place_of_the_folder(site: FaultySite) -> None:
    """A file has the folder's name."""
    _receipts(site).rmdir()
    _receipts(site).write_text("x")


@made("exchange-folders/fault/", **shared)
def folder_of_root(site: FaultySite) -> None:
    """Somebody made the folder again, as root."""
    os.chown(_receipts(site), 0, 0)
    _receipts(site).chmod(0o700)


@made("exchange-folders/warning/is-every-user-may-write-to-it", **shared)
def folder_for_everybody(site: FaultySite) -> None:
    """Somebody let every user write."""
    _receipts(site).chmod(0o2777)


@made("config-readable/fault/may-not-read", is_appliance=True)
def configuration_for_root_only(site: FaultySite) -> None:
    """An editor wrote agent.yaml for root alone."""
    kept = site.agent_yaml.stat()
    site.agent_yaml.chmod(0o600)
    os.utime(site.agent_yaml, (kept.st_atime, kept.st_mtime))


def _certificates(folder: Path) -> Mapping[str, Any]:
    tls = TlsSite(folder / "tls")
    for path in (folder / "tls").iterdir():
        path.chmod(0o644)
        os.chown(path, DAEMON_UID, DAEMON_UID)
    tls.key.chmod(0o600)
    return tls.settings()


@made("certificate/fault/may-not-read", settings=_certificates, is_appliance=True)
def key_of_root(site: FaultySite) -> None:
    """Somebody copied the key as root."""
    os.chown(site.folder / "tls" / "server.key", 0, 0)


@made("certificate/fault/may-not-enter-which-holds", settings=_certificates, is_appliance=True, with_it=LOADING)
def certificates_in_a_closed_folder(site: FaultySite) -> None:
    """Root made the folder under a umask that closes new folders."""
    os.chown(site.folder / "tls", 0, 0)
    (site.folder / "tls").chmod(0o750)


def _credential(folder: Path) -> Mapping[str, Any]:
    path = folder / "store.yaml"
    path.write_text("access_key_id: x\n")
    os.chown(path, UPLINK_UID, UPLINK_UID)
    path.chmod(0o600)
    return {"uplink": {"url": "s3://fleet/shop", "credentials_file": str(path)}}


@made("credentials/fault/may-not-read", settings=_credential, is_appliance=True, prepare=lambda _: None)
def credential_of_root(site: FaultySite) -> None:
    """Somebody copied the credential as root."""
    os.chown(site.folder / "store.yaml", 0, 0)


@made("state-dir/fault/may-not-write", is_appliance=True, with_it=("state-owner",))
def state_of_root(site: FaultySite) -> None:
    """Somebody copied the state folder back as root."""
    os.chown(site.daemon.state_dir, 0, 0)


@made("state-dir/fault/does-not-exist-and-may-not-create-it", is_appliance=True, with_it=("daemon",))
def state_removed(site: FaultySite) -> None:
    """Somebody removed the state folder below a daemon that runs."""
    shutil.rmtree(site.daemon.state_dir)


def _install(version: str) -> Callable[[FaultySite], None]:
    return lambda site: run_installer(site, version)


def run_installer(site: FaultySite, version: str) -> None:
    """Put the installer of a version on the machine, and run it."""
    for old in site.folder.glob("edge-agent-*.run"):
        old.unlink()
    site.runner.environment = {"PYTHON": str(Path(sys.executable).resolve())}
    _run(site, "sh", str(installer(site.folder, version)))


def _run(site: FaultySite, *command: str) -> None:
    environment = {**os.environ, **site.runner.environment}
    done = subprocess.run([*site.daemon.inside, *command], capture_output=True, text=True, env=environment, check=False)
    assert not done.returncode, done.stdout + done.stderr


def _versions(*versions: str) -> Callable[[FaultySite], None]:
    def install(site: FaultySite) -> None:
        for version in versions:
            run_installer(site, version)

    return install


def _program(site: FaultySite) -> Path:
    assert site.appliance is not None
    return site.appliance.opt / "edge-agent"


def _break(site: FaultySite, link: str) -> None:
    shutil.rmtree(_program(site) / "venvs" / (_program(site) / link).readlink().name / "bin")


installed: Mapping[str, Any] = {"is_appliance": True, "prepare": _versions("1.0", "1.1")}


@made("installation/fault/f-does-not-exist-no-version-is-selected", with_it=("command",), **installed)
def link_removed(site: FaultySite) -> None:
    """Somebody removed the link to the version in use."""
    (_program(site) / "current").unlink()


@made("installation/fault/f-points-to-which-is-broken", with_it=("command",), leaves=("previous-version",), **installed)
def current_version_broken(site: FaultySite) -> None:
    """The disk lost files of the version in use."""
    _break(site, "current")


@made("installation/note/f-not-made-by-the-installer-this-program-runs-from", asks_nothing=True, **installed)
def not_installed(site: FaultySite) -> None:
    """The program was uninstalled; this one runs from a checkout."""
    _run(site, "/usr/local/sbin/edge-agent-setup", "uninstall")


made(
    "previous-version/note/there-is-no-previous-version-to-go-back-to-the-next-upgrade-keeps-the-current-one",
    is_appliance=True,
    asks_nothing=True,
)(_install("1.0"))


@made("previous-version/warning/seen", by_hand=_install("1.2"), **installed)
def previous_version_broken(site: FaultySite) -> None:
    """The disk lost files of the version before."""
    _break(site, "previous")


def _command(site: FaultySite) -> Path:
    assert site.appliance is not None
    return site.appliance.local / "bin" / "edge-agent"


@made("command/fault/usr-local-bin-edge-agent-is-missing-or-points-nowhere", **installed)
def command_removed(site: FaultySite) -> None:
    """Somebody removed the command."""
    _command(site).unlink()


@made("command/warning/seen", **installed)
def command_of_another_version(site: FaultySite) -> None:
    """Somebody let the command point to a program of their own."""
    _command(site).unlink()
    _command(site).symlink_to("/usr/bin/env")


def _metadata() -> Path:
    [folder] = Path(sys.prefix).glob("lib/python*/site-packages/tokenizers-*.dist-info")
    return folder


def _bring_package(site: FaultySite) -> None:
    _run(site, "umount", str(_metadata()))


@made("packages/fault/f-not-installed", by_hand=_bring_package, **installed)
def package_lost(site: FaultySite) -> None:
    """The disk lost the metadata of a package; the installer that restores it replaces the umount."""
    _run(site, "mount", "-t", "tmpfs", "none", str(_metadata()))


@made("packages/note/f-not-installed", by_hand=_bring_package)
def package_left_out(site: FaultySite) -> None:
    """The program runs from a clone, and its environment lacks a package; scripts/setup stands for the umount."""
    package_lost(site)
