"""`edge-convert enrolment-file`: private enrolment files made from fleet.yaml, and their record in the registry."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from convert.cli import app
from convert.fleet.site_registry import SiteRegistry
from convert.publish import central_keys
from edge_agent.formats import enrolment_file
from edge_agent.formats.signed_document import format_timestamp
from tests.support.fleet_cases import CentralTeam

FLEET = {
    "registry": "collected/sites.json",
    "keys": ["central-keys"],
    "root": "root.json",
    "examples": {"url": "s3://fleet/examples", "options": {"region": "eu-1"}, "credential": "secrets/{site}.yaml"},
    "updates": {"url": "s3://fleet/updates"},
}


class CentralFolder:
    """A folder of the central team, with fleet.yaml and the files that it names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.public = central_keys.create(folder / "central-keys")
        (folder / "root.json").write_bytes(CentralTeam(folder / "repository").root_bytes)
        (folder / "secrets").mkdir()
        for site in ("shop-12", "shop-13"):
            (folder / "secrets" / f"{site}.yaml").write_text(f"access_key_id: {site}\nport: 9000\n")
        self.say()

    def say(self, **changes: object) -> None:
        """Write fleet.yaml."""
        (self.folder / "fleet.yaml").write_text(yaml.safe_dump({**FLEET, **changes}))

    def make(self, *arguments: str) -> Result:
        """Run the command."""
        places = ["--fleet", str(self.folder / "fleet.yaml"), "--out", str(self.folder / "kits")]
        return CliRunner().invoke(app, ["site-kit", *arguments, *places])

    def enrolment(self, site: str = "shop-12") -> tuple[enrolment_file.EnrolmentFile, str]:
        """Read the enrolment file of a site."""
        return enrolment_file.parse((self.folder / "kits" / f"{site}.kit").read_bytes())

    @property
    def registry(self) -> SiteRegistry:
        """The registry as it is on disk."""
        return SiteRegistry(self.folder / "collected" / "sites.json")


@pytest.fixture
def office(tmp_path: Path) -> CentralFolder:
    """Return an office without enrolment files."""
    return CentralFolder(tmp_path)


def test_each_enrolment_file_has_its_own_credential(office: CentralFolder):
    """Each enrolment file has the credential of its site and the keys of the fleet; whole numbers in a credential are
    converted to text."""
    done = office.make("shop-12", "shop-13")
    assert 0 == done.exit_code, done.output
    made = {site: office.enrolment(site)[0] for site in ("shop-12", "shop-13")}
    expected = [{"access_key_id": site, "port": "9000"} for site in made]
    assert expected == [each.examples.credential for each in made.values()]
    assert (office.public.recipient,) == made["shop-12"].recipients
    assert (office.public.receipts,) == made["shop-12"].receipt_keys
    assert made["shop-12"].root.encode() == (office.folder / "root.json").read_bytes()


def test_site_named_twice_gets_one_enrolment_file(office: CentralFolder):
    """A site that is named twice in one call gets one enrolment file, because a second one would invalidate the code of
    the first."""
    done = office.make("shop-12", "shop-13", "shop-12")
    assert (0, 1, 1) == (done.exit_code, len(office.registry.entry("shop-12").kits), done.output.count("shop-12.kit"))


def test_byte_order_mark_is_not_part_of_a_key(office: CentralFolder):
    """A key file is read without its byte order mark, and a credential file that is not UTF-8 is refused."""
    (office.folder / "secrets" / "shop-12.key").write_bytes(b"\xef\xbb\xbfsk-twelve\r\n")
    office.say(escalation={"url": "https://m", "model": "m", "tasks": ["t"], "key": "secrets/{site}.key"})
    assert 0 == office.make("shop-12").exit_code
    assert "sk-twelve" == office.enrolment()[0].escalation.key
    (office.folder / "secrets" / "shop-12.yaml").write_bytes("access_key_id: schlüssel\n".encode("latin-1"))
    done = office.make("shop-12", "--force")
    assert (2, True) == (done.exit_code, "shop-12.yaml is not text in UTF-8" in " ".join(done.output.split()))


def test_enrolment_file_has_the_large_model_and_the_sites_key(office: CentralFolder):
    """The enrolment file has the large model's address, tasks, prices and limits as written, and the site's key, which
    is not printed."""
    (office.folder / "secrets" / "shop-12.key").write_text("sk-twelve\n")
    amounts = {"input_token_price": 0.15, "output_token_price": 0.6, "day_cost_max": 2}
    named = {"url": "https://models.example/v1", "model": "large-1", "tasks": ["pos-intent"]}
    office.say(escalation={**named, **amounts, "key": "secrets/{site}.key"})
    done = office.make("shop-12")
    large = office.enrolment()[0].escalation
    assert (0, False) == (done.exit_code, "sk-twelve" in done.output), done.output
    prices = (large.input_token_price, large.output_token_price)
    assert ("sk-twelve", ("0.15", "0.6"), "2", "0") == (large.key, prices, large.day_cost_max, large.month_cost_max)
    assert ("https://models.example/v1", "large-1", ("pos-intent",)) == (large.url, large.model, large.tasks)


