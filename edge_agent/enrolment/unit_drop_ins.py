"""The drop-ins that open the hardened units for what the configuration needs, and reloading them in systemd.

edge-agent.service.d/listener.conf    the networks that may reach the TCP listener; the unit denies all but loopback
edge-uplink.service.d/folders.conf    a folder that is the store of examples; the unit may write to no other folder

`edge-agent enrol` and `edge-agent certs init` write them, and `edge-agent drop-ins` at any other time.
"""

from __future__ import annotations

import contextlib
import ipaddress
import pwd
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.config import Config
from edge_agent.config.folder_access import UPLINK_USER, FolderFacts, FolderProblem, judge_folder, store_folder
from edge_agent.config.sections import is_loopback, split_host_port
from edge_agent.durable.atomic_files import stat_or_none
from edge_agent.enrolment import site_files
from edge_agent.enrolment.site_files import SiteFile
from edge_agent.errors import ConfigInvalid
from edge_agent.formats import uplink_state

DAEMON_UNIT, UPLINK_UNIT = "edge-agent.service", "edge-uplink.service"
_BOOTED = Path("/run/systemd/system")
_SECONDS_MAX = 300


def is_systemd_running() -> bool:
    """Return whether systemd runs this machine (sd_booted(3))."""
    return _BOOTED.is_dir() and shutil.which("systemctl") is not None


def stop_services() -> None:
    """Stop both services before a change that they must not see half done."""
    _systemctl("stop", UPLINK_UNIT, DAEMON_UNIT)


def restart_services(config: Config) -> list[str]:
    """Reload the units in systemd, and start the services that should run; return failures as sentences.

    An uplink without a store is stopped and disabled: it would keep its credentials in memory, and fail at its next
    start. Its report is deleted, too, because it would look like that of a hanging uplink.
    """
    reload_units()
    if not config.needs_uplink:
        _systemctl("disable", "--now", UPLINK_UNIT)
        with contextlib.suppress(OSError):
            (config.uplink_notes / uplink_state.FILE_NAME).unlink(missing_ok=True)
    units = filter(_is_installed, (DAEMON_UNIT, UPLINK_UNIT) if config.needs_uplink else (DAEMON_UNIT,))
    return [f"{unit} did not start: 'journalctl -u {unit}' explains why" for unit in units if not _start(unit)]


def reload_units() -> None:
    """Reload the units in systemd."""
    _systemctl("daemon-reload")


def _start(unit: str) -> bool:
    _systemctl("enable", unit)
    return _systemctl("restart", unit)


def _is_installed(unit: str) -> bool:
    return _systemctl("cat", unit)


def _systemctl(*arguments: str) -> bool:
    command = [shutil.which("systemctl") or "systemctl", *arguments]
    try:
        result = subprocess.run(command, capture_output=True, timeout=_SECONDS_MAX, check=False)  # noqa: S603 - systemd's
    except (OSError, subprocess.SubprocessError):
        return False
    return result.returncode == 0


_LOOK_SECONDS_MAX = 10


def store_folder_problems(config: Config, *, managed: bool) -> Iterator[FolderProblem]:
    """Yield why the uplink cannot use each folder; the unit is assumed to permit writing there.

    Args:
        config: the future configuration.
        managed: whether systemd runs the uplink.
    """
    for folder, written in ((config.uplink.url, True), (config.uplink.updates_url, False)):
        path = store_folder(folder)
        if path is None:
            continue
        try:
            status = stat_or_none(path)
            kind = "" if status is None else "folder" if stat.S_ISDIR(status.st_mode) else "other"
            ownership = f"{path.owner()}:{path.group()} {status.st_mode & 0o7777:04o}" if status else ""
        except (OSError, KeyError):  # KeyError: the owner has no name
            kind, ownership = "folder", ""
        may_use = _may_use(path, written=written)
        if problem := judge_folder(FolderFacts(path, kind, written, managed, may_use, ownership)):
            yield problem


