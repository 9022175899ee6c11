"""agent.yaml, enrolment, the root of trust, credentials: what was given to this site. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.doctor.files import READ, File, Person, may_reach
from edge_agent.doctor.findings import Case, Check, Finding, first, lasting, otherwise

CONFIG = Check("config", "settings")
STALE = Check("config-not-in-force", "settings")
OVERRULED = Check("config-overruled", "settings")
READABLE = Check("config-readable", "settings")
UNSIGNED = Check("unsigned-allowed", "settings")
ENROLMENT = Check("enrolment", "settings")
ROOT = Check("root-of-trust", "settings")
SITE_KEY = Check("site-key", "settings")
CREDENTIALS = Check("credentials", "settings")

SLACK_SECONDS = 2.0
_RESTART = "sudo systemctl restart edge-agent edge-uplink"
_ENROL = "sudo edge-agent-setup --kit FILE"
_NEEDS_CREDENTIAL = ("s3://", "gs://", "az://", "abfs://", "https://")


@dataclass(frozen=True)
class Reader:
    """A file that a daemon's user has to read, with the folders above it."""

    file: File
    above: tuple[File, ...]
    person: Person | None
    """None = there is no such user here."""

    @property
    def may(self) -> bool:
        """The user may read it, or there is no such user."""
        return self.person is None or may_reach(self.person, self.above, self.file, READ)

    @property
    def name(self) -> str:
        """Who it is."""
        return self.person.name if self.person else ""


@dataclass(frozen=True)
class ConfigFacts:
    """The configuration as it lies on the disk."""

    sources: tuple[File, ...]
    """The files that it comes from."""
    problem: str
    """Why it is refused; empty = it is not."""
    remedy: str
    started: float | None
    """When the running daemon read it, in seconds since 1970; None = none runs, or it does not say."""
    readers: tuple[Reader, ...]
    allow_unsigned: bool
    overruled: tuple[str, ...] = ()
    """Keys that enrolment or the installer wrote, and agent.yaml says otherwise."""

    @property
    def there(self) -> list[File]:
        """Those that are there."""
        return [source for source in self.sources if source.kind == "file"]

    @property
    def shown(self) -> str:
        """Their names."""
        return ", ".join(file.path for file in self.there)

    @property
    def first(self) -> str:
        """The one that a technician edits."""
        return self.sources[0].path

    @property
    def newer(self) -> str:
        """Those that were changed after the daemon started, for people."""
        since = (self.started or 0.0) + SLACK_SECONDS
        late = [(file.path, file.changed - since) for file in self.there if file.changed > since]
        return ", ".join(f"{path} was changed {lasting(seconds)}" for path, seconds in late)

    @property
    def keys(self) -> str:
        """What agent.yaml says otherwise, for people."""
        return ", ".join(self.overruled)


_CONFIG: tuple[Case[ConfigFacts], ...] = (
    Case("fault", lambda f: f.problem, "{f.problem}", "{f.remedy}", "sudoedit {f.first}; edge-agent doctor"),
    Case("ok", lambda f: f.there, "{f.shown}: valid"),
    Case("ok", otherwise, "there is no agent.yaml: the defaults hold"),
)
_STALE: tuple[Case[ConfigFacts], ...] = (
    Case("ok", lambda f: f.started is not None and not f.newer, "the running daemon has read it as it is"),
    Case(
        "warning",
        lambda f: f.started is not None,
        "{f.newer} after the daemon started: the old one is in force",
        "Restart the daemons.",
        _RESTART,
    ),
)
_OVERRULED: tuple[Case[ConfigFacts], ...] = (
    Case(
        "note",
        lambda f: f.overruled,
        "agent.yaml says otherwise than enrolment or the installer: {f.keys}",
        "agent.yaml wins. Meant so? Otherwise take them out of it.",
        "sudoedit {f.first}",
    ),
)
_UNSIGNED: tuple[Case[ConfigFacts], ...] = (
    Case(
        "note",
        lambda f: f.allow_unsigned,
        "agent.yaml lets anybody's bundle be installed",
        "Fine on a bench. On a site remove 'allow_unsigned' under 'store', and install signed bundles.",
        "edge-agent bundles list",
    ),
)
_READABLE: tuple[Case[Reader], ...] = (
    Case(
        "fault",
        lambda f: not f.may,
        "{f.name} may not read {f.file.path} ({f.file.shown})",
        "Let the daemon's user read it.",
        "sudo chgrp {f.name} {f.file.path} && sudo chmod 640 {f.file.path}",
    ),
    Case("ok", otherwise, "{f.name} may read {f.file.path}"),
)