def test_enrolment_file_has_reasoning_limit_and_parameters(office: CentralFolder):
    """The enrolment file has `thinking_tokens_max` and `parameters` of a large model only if they are set, so that
    older sites accept it."""
    named = {"url": "https://models.example/v1", "model": "large-1", "tasks": ["pos-intent"]}
    office.say(escalation={**named, "thinking_tokens_max": 2000, "parameters": {"reasoning_effort": "low"}})
    assert 0 == office.make("shop-12").exit_code
    large = office.enrolment()[0].escalation
    assert (2000, {"reasoning_effort": "low"}) == (large.thinking_tokens_max, large.parameters)
    office.say(escalation=named)
    assert 0 == office.make("shop-12", "--force").exit_code
    body = json.loads((office.folder / "kits" / "shop-12.kit").read_bytes())["body"]
    assert not {"thinking_tokens_max", "parameters"} & body["escalation"].keys()


def test_parameter_of_a_large_model_can_be_a_fraction(office: CentralFolder):
    """A fraction in `escalation.parameters`, such as `top_p: 0.9`, is written into the enrolment file."""
    office.say(escalation={"url": "https://m/v1", "model": "m", "parameters": {"top_p": 0.9}})
    done = office.make("shop-12")
    assert 0 == done.exit_code, done.output
    large = office.enrolment()[0].escalation
    assert {"top_p": 0.9} == large.parameters


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"max_tokens": 5}, "max_tokens: the uplink sets this itself"),
        ({"top_p": float("nan")}, "a number that JSON cannot hold"),
        ({"user": "\ud83d"}, "half a character"),
    ],
)
def test_parameters_that_a_site_would_refuse_are_refused(office: CentralFolder, members: dict[str, object], said: str):
    """`escalation.parameters` that a site would refuse are refused when the enrolment file is made."""
    office.say(escalation={"url": "https://m/v1", "model": "m", "parameters": members})
    done = office.make("shop-12")
    assert (2, True) == (done.exit_code, said in " ".join(done.output.split())), done.output


def test_fleet_without_large_model_leaves_out_escalation(office: CentralFolder):
    """Without `escalation` in fleet.yaml the enrolment file has no escalation section, so that older sites accept
    it."""
    office.make("shop-12")
    assert office.enrolment()[0].escalation is None


def test_enrolment_file_is_private_and_its_code_is_printed(office: CentralFolder):
    """The enrolment file has mode 0600, and the command prints its verification code but no secret."""
    done = office.make("shop-12")
    assert 0o600 == stat.S_IMODE((office.folder / "kits" / "shop-12.kit").stat().st_mode)
    assert (True, False) == (
        enrolment_file.verification_code(office.enrolment()[1]) in done.output,
        "9000" in done.output,
    )


def test_registry_records_each_enrolment_file(office: CentralFolder):
    """The registry records hash and expiry of each enrolment file of a site, and the site's keys have the status
    `awaited`."""
    office.make("shop-12")
    office.make("shop-12", "--days", "2", "--force")
    made, sha256 = office.enrolment()
    known = office.registry.entry("shop-12")
    assert (2, sha256, made.expires_at) == (len(known.kits), known.kits[-1].sha256, known.kits[-1].expires_at)
    assert "awaited" == office.registry.key_status("shop-12", "0" * 64)


def test_existing_enrolment_file_needs_force(office: CentralFolder):
    """Without a terminal and without --force, an existing enrolment file stops the command for all sites, and the
    message has the code that would become invalid."""
    office.make("shop-12")
    _, before = office.enrolment()
    done = office.make("shop-13", "shop-12")
    said = " ".join(done.output.split())
    assert (2, before) == (done.exit_code, office.enrolment()[1])
    assert not (office.folder / "kits" / "shop-13.kit").exists()
    assert f"shop-12.kit (code {enrolment_file.verification_code(before)}) exists already" in said
    assert "the code of the earlier one no longer counts" in said
    assert "Add --force" in said
    assert 1 == len(office.registry.entry("shop-12").kits)


def test_force_replaces_an_enrolment_file(office: CentralFolder):
    """With --force an enrolment file is replaced; a damaged one also needs --force."""
    office.make("shop-12")
    assert 0 == office.make("shop-12", "--days", "2", "--force").exit_code
    (office.folder / "kits" / "shop-12.kit").write_bytes(b"damaged")
    assert "shop-12.kit exists already" in " ".join(office.make("shop-12").output.split())
    assert 0 == office.make("shop-12", "--force").exit_code


@pytest.mark.slow
def test_enrolment_file_can_be_encrypted_with_a_passphrase(office: CentralFolder):
    """An enrolment file can be encrypted with a passphrase; a passphrase that is too short is refused and no file is
    made."""
    (office.folder / "secret").write_text("nine purple herons\n")
    (office.folder / "secret").chmod(0o600)
    assert 0 == office.make("shop-12", "--passphrase-file", str(office.folder / "secret")).exit_code
    raw = (office.folder / "kits" / "shop-12.kit").read_bytes()
    assert "shop-12" == enrolment_file.parse(enrolment_file.unseal(raw, "nine purple herons"))[0].site
    (office.folder / "secret").write_text("short\n")
    assert 2 == office.make("shop-13", "--passphrase-file", str(office.folder / "secret")).exit_code
    assert not (office.folder / "kits" / "shop-13.kit").exists()