def _may_use(path: Path, *, written: bool) -> bool | None:
    """Return whether the uplink's user has the rights; None = no such user, or this user may not check."""
    try:
        pwd.getpwnam(UPLINK_USER)
    except KeyError:
        return None
    rights = ["-r", str(path), "-a", "-x", str(path), *(["-a", "-w", str(path)] if written else [])]
    command = [shutil.which("runuser") or "runuser", "-u", UPLINK_USER, "--", "test", *rights]
    try:
        result = subprocess.run(command, capture_output=True, timeout=_LOOK_SECONDS_MAX, check=False)  # noqa: S603 - no shell
    except (OSError, subprocess.SubprocessError):
        return None
    return {0: True, 1: False}.get(result.returncode)


HEAD = "# Written by 'edge-agent enrol' or 'edge-agent drop-ins'. Other settings belong into other files.\n"
_LISTENER, _FOLDERS = Path(f"{DAEMON_UNIT}.d/listener.conf"), Path(f"{UPLINK_UNIT}.d/folders.conf")
_ALLOW = "IPAddressAllow="
_ROUTE_UP, _ROUTE_GATEWAY = 0x1, 0x2
_LOOPBACK_NAME = "lo"


@dataclass(frozen=True)
class UnitDropIn:
    """A file that permits a unit what the configuration needs."""

    path: Path
    content: str
    """Empty = the configuration needs none."""

    @property
    def unit(self) -> str:
        """The unit, as in edge-agent.service."""
        return self.path.parent.name.removesuffix(".d")

    @property
    def name(self) -> str:
        """The unit as commands take it, as in edge-agent."""
        return self.unit.removesuffix(".service")

    @property
    def settings(self) -> list[str]:
        """The lines without comments and section."""
        return _settings(self.content)

    @property
    def changes(self) -> list[str]:
        """The removed lines, marked '-', then the lines of the new file, new ones marked '+'."""
        old_settings = _settings(_read_text(self.path))
        removed = [f"- {line}" for line in old_settings if line not in self.settings]
        return removed + [f"{' ' if line in old_settings else '+'} {line}" for line in self.settings]

    def is_in_place(self) -> bool:
        """Whether the file has the required content."""
        try:
            return self.path.read_text(encoding="utf-8") == self.content
        except (FileNotFoundError, NotADirectoryError):
            return not self.content
        except (OSError, ValueError):
            return False


def unit_drop_ins(config: Config, units: Path, networks: Sequence[str]) -> list[UnitDropIn]:
    """Return the drop-ins of a configuration.

    Args:
        config: the configuration.
        units: the folder of the units, /etc/systemd/system.
        networks: those that may reach a TCP listener.

    Raises:
        ConfigInvalid: the name of a folder cannot be written in a unit.
    """
    # The uplink writes examples to this folder; it only reads the one of updates.
    folder = store_folder(config.uplink.url)
    allowed = [f"{_ALLOW}{network}" for network in networks] if listens_on_network(config) else []
    return [
        _drop_in(units / _LISTENER, allowed),
        # '-': the uplink also starts while the folder does not exist.
        _drop_in(units / _FOLDERS, [f"ReadWritePaths=-{_quote(folder)}"] if folder else []),
    ]


def listens_on_network(config: Config) -> bool:
    """Return whether the daemon listens for other machines."""
    return bool(config.service.tcp_address) and not is_loopback(_host(config.service.tcp_address))


def allowed_networks(
    config: Config, units: Path, added: Iterable[str], attached: Sequence[str], removed: Iterable[str] = ()
) -> list[str]:
    """Return the networks that may reach the listener.

    These are the ones of the existing drop-in, plus the added and without the removed ones. If there are none, these
    are the networks of this machine that contain the listener's address.

    Raises:
        ConfigInvalid: an argument is not a network, or a removed one is not in the list or is the last one.
    """
    if not listens_on_network(config):
        return []
    networks = list(dict.fromkeys([*_networks_in(units / _LISTENER), *map(_parse_network, added)]))
    networks = networks or list(dict.fromkeys(_reachable_networks(_host(config.service.tcp_address), attached)))
    names, removed_networks = ", ".join(networks), [_parse_network(network) for network in removed]
    for network in removed_networks:
        if network not in networks:
            raise ConfigInvalid(f"{network} is not among the allowed networks", remedy=f"Those are {names or 'none'}.")
    remaining = [network for network in networks if network not in removed_networks]
    if removed_networks and not remaining:
        message = f"without {names} no other machine could reach the TCP listener"
        remedy = "Name the network that may: '--allow NETWORK'. To close the listener, remove 'tcp_address' from"
        raise ConfigInvalid(message, remedy=f"{remedy} agent.yaml.")
    return remaining


