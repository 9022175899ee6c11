"""Errors of this machine: its state, configuration, disk, memory, certificates and services."""

from __future__ import annotations

from typing import ClassVar

from edge_agent.errors.base import EdgeAgentError


class StateError(EdgeAgentError):
    """The state of the bundles does not allow it; the operator names another version, or activates one first."""


class UnknownBundle(StateError):
    """No installed bundle of the task matches."""

    reason = "BUNDLE_UNKNOWN"
    remedy_default = "'edge-agent bundles list' shows what is installed."


class AmbiguousBundle(StateError):
    """More than one installed bundle matches."""

    reason = "BUNDLE_AMBIGUOUS"
    remedy_default = "Give more characters of the digest."


class NothingToRollBack(StateError):
    """The task has no bundle before the active one."""

    reason = "NOTHING_TO_ROLL_BACK"
    remedy_default = "'edge-agent bundles list' shows what is installed; 'edge-agent activate' activates one."


class BundleInUse(StateError):
    """The bundle is active, or kept for rollback."""

    reason = "BUNDLE_IN_USE"
    remedy_default = "Activate another version first, or remove the whole task."


class SiteError(EdgeAgentError):
    """The technician changes something on this machine."""


class ConfigInvalid(SiteError):
    """A file of the configuration breaks a rule."""

    reason = "CONFIG_INVALID"
    remedy_default = (
        "Correct the key that the message names; 'edge-agent config validate' checks the file, and 'edge-agent config "
        "show' prints every key with its value."
    )


class StateDirInUse(SiteError):
    """Another daemon owns the state directory."""

    reason = "STATE_DIR_IN_USE"
    remedy_default = (
        "Stop the other daemon, with 'sudo systemctl stop edge-agent' if systemd started it, or choose another "
        "--state-dir."
    )


class StateDirUnwritable(SiteError):
    """The state directory cannot be created or written."""

    reason = "STATE_DIR_UNWRITABLE"
    remedy_default = (
        "'sudo edge-agent doctor' prints the command that gives the daemon's user its rights; or choose another "
        "--state-dir."
    )


class SocketInUse(SiteError):
    """Another process listens at this address."""

    reason = "SOCKET_IN_USE"
    remedy_default = "Stop the other process, which 'sudo ss -lxtnp' shows, or choose another --run-dir or port."


class SocketPathTooLong(SiteError):
    """The path of a Unix socket has more bytes than the kernel accepts."""

    reason = "SOCKET_PATH_TOO_LONG"
    remedy_default = "Choose a shorter --run-dir."


class CertificateUnusable(SiteError):
    """A certificate or key file cannot be used."""

    reason = "CERTIFICATE_UNUSABLE"
    remedy_default = (
        "Check the files under 'access' in agent.yaml; 'edge-agent certs show FILE' shows the contents of one."
    )


class WebTokenUnusable(SiteError):
    """The file with the console's token cannot be created, read or trusted."""

    reason = "WEB_TOKEN_UNUSABLE"
    remedy_default = (
        "Remove the file, and 'edge-agent serve web' creates a new one; browsers then have to log in again. Or name "
        "another file in 'token_file' under 'web' in agent.yaml."
    )


class SystemdFailed(SiteError):
    """systemd did not carry out the command's request."""

    reason = "SYSTEMD_FAILED"
    remedy_default = (
        "Run the command as root, on a machine that systemd has started; 'journalctl -u edge-agent' shows more."
    )


class DiskFull(SiteError):
    """The disk does not have enough free space."""

    reason = "DISK_FULL"
    remedy_default = (
        "Delete other files on that disk ('df' shows its space, 'df -i' its inodes), or versions that are neither "
        "active nor kept for rollback: 'edge-agent bundles list' shows them, and 'edge-agent remove TASK VERSION --yes'"
        " deletes one."
    )


class MemoryShort(SiteError):
    """The model needs more memory than is available for it."""

    reason = "MEMORY_SHORT"
    remedy_default = (
        "Free some memory, remove a task, or lower 'sequences_max' under 'engine' in agent.yaml. If "
        "'memory_bytes_max' or a limit of the service is the reason, raise it."
    )


class DeviceUnusable(SiteError):
    """An engine cannot compute on its accelerator; it uses the CPU instead."""

    reason = "DEVICE_UNUSABLE"
    remedy_default = (
        "'edge-agent doctor' shows what is missing on this machine. On a machine without an accelerator, set "
        "'device: cpu' under 'engine' in agent.yaml."
    )

    @property
    def lasting(self) -> bool:
        """Whether trying again without a change on this machine is in vain."""
        return self.metadata.get("lasting") == "True"


class MediaFailed(SiteError):
    """Removable media could not be written or read to the end. Nothing was deleted."""

    reason = "STICK_FAILED"
    remedy_default = (
        "Insert the USB drive again, or another one, and run the command again; it continues where it stopped."
    )
    remedy_reading: ClassVar[str] = (
        "Insert the USB drive again and run the same command; nothing is lost, and what answered before continues to "
        "answer."
    )
    """The remedy where a drive was read."""
    remedy_hidden: ClassVar[str] = (
        "Mount the drive where every user may read it, such as 'sudo mount /dev/sdX1 /mnt', and name that folder. The "
        "daemon sees nothing below /home, /root, /tmp and /var/tmp."
    )
    """The remedy where the daemon may not read a drive, or does not see it."""


class ExchangeDirUnusable(SiteError):
    """The uplink cannot read the outbox, or write its notes, the receipts or `incoming/`."""

    reason = "EXCHANGE_DIR_UNUSABLE"
    remedy_default = (
        "'sudo edge-agent doctor' prints the command that gives the uplink's user, edge-uplink, its rights in the "
        "folder. If none is missing, look at the disk: 'sudo dmesg | tail -50'."
    )


class UpstreamRefused(SiteError):
    """The object store or the large model does not accept the site's credential."""

    reason = "UPSTREAM_REFUSED"
    remedy_default = (
        "Check the rights of the credential (get, put) and this machine's clock. The uplink retries automatically."
    )


class UpstreamMissing(SiteError):
    """The bucket, container or folder does not exist."""

    reason = "UPSTREAM_MISSING"
    remedy_default = (
        "Create it, mount its disk, or correct 'url' or 'updates_url' under 'uplink' in agent.yaml. The uplink "
        "retries automatically."
    )


class StoreDamaged(SiteError):
    """Files of the store are missing or changed."""

    reason = "STORE_DAMAGED"
    remedy_default = "Install the bundle again: intact files stay, damaged ones are replaced."
