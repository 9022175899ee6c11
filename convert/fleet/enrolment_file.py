"""Makes the enrolment files of sites from fleet.yaml, which has the settings of all sites of a fleet.

    registry: collected/sites.json        the sites, and the keys that they sign with
    keys: [central-keys]                   of 'edge-convert keys create': they open examples and sign receipts
    root: signing-keys/root.json          of 'edge-convert keys signing': the root of trust of updates
    channel: stable
    days: 30                              how long an enrolment file can be used
    examples:                             the store that they are sent to
      url: s3://fleet/examples
      options: {region: eu-1}
      credential: "secrets/{site}.yaml"   names and values of obstore, such as access_key_id
    updates:
      url: s3://fleet/updates
    tls:                                  if client devices connect over the network
      certificate: "tls/{site}.crt"
      key: "tls/{site}.key"
      clients: tls/clients.crt
      address: 0.0.0.0:9443
    escalation:                           if sites may ask a large model: docs/routing.md
      url: https://models.example/v1
      model: large-1
      key: "secrets/{site}.key"           file with the key alone
      tasks: [pos-intent]                 whose inputs may go there
      input_token_price: 0.15             for a million tokens
      output_token_price: 0.60
      day_cost_max: 2.00
      month_cost_max: 40.00
      thinking_tokens_max: 2000           if it is a reasoning model
      parameters: {reasoning_effort: low}

Paths are relative to the folder of the file; `{site}` in them stands for the site's id, so that each site has its own
secrets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from convert import yaml_file
from convert.fleet.site_registry import check_site
from convert.publish import central_keys
from convert.publish.keyring import ANCHOR
from convert.publish.layout import check_root
from edge_agent import config
from edge_agent.config.folder_access import store_folder
from edge_agent.config.sections import split_host_port
from edge_agent.errors import FileMissing, InvalidRequest, ManifestInvalid
from edge_agent.formats.enrolment_file import EnrolmentFile
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.formats.strict_json import first_problem
from edge_agent.formats.strict_yaml import load_yaml

_REMEDY = "'edge-convert enrolment-file --help' and docs/enrolment.md show a fleet.yaml."
_ABSOLUTE_REMEDY = "Write its whole path, from / on, as the sites have it; or an address such as s3://fleet/examples."
_FILE_BYTES_MAX = 512 * 1024
_DAY_SECONDS = 86_400
_NAMES_AND_VALUES: TypeAdapter[dict[str, str | int]] = TypeAdapter(
    Annotated[dict[str, str | int], Field(min_length=1, strict=True)]
)


class _FleetSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FleetStore(_FleetSection):
    """An object store or a folder."""

    url: str = ""
    options: dict[str, str] = {}
    credential: str = ""
    """Path of a YAML file; empty = none is needed."""


class FleetTls(_FleetSection):
    """Paths of PEM files; empty = no listener on the network."""

    certificate: str = ""
    key: str = ""
    clients: str = ""
    address: str = ""
    """Address of the listener, such as 0.0.0.0:9443."""


class FleetLargeModel(_FleetSection):
    """A large model that sites may ask; empty = none."""

    url: str = ""
    model: str = ""
    key: str = ""
    """Path of a file that holds the key alone; empty = the server needs none."""
    tasks: tuple[str, ...] = ()
    input_token_price: Decimal = Decimal(0)
    output_token_price: Decimal = Decimal(0)
    day_cost_max: Decimal = Decimal(0)
    month_cost_max: Decimal = Decimal(0)
    thinking_tokens_max: int = Field(default=0, ge=0, le=131_072)
    parameters: dict[str, JsonValue] = {}


class FleetFile(_FleetSection):
    """fleet.yaml."""

    registry: str
    keys: tuple[str, ...] = Field(min_length=1, max_length=20)
    """Folders, the newest first. Sites seal to all of them, and trust receipts of any."""
    root: str = ""
    channel: str = "stable"
    days: int = Field(default=30, ge=1, le=366)
    examples: FleetStore = FleetStore()
    updates: FleetStore = FleetStore()
    tls: FleetTls = FleetTls()
    escalation: FleetLargeModel = FleetLargeModel()


def read(path: Path, overrides: Mapping[str, object]) -> FleetFile:
    """Read fleet.yaml; `overrides` has values that replace those of the file. Raises ManifestInvalid, OSError."""
    plain = yaml_file.read(path, FleetFile, list(FleetFile.model_fields), _REMEDY)
    try:
        fleet = FleetFile.model_validate({**plain, **overrides})
    except ValidationError as error:
        message = f"{path}: {yaml_file.first_problem(error, 'the file')}"
        raise ManifestInvalid(message, remedy=_REMEDY) from None
    for message, remedy in _address_problems(fleet):
        raise ManifestInvalid(f"{path}: {message}", remedy=remedy)
    return fleet


def _address_problems(fleet: FleetFile) -> Iterator[tuple[str, str]]:
    """Yield each address that a site would refuse, with a remedy; checked here, before the file is on its way."""
    for name, store in (("examples", fleet.examples), ("updates", fleet.updates)):
        secrets = [
            *config.secret_options(store.options),
            *([f"the user or query of {name}.url"] * config.has_secret(store.url)),
        ]
        if secrets:
            remedy = f"Write it into a file, and name that in {name}.credential."
            yield f"{name}: {', '.join(secrets)} may be a secret, which must not be in fleet.yaml itself", remedy
        if problem := config.store_problem(store.url, store.options, f"{name}."):
            yield problem[1], problem[2]
        if (folder := store_folder(store.url)) and not folder.is_absolute():
            yield f"{name}.url names the folder '{folder}', which every site would look for elsewhere", _ABSOLUTE_REMEDY
    if fleet.escalation.url and (api_problem := config.api_problem(fleet.escalation.url)):
        yield f"escalation.{api_problem[0]}", api_problem[1]
    try:
        config.EscalationConfig(parameters=fleet.escalation.parameters)
    except ValidationError as error:
        yield f"escalation.{first_problem(error)}", "Correct it: docs/routing.md has an example."
    if fleet.tls.address:
        try:
            split_host_port(fleet.tls.address)
        except ValueError as error:
            yield f"tls.address: {error}", "Correct it, or leave it out."


def make(fleet: FleetFile, folder: Path, site: str, now: float) -> EnrolmentFile:
    """Make the enrolment file of one site; paths in fleet.yaml are relative to `folder`.

    Raises:
        FileMissing: a file that fleet.yaml names does not exist.
        UpdateUntrusted: the root is not a root of trust.
        InvalidRequest: a value breaks a rule of enrolment files; the message names the field.
    """
    check_site(site)
    files = _SiteFiles(folder, site)
    public_keys = [central_keys.read_public(folder / key_folder) for key_folder in fleet.keys]
    root = files.text(fleet.root)
    if root:
        check_root(root.encode(), "what 'root' names in fleet.yaml")
    plain = {
        "site": site,
        "issued_at": format_timestamp(now),
        "expires_at": format_timestamp(now + fleet.days * _DAY_SECONDS),
        "channel": fleet.channel,
        "root": root,
        "recipients": _unique(keys.recipient for keys in public_keys),
        "receipt_keys": _unique(keys.receipts for keys in public_keys),
        "examples": files.store(fleet.examples),
        "updates": files.store(fleet.updates),
        "tls": {name: files.text(path) for name, path in fleet.tls.model_dump(exclude={"address"}).items()}
        | {"address": fleet.tls.address},
        "escalation": files.large_model(fleet.escalation),
    }
    try:
        return EnrolmentFile.model_validate(plain)
    except ValidationError as error:
        message = f"the enrolment file of '{site}': {first_problem(error)}"
        raise InvalidRequest(message, remedy="Correct it in fleet.yaml, or the site's id.") from None


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


class _SiteFiles:
    """The files that fleet.yaml names, for one site."""

    def __init__(self, folder: Path, site: str) -> None:
        self._folder, self._site = folder, site

    def text(self, name: str) -> str:
        """Return the text of a file; for a folder of signing keys, the root in it; for an empty name, an empty text."""
        if not name:
            return ""
        path = self._folder / name.replace("{site}", self._site)
        path = path / ANCHOR if path.is_dir() else path
        try:
            with path.open("rb") as file:
                raw = file.read(_FILE_BYTES_MAX + 1)
        except OSError as error:
            message = f"fleet.yaml names {path}: {error.strerror}"
            raise FileMissing(message, remedy="Make it, or correct fleet.yaml.") from None
        if len(raw) > _FILE_BYTES_MAX or b"\0" in raw:
            raise InvalidRequest(f"{path} is not text, or has more than {_FILE_BYTES_MAX} bytes", remedy=_REMEDY)
        try:
            return raw.decode("utf-8-sig").replace("\r\n", "\n")  # Windows writes a byte order mark
        except UnicodeDecodeError:
            raise InvalidRequest(f"{path} is not text in UTF-8", remedy="Save it as UTF-8.") from None

    def store(self, store: FleetStore) -> dict[str, object]:
        """Return a store in the form of an enrolment file."""
        return {"url": store.url, "options": store.options, "credential": self._credential(store.credential)}

    def large_model(self, model: FleetLargeModel) -> dict[str, object] | None:
        """Return a large model in the form of an enrolment file."""
        if model == FleetLargeModel():
            return None
        key = self.text(model.key).strip()
        if model.key and not key:
            message = f"{model.key.replace('{site}', self._site)} contains no key"
            raise InvalidRequest(message, remedy="Write only the key of the large model into it.")
        # Not str(): Python writes 0.0000001 as 1E-7. The format refuses amounts with too many digits.
        amounts = {name: f"{value:f}" for name, value in model if isinstance(value, Decimal)}
        names = {"url": model.url, "model": model.model, "tasks": model.tasks, "key": key}
        thinking = {"thinking_tokens_max": model.thinking_tokens_max or None, "parameters": model.parameters or None}
        return {**names, **amounts, **thinking}

    def _credential(self, path: str) -> dict[str, str]:
        if not path:
            return {}
        try:
            plain = _NAMES_AND_VALUES.validate_python(load_yaml(self.text(path)))
        except (yaml.YAMLError, ValueError, RecursionError):
            message = f"{path.replace('{site}', self._site)} contains no names and values"
            raise InvalidRequest(
                message, remedy="Lines like 'access_key_id: …'; docs/uplink.md has the names."
            ) from None
        return {name: str(value) for name, value in plain.items()}
