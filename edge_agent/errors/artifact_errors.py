"""Errors in what was made elsewhere: bundles, files exchanged with the central team, updates."""

from __future__ import annotations

from edge_agent.errors.base import EdgeAgentError


class BundleError(EdgeAgentError):
    """The central team builds the bundle again. Nothing was installed."""


class BundleUnreadable(BundleError):
    """The path is neither a bundle directory nor a tar file of one."""

    reason = "BUNDLE_UNREADABLE"
    remedy_default = (
        "Name a bundle directory or one uncompressed tar file of it, as 'edge-convert assemble' makes them."
    )


class ManifestInvalid(BundleError):
    """manifest.json breaks a rule."""

    reason = "MANIFEST_INVALID"
    remedy_default = "Have the bundle assembled again with 'edge-convert assemble'."


class SchemaUnknown(BundleError):
    """manifest.json has a schema that this agent does not support."""

    reason = "SCHEMA_UNKNOWN"
    remedy_default = "Update edge-agent, or build the bundle for this agent's version."


class FileMissing(BundleError):
    """A file that the manifest names is not in the bundle."""

    reason = "FILE_MISSING"
    remedy_default = "Copy the bundle again, with all its files; if the error persists, have it assembled again."


class HashMismatch(BundleError):
    """The bytes of a file do not match the manifest."""

    reason = "HASH_MISMATCH"
    remedy_default = "Copy the bundle again; if the error persists, have it published again."


class PathUnsafe(BundleError):
    """A path in the bundle leads outside the bundle."""

    reason = "PATH_UNSAFE"
    remedy_default = "Nothing was installed. Have the bundle assembled again, and find out who made this one."


class BundleTooLarge(BundleError):
    """The bundle, or one of its files, exceeds a limit."""

    reason = "BUNDLE_TOO_LARGE"
    remedy_default = (
        "Have a smaller bundle built, or raise 'bundle_bytes_max' under 'store' in agent.yaml, and restart the daemon."
    )


class BundleUnsigned(BundleError):
    """The bundle is not signed, and the site does not allow that."""

    reason = "BUNDLE_UNSIGNED"
    remedy_default = (
        "Take the bundle from the central team's USB drive, where it is signed ('sudo edge-agent media import"
        " /media/usb'), or from the uplink. On a machine for tests, set 'allow_unsigned: true' under 'store' in"
        " agent.yaml and restart the daemon."
    )


class RequirementUnmet(BundleError):
    """The bundle has a requirement that this machine or agent does not meet."""

    reason = "REQUIREMENT_UNMET"
    remedy_default = (
        "Install it on a machine that has what the message names, or have the bundle built for this machine."
    )


class ExchangeError(EdgeAgentError):
    """A file exchanged with the central team is invalid; its maker or carrier checks it. Nothing was imported."""


class DocumentInvalid(ExchangeError):
    """A segment manifest, receipts, a status object or another exchanged document breaks a rule."""

    reason = "DOCUMENT_INVALID"
    remedy_default = "Fetch or copy the file again; if the error persists, look at the program that wrote it."


class SignatureInvalid(ExchangeError):
    """A signed document is not signed by a trusted key, or was changed afterwards."""

    reason = "SIGNATURE_INVALID"
    remedy_default = (
        "Fetch or copy the file again; if the error persists, find out who changed it, or which key it should have."
    )


class RecordInvalid(ExchangeError):
    """A record of an example breaks a rule."""

    reason = "RECORD_INVALID"
    remedy_default = "Read it with a newer edge-agent, or look at the program that wrote it."


class SegmentDamaged(ExchangeError):
    """A sealed segment cannot be decrypted or unpacked, or does not match its manifest."""

    reason = "SEGMENT_DAMAGED"
    remedy_default = "Check that the key is the one that it was sealed to; otherwise fetch or copy the segment again."


class UploadConflict(ExchangeError):
    """The object store has a different object under the name of a segment."""

    reason = "UPLOAD_CONFLICT"
    remedy_default = (
        "Nothing was overwritten. Ask the central team to find out who wrote the object, and to move it away; then "
        "the segment is uploaded."
    )


class EnrolmentFileInvalid(ExchangeError):
    """The file is not an enrolment file, is cut off, damaged or changed, or breaks a rule."""

    reason = "KIT_INVALID"
    remedy_default = "Have the central team make a new enrolment file: 'edge-convert enrolment-file'."


class EnrolmentFileRefused(ExchangeError):
    """The enrolment file is intact, but expired, older than the one in use, or made for another site."""

    reason = "KIT_REFUSED"
    remedy_default = (
        "Do what the message says: take this machine's own file, have a new one made, or correct the clock; "
        "'edge-agent help enrolment' has more."
    )


class UpdateError(EdgeAgentError):
    """The central team checks the published files, or brings a newer copy; the active bundle continues to answer."""


class PlanInvalid(UpdateError):
    """plan.json breaks a rule of its schema, or names a bundle that is not signed."""

    reason = "PLAN_INVALID"
    remedy_default = "Correct it with 'edge-convert plan edit', and publish it again."


class UpdateUntrusted(UpdateError):
    """Metadata of the repository is not signed as this site's root of trust requires, or was changed afterwards."""

    reason = "UPDATE_UNTRUSTED"
    remedy_default = "Nothing was installed. Check that it is your repository: 'edge-convert verify-repo'."


class UpdateOutdated(UpdateError):
    """The copy of the repository is older than one that this site has seen already."""

    reason = "UPDATE_OUTDATED"
    remedy_default = (
        "Have the central team write a new USB drive, or wait until the uplink has fetched the newest state. Installed"
        " bundles continue to answer."
    )


class UpdateExpired(UpdateError):
    """The repository's metadata has expired: somebody may be holding back newer metadata."""

    reason = "UPDATE_EXPIRED"
    remedy_default = (
        "Check this machine's clock ('date'); if it is right, have the central team renew the metadata or write a new"
        " USB drive."
    )


class UpdateIncomplete(UpdateError):
    """A file of the repository is missing or differs from its metadata; it may still be on its way."""

    reason = "UPDATE_INCOMPLETE"
    remedy_default = "Wait for the uplink, or copy the USB drive again, with all its files."