def config(facts: ConfigFacts) -> Iterator[Finding]:
    """Judge the configuration."""
    yield from first(CONFIG, _CONFIG, facts)
    yield from first(STALE, _STALE, facts)
    yield from first(OVERRULED, _OVERRULED, facts)
    for reader in facts.readers:
        yield from first(READABLE, _READABLE, reader, about=reader.file.path)
    yield from first(UNSIGNED, _UNSIGNED, facts)


@dataclass(frozen=True)
class EnrolmentFacts:
    """What the centre gave this site."""

    site: str
    recipients: int
    receipt_keys: int
    upstream: str
    updates: str
    upstream_consent: bool
    """A task's examples may leave."""

    @property
    def missing(self) -> str:
        """Keys of the settings that are not there, for people."""
        wanted = {
            "site.id": self.site,
            "site.recipients": self.recipients or not self.upstream_consent,
            "site.receipt_keys": self.receipt_keys or not self.upstream_consent,
        }
        return ", ".join(key for key, value in wanted.items() if not value)


_ENROLMENT: tuple[Case[EnrolmentFacts], ...] = (
    Case(
        "note",
        lambda f: not (f.site or f.upstream or f.updates),
        "this site belongs to no fleet: it works alone, with bundles that are installed by hand",
    ),
    Case(
        "fault",
        lambda f: f.missing,
        "half of it is there; missing: {f.missing}",
        "Enrol the site with the kit that the centre made for it.",
        _ENROL,
    ),
    Case("ok", otherwise, "site {f.site}"),
)


def enrolment(facts: EnrolmentFacts) -> Iterator[Finding]:
    """Judge whether the site has all, or nothing, of what it needs to be one of a fleet."""
    yield from first(ENROLMENT, _ENROLMENT, facts)


@dataclass(frozen=True)
class RootFacts:
    """The fleet's root of trust."""

    path: str
    updates: str
    """Where updates come from; empty = nowhere by themselves."""
    there: bool = False
    problem: str = ""
    """Why it is none; empty = it looks like one."""
    version: int = 0
    expires_in: float = 0.0
    """Seconds; negative = it has expired."""

    @property
    def left(self) -> str:
        """How long it is valid, or since when not, for people."""
        return lasting(abs(self.expires_in))


_NO_ROOT = "none was given to this site: no update is believed"
_GIVE = "Enrol the site; or name the fleet's root.json in 'root_file' under 'update' in agent.yaml."
_ROOT: tuple[Case[RootFacts], ...] = (
    Case("fault", lambda f: not f.path and f.updates, _NO_ROOT, _GIVE, _ENROL),
    Case("note", lambda f: not f.path, _NO_ROOT, _GIVE, _ENROL),
    Case(
        "fault", lambda f: not f.there, "{f.path} is not there", "Enrol the site again, or put the file back.", _ENROL
    ),
    Case(
        "fault",
        lambda f: f.problem,
        "{f.path} is no root of trust: {f.problem}",
        "Put the fleet's root.json there.",
        _ENROL,
    ),
    Case(
        "note",
        lambda f: f.expires_in < 0,
        "{f.path} is version {f.version}, expired {f.left} ago",
        "No harm while a newer one comes with the updates. If updates expire, ask the centre to rotate it.",
        "edge-agent status",
    ),
    Case("ok", otherwise, "{f.path}, version {f.version}, valid for {f.left}"),
)