def test_enrolment_file_has_old_and_new_central_keys(office: CentralFolder):
    """While central keys are replaced, the enrolment file names both recipients and both receipt keys."""
    second = central_keys.create(office.folder / "central-keys-2")
    office.say(keys=["central-keys-2", "central-keys"])
    office.make("shop-12")
    assert (second.recipient, office.public.recipient) == office.enrolment()[0].recipients
    assert (second.receipts, office.public.receipts) == office.enrolment()[0].receipt_keys


@pytest.mark.parametrize(
    ("changes", "site", "code", "said"),
    [
        ({}, "Shop 12", 2, "'Shop 12' is not a site id"),
        ({}, "../shop-12", 2, "is not a site id"),
        ({}, "shop-14", 2, "secrets/shop-14.yaml: No such file"),
        ({"root": "missing.json"}, "shop-12", 2, "missing.json: No such file"),
        ({"keys": ["nowhere"]}, "shop-12", 2, "nowhere"),
        ({"keys": []}, "shop-12", 2, "keys: "),
        ({"chanel": "stable"}, "shop-12", 2, "Did you mean 'channel'?"),
        ({"channel": "a b"}, "shop-12", 2, "channel: "),
        ({"root": "fleet.yaml"}, "shop-12", 2, "is not a metadata file"),
        ({"root": "secrets"}, "shop-12", 2, "secrets/root.json: No such file"),
        (
            {"examples": {"credential": "fleet.yaml", "url": "s3://x"}},
            "shop-12",
            2,
            "fleet.yaml contains no names and values",
        ),
        ({"examples": {"credential": "secrets/{site}.yaml", "url": "s3://ä"}}, "shop-12", 2, "examples.url"),
        ({"tls": {"certificate": "root.json"}}, "shop-12", 2, "tls"),
        ({"escalation": {"url": "https://m", "model": "m", "key": "no.key"}}, "shop-12", 2, "no.key: No such file"),
        ({"escalation": {"url": "https://m", "model": "m", "key": "fleet.yaml"}}, "shop-12", 2, "escalation.key"),
        ({"escalation": {"url": "https://m", "model": "m", "day_cost_max": -1}}, "shop-12", 2, "escalation.day_cost"),
        ({"escalation": {"url": "ftp://m", "model": "m"}}, "shop-12", 2, "escalation.url"),
        ({"escalation": {"model": "m", "tasks": ["t"]}}, "shop-12", 2, "escalation.url"),
        ({"examples": {"url": "s3://[::1/x"}}, "shop-12", 2, "examples.url is not the address of a store"),
        ({"updates": {"url": "ftp://a/b"}}, "shop-12", 2, "updates.url: 'ftp' is not a known kind of store"),
        ({"updates": {"url": "https://h:99999/x"}}, "shop-12", 2, "updates.url is not the address of a store"),
        ({"updates": {"url": "https://me:pw@h/x"}}, "shop-12", 2, "the user or query of updates.url may be a secret"),
        ({"examples": {"url": "store"}}, "shop-12", 2, "examples.url names the folder 'store'"),
        ({"examples": {"url": "s3://x", "options": {"endpoint": "http://[x"}}}, "shop-12", 2, "in examples.options"),
        ({"examples": {"url": "s3://x", "options": {"secret_key": "x"}}}, "shop-12", 2, "secret_key may be a secret"),
        ({"escalation": {"url": "https://m:x/v1", "model": "m"}}, "shop-12", 2, "escalation.url is not the plain"),
        ({"tls": {"address": "9443"}}, "shop-12", 2, "tls.address: '9443' is not an address"),
    ],
)
def test_invalid_settings_are_named_and_no_file_is_made(
    office: CentralFolder, changes: dict[str, object], site: str, code: int, said: str
):
    """If a setting of one site is invalid, the error names it, and neither an enrolment file nor a registry entry is
    made for any site."""
    office.say(**changes)
    done = office.make("shop-13", site)
    assert (code, False, []) == (done.exit_code, (office.folder / "kits").exists(), office.registry.every_name())
    assert said in " ".join(done.output.split())


def test_revoked_site_gets_no_enrolment_file(office: CentralFolder):
    """An enrolment file for a revoked site is refused until the site is restored."""
    office.registry.issue("shop-12", _issued(office))
    office.registry.revoke("shop-12", format_timestamp(0))
    assert (2, True) == ((done := office.make("shop-12")).exit_code, "revoked on 1970-01-01" in done.output)
    office.registry.restore("shop-12")
    assert 0 == office.make("shop-12").exit_code


def _issued(office: CentralFolder):
    office.make("shop-13")
    return office.registry.entry("shop-13").kits[0]
