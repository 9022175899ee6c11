"""What is wrong with what was made elsewhere: bundles, exchanged files, updates."""

from __future__ import annotations

from edge_agent.errors.base import EdgeAgentError


class BundleError(EdgeAgentError):
    """The central team builds the bundle anew. Nothing was installed."""


class BundleUnreadable(BundleError):
    """The path is no bundle directory and no tar."""

    reason = "BUNDLE_UNREADABLE"
    remedy_default = "Name a bundle directory or one uncompressed tar of it, as 'edge-convert assemble' makes them."


class ManifestInvalid(BundleError):
    """manifest.json breaks a rule."""

    reason = "MANIFEST_INVALID"
    remedy_default = "Have the bundle assembled again with 'edge-convert assemble'."


class SchemaUnknown(BundleError):
    """manifest.json is of a schema this agent does not know."""

    reason = "SCHEMA_UNKNOWN"
    remedy_default = "Update edge-agent, or build the bundle for this agent's version."


class FileMissing(BundleError):
    """A file that the manifest names is not in the bundle."""

    reason = "FILE_MISSING"
    remedy_default = "Copy the bundle again, with all its files; if it repeats, have it assembled again."


class HashMismatch(BundleError):
    """A file's bytes are not the ones the manifest names."""

    reason = "HASH_MISMATCH"
    remedy_default = "Copy the bundle again; if it repeats, have it published again."


class PathUnsafe(BundleError):
    """A path in the bundle leaves the bundle."""

    reason = "PATH_UNSAFE"
    remedy_default = "Nothing was installed: have the bundle assembled again, and find out who made this one."


class BundleTooLarge(BundleError):
    """The bundle, or a file of it, is over a limit."""

    reason = "BUNDLE_TOO_LARGE"
    remedy_default = "Build a smaller bundle, or raise the limit that the message names, under 'store' in agent.yaml."


class BundleUnsigned(BundleError):
    """The bundle has no signature and the site does not allow that."""

    reason = "BUNDLE_UNSIGNED"
    remedy_default = "Install a signed bundle, or set 'allow_unsigned: true' under 'store' in agent.yaml."


class RequirementUnmet(BundleError):
    """The bundle needs something that this machine or agent does not have."""

    reason = "REQUIREMENT_UNMET"
    remedy_default = "Install it where there is what the message names, or have the bundle built for this machine."


class ExchangeError(EdgeAgentError):
    """Whoever made or carried a file between site and centre looks at it. Nothing was taken over from it."""


class DocumentInvalid(ExchangeError):
    """A manifest of a segment, receipts or a status object break a rule."""

    reason = "DOCUMENT_INVALID"
    remedy_default = "Fetch or copy the file again; if it repeats, look at the program that wrote it."


class SignatureInvalid(ExchangeError):
    """A signed document is not by one of the trusted keys, or was changed."""

    reason = "SIGNATURE_INVALID"
    remedy_default = (
        "Fetch or copy the file again; if it repeats, find out who changed it, or which key it should have."
    )


class RecordInvalid(ExchangeError):
    """A record of an example breaks a rule."""

    reason = "RECORD_INVALID"
    remedy_default = "Read it with a newer edge-agent, or look at the program that wrote it."


class SegmentDamaged(ExchangeError):
    """A sealed segment does not open or unpack."""

    reason = "SEGMENT_DAMAGED"
    remedy_default = "Check that the key is the one it was sealed to; otherwise fetch or copy the segment again."


class UploadConflict(ExchangeError):
    """The upstream has something else under the name of a segment."""

    reason = "UPLOAD_CONFLICT"
    remedy_default = (
        "Nothing was overwritten. Find out at the centre who wrote it, and move it away; the segment then goes up."
    )


class EnrolmentFileInvalid(ExchangeError):
    """The file that should make this box a site is none, was cut off, damaged or changed, or breaks a rule."""

    reason = "KIT_INVALID"
    remedy_default = "Have the centre make a new kit: 'edge-convert site-kit'."


class EnrolmentFileRefused(ExchangeError):
    """The kit is whole, but not for now or not for this box: expired, older than the one in use, of another site."""

    reason = "KIT_REFUSED"
    remedy_default = "As the message says: this box's own kit, a new one, or the clock; docs/enrolment.md."


class UpdateError(EdgeAgentError):
    """The central team looks at what it published, or brings a newer copy; what answers goes on answering."""


class PlanInvalid(UpdateError):
    """plan.json breaks a rule of its schema, or names a bundle that is not signed."""

    reason = "PLAN_INVALID"
    remedy_default = "Correct it with 'edge-convert plan edit', and publish it again."


class UpdateUntrusted(UpdateError):
    """Metadata of the repository is not signed as this site's root of trust demands, or was changed afterwards."""

    reason = "UPDATE_UNTRUSTED"
    remedy_default = "Check that it is your repository: 'edge-convert verify-repo'. Nothing was installed."


class UpdateOutdated(UpdateError):
    """The repository's copy is older than what this site has seen already."""

    reason = "UPDATE_OUTDATED"
    remedy_default = "Make a new stick, or let the mirror catch up. What is installed stays."


class UpdateExpired(UpdateError):
    """The repository's metadata has expired: it may be a copy that somebody holds back."""

    reason = "UPDATE_EXPIRED"
    remedy_default = (
        "Check this machine's clock ('date'); if it is right, have the centre renew the metadata or make a new stick."
    )


class UpdateIncomplete(UpdateError):
    """A file of the repository is missing or not what its metadata says; it may still be on its way."""

    reason = "UPDATE_INCOMPLETE"
    remedy_default = "Wait for the mirror, or copy the stick again, with all its files."