def attached_networks(route: str, if_inet6: str) -> list[str]:
    """Return the networks that this machine is attached to, from /proc/net/route and /proc/net/if_inet6.

    Without networks behind a router, loopback and link-local ones.
    """
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for fields in map(str.split, route.splitlines()[1:]):
        flags, mask = int(fields[3], 16), _little_endian(fields[7])
        if fields[0] != _LOOPBACK_NAME and flags & _ROUTE_UP and not flags & _ROUTE_GATEWAY and int(mask):
            networks.append(ipaddress.ip_network(f"{_little_endian(fields[1])}/{mask}", strict=False))
    for fields in map(str.split, if_inet6.splitlines()):
        if fields[5] != _LOOPBACK_NAME:
            address = int(fields[0], 16).to_bytes(16, "big")
            networks.append(ipaddress.ip_network((address, int(fields[2], 16)), strict=False))
    return list(dict.fromkeys(str(network) for network in networks if not network.is_link_local))


def read_attached_networks() -> list[str]:
    """Return the networks that this machine is attached to; none if /proc does not list them."""
    return attached_networks(*(_read_text(Path("/proc/net", name)) for name in ("route", "if_inet6")))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _little_endian(digits: str) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(bytes.fromhex(digits)[::-1])


def _host(address: str) -> str:
    return split_host_port(address)[0]


def _reachable_networks(host: str, attached: Sequence[str]) -> list[str]:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return list(attached)
    if address.is_unspecified:
        return [each for each in attached if address.version == 6 or ipaddress.ip_network(each).version == 4]
    return [each for each in attached if address in ipaddress.ip_network(each)]


def _parse_network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        remedy = "Write it as in 192.168.10.0/24; 'ip -brief address' shows those here."
        raise ConfigInvalid(f"{text!r} is not a network", remedy=remedy) from None


def _settings(content: str) -> list[str]:
    return [line for line in content.splitlines() if "=" in line and not line.startswith("#")]


def _networks_in(path: Path) -> list[str]:
    lines = _read_text(path).splitlines()
    return [line.removeprefix(_ALLOW).strip() for line in lines if line.startswith(_ALLOW)]


def _quote(folder: Path) -> str:
    """Quote a path for systemd: '%' begins a specifier, and a blank needs quotation marks."""
    text = str(folder).replace("%", "%%")
    if not text.isprintable() or any(letter in text for letter in "\"'\\"):
        message = f"the folder {str(folder)!a} has characters that a systemd unit cannot name"
        raise ConfigInvalid(message, remedy="Mount it at a path without quotation marks, backslashes and line ends.")
    return f'"{text}"' if " " in text else text


def _drop_in(path: Path, settings: Sequence[str]) -> UnitDropIn:
    return UnitDropIn(path, HEAD + "\n".join(["[Service]", *settings, ""]) if settings else "")


def write_drop_ins(drop_ins: Sequence[UnitDropIn]) -> list[UnitDropIn]:
    """Write the drop-ins that are not in place, all or none, and remove those no longer needed; return both.

    Raises:
        DiskFull, ConfigInvalid: nothing was changed.
    """
    changed = [each for each in drop_ins if not each.is_in_place()]
    files = [SiteFile(each.path, each.content.encode()) for each in changed if each.content]
    site_files.stage(files)
    site_files.put(files, (each.path for each in changed if not each.content))
    return changed