def root(facts: RootFacts) -> Iterator[Finding]:
    """Judge the root of trust: without one no update is believed."""
    yield from first(ROOT, _ROOT, facts)


@dataclass(frozen=True)
class KeyFacts:
    """The site's own key."""

    file: File
    whole: bool
    """It looks like one."""
    needed: bool


_KEY: tuple[Case[KeyFacts], ...] = (
    Case(
        "note",
        lambda f: f.needed and not f.file.kind,
        "{f.file.path} is not there yet",
        "The daemon makes it when it starts; then the centre has to accept it: 'edge-convert sites accept'.",
        "sudo systemctl restart edge-agent",
    ),
    Case(
        "fault",
        lambda f: f.file.kind and not f.whole,
        "{f.file.path} holds no key ({f.file.size} bytes)",
        "Put it back from a copy. Without one move it away: a new one is made, which the centre has to accept.",
        "sudo mv {f.file.path} {f.file.path}.damaged && sudo systemctl restart edge-agent",
    ),
    Case(
        "warning",
        lambda f: f.file.mode & 0o077,
        "{f.file.path} is {f.file.shown}: others may read it",
        "Close it; if somebody may have read it, have the centre accept a new one.",
        "sudo chmod 600 {f.file.path}",
    ),
    Case("ok", lambda f: f.file.kind, "{f.file.path}, for its owner only"),
)


def site_key(facts: KeyFacts) -> Iterator[Finding]:
    """Judge the key that signs what leaves the site."""
    yield from first(SITE_KEY, _KEY, facts)


@dataclass(frozen=True)
class Secret:
    """A credential: where it should be, and as what."""

    what: str
    """uplink, uplink-updates or escalation."""
    place: str
    """The URL that it opens, without anything secret."""
    file: File
    """As agent.yaml names it, or as systemd keeps it."""
    sealed: bool
    """systemd keeps it encrypted."""
    readers: tuple[Reader, ...]

    @property
    def needed(self) -> bool:
        """A folder needs none."""
        return self.place.startswith(_NEEDS_CREDENTIAL)

    @property
    def barred(self) -> str:
        """Who should read it and may not; empty = nobody."""
        return next((reader.person.name for reader in self.readers if reader.person and not reader.may), "")


_CREDENTIAL: tuple[Case[Secret], ...] = (
    Case(
        "warning",
        lambda f: not f.file.kind,
        "{f.place} has none: {f.file.path} is not there",
        "Right for a place that is open to all. Otherwise enrol the site, or write the credential.",
        _ENROL,
    ),
    Case("fault", lambda f: not f.file.size, "{f.file.path} is empty", "Write the credential anew.", _ENROL),
    Case(
        "fault",
        lambda f: not f.sealed and f.file.mode & 0o007,
        "{f.file.path} is {f.file.shown}: everybody may read it",
        "Close it, and have the centre make a new credential.",
        "sudo chmod 600 {f.file.path}",
    ),
    Case(
        "fault",
        lambda f: f.barred,
        "{f.barred} may not read {f.file.path} ({f.file.shown})",
        "Give it to the uplink's user.",
        "sudo chown {f.barred} {f.file.path}",
    ),
    Case(
        "note",
        lambda f: not f.sealed,
        "{f.file.path} is there, not encrypted",
        "It is as safe as this disk. Where systemd-creds can encrypt, enrolling again seals it.",
        _ENROL,
    ),
    Case("ok", otherwise, "{f.file.path}, encrypted for this machine"),
)


def credentials(secrets: tuple[Secret, ...]) -> Iterator[Finding]:
    """Judge the uplink's credentials; one for each place that it goes to."""
    for secret in filter(lambda each: each.needed, secrets):
        yield from first(CREDENTIALS, _CREDENTIAL, secret, about=secret.what)
