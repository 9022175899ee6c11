"""`edge-agent certs` as a technician uses it, and the folder that it makes for a client."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from typer.testing import CliRunner

from edge_agent import certificate_authority, config
from edge_agent.cli import app
from edge_agent.cli.certs import place_new_authority
from edge_agent.config.config_files import load_remote
from edge_agent.errors import CertificateUnusable, ConfigInvalid
from edge_agent.formats.certificates import check_key_matches, parse_certificates
from edge_agent.server.roles import certificate_roles
from tests.support.modes import umask
from tests.support.wall_clock import WallClock, needs_gcc

OLD = 0.0


def run(*arguments: object, code: int = 0) -> str:
    """Run the command; return what it wrote."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert code == result.exit_code, result.output
    return result.output


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    """A folder with an authority and a server."""
    run("certs", "init", "--dir", tmp_path / "tls", "--name", "shop.example", "--name", "10.0.0.5")
    return tmp_path / "tls"


def test_init_makes_what_a_daemon_needs(tls: Path):
    """Four files that belong together, the keys for their owner alone."""
    assert {"ca.crt", "ca.key", "server.crt", "server.key"} == {path.name for path in tls.iterdir()}
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in tls.glob("*.key")}
    check_key_matches((tls / "server.crt").read_bytes(), (tls / "server.key").read_bytes(), "it")
    assert {"shop.example", "10.0.0.5"} == set(parse_certificates((tls / "server.crt").read_bytes(), "it")[0].names)


def test_a_device_in_the_place_of_a_key_is_refused(tls: Path):
    """It has no end, and would fill the memory; the same for a certificate to show."""
    server = ("certs", "server", "--renew", "--dir", tls)
    for command in ((*server, "--ca-key", "/dev/zero"), ("certs", "show", "/dev/zero")):
        assert "/dev/zero has more than 1048576 bytes" in " ".join(run(*command, code=2).split())


@pytest.mark.parametrize("mask", [0o027, 0o077])
def test_the_daemon_enters_the_folder_whatever_the_umask(tmp_path: Path, mask: int):
    """Hardened machines give root a umask that closes new folders; a client's folder stays closed."""
    tls = tmp_path / "etc" / "tls"
    with umask(mask):
        run("certs", "init", "--dir", tls, "--name", "shop.example")
        run("certs", "issue", "till-3", "--role", "infer", "--dir", tls)
    folders = (tls.parent, tls, tls / "clients", tls / "clients/till-3")
    assert [0o755, 0o755, 0o755, 0o700] == [stat.S_IMODE(path.stat().st_mode) for path in folders]


@needs_gcc
def test_no_authority_is_made_by_a_clock_that_is_wrong_for_certain(tmp_path: Path):
    """A machine without a battery starts in 1970: its certificates would have ended once somebody sets its clock."""
    clock = WallClock(tmp_path)
    clock.jump(-int(time.time()) + 86_400)
    done = subprocess.run(
        [sys.executable, "-m", "edge_agent.cli", "certs", "init", "--dir", str(tmp_path / "tls")],
        env={**os.environ, **clock.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (3, True) == (done.returncode, "clock shows 1970-01-02" in done.stderr), done.stderr
    assert not (tmp_path / "tls").exists()


def test_what_init_prints_is_a_configuration(tmp_path: Path):
    """The lines can be pasted into agent.yaml as they are, and the next command is named."""
    said = run("certs", "init", "--dir", tmp_path / "tls", "--name", "shop.example")
    block = re.search(r"^service:\n(?:(?:  |access:).*\n)+", said, re.MULTILINE)
    assert block is not None
    (tmp_path / "agent.yaml").write_text(block[0])
    loaded = config.load(tmp_path / "agent.yaml", environ={})
    assert (str(tmp_path / "tls" / "server.crt"), False) == (loaded.access.certificate_file, loaded.service.insecure)
    assert "edge-agent certs issue till-3 --role infer --dir" in said


def test_init_overwrites_nothing(tls: Path):
    """A second authority over the first would shut everybody out."""
    before = {path.name: path.read_bytes() for path in tls.iterdir()}
    assert "already" in _refused("certs", "init", "--dir", tls)
    assert before == {path.name: path.read_bytes() for path in tls.iterdir()}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The folder of an agent.yaml."""
    (tmp_path / "agent.yaml").write_text("")
    return tmp_path


def certs(site: Path, *arguments: object, code: int = 0) -> str:
    """Run a command of `certs` on a site, without naming the folder of its authority."""
    return " ".join(run("--config", site / "agent.yaml", "certs", *arguments, code=code).split())


def test_the_authority_is_beside_agent_yaml_and_found_again(site: Path):
    """No command needs --dir, and none is proposed."""
    said = certs(site, "init", "--name", "shop.example")
    assert (True, False) == ("certs issue till-3 --role infer" in said, "--dir" in said)
    certs(site, "issue", "till-3", "--role", "infer")
    certs(site, "server", "--renew")
    assert {"ca.crt", "ca.key", "server.crt", "server.key", "clients"} == {
        each.name for each in (site / "tls").iterdir()
    }
    assert (site / "tls/clients/till-3/client.key").exists()


def test_the_folder_that_agent_yaml_names_is_used(site: Path):
    """Wherever the authority is; also where the rest of agent.yaml would be refused."""
    certs(site, "init", "--dir", site / "elsewhere", "--name", "shop.example")
    (site / "agent.yaml").write_text(f"access: {{client_ca_file: {site}/elsewhere/ca.crt}}\n")
    certs(site, "issue", "till-3", "--role", "infer")
    assert (site / "elsewhere/clients/till-3").is_dir()


def test_a_second_authority_is_made_only_on_request(site: Path):
    """It names the one that exists; --new-authority makes another, in another folder."""
    certs(site, "init", "--name", "shop.example")
    before = (site / "tls/ca.crt").read_bytes()
    for more in ((), ("--dir", site / "second")):
        said = certs(site, "init", "--name", "shop.example", *more, code=3)
        assert (True, True) == (f"{site}/tls/ca.crt" in said, "--new-authority" in said)
    assert "server.key already" in certs(site, "init", "--new-authority", code=3)
    assert not (site / "second").exists()
    certs(site, "init", "--new-authority", "--dir", site / "second", "--name", "shop.example")
    assert (before, True) == ((site / "tls/ca.crt").read_bytes(), (site / "second/ca.crt").exists())


def test_the_authority_of_version_0_1_is_found(site: Path, monkeypatch: pytest.MonkeyPatch):
    """./edge-agent-tls, with a note of where it would be found from everywhere."""
    monkeypatch.chdir(site)
    run("certs", "init", "--dir", site / "edge-agent-tls", "--name", "shop.example")
    said = certs(site, "issue", "till-3", "--role", "infer")
    assert f"'sudo mv {site}/edge-agent-tls {site}/tls'" in said
    assert (site / "edge-agent-tls/clients/till-3").is_dir()
    assert "has an authority already" in certs(site, "init", code=3)


def test_certificates_of_the_central_team_are_not_replaced_by_an_authority_of_the_site(site: Path):
    """An enrolment file brought them: the commands say whose they are, and make nothing."""
    (site / "clients.crt").write_text("of the fleet")
    (site / "agent.yaml").write_text(f"access: {{client_ca_file: {site}/clients.crt}}\n")
    assert f"{site}/clients.crt" in certs(site, "init", "--name", "shop.example", code=3)
    assert "central team" in certs(site, "server", "--renew", code=3)
    assert ["agent.yaml", "clients.crt"] == sorted(path.name for path in site.iterdir())


def test_a_key_that_is_kept_apart_is_asked_for(site: Path):
    """Not another authority: --ca-key names the file on its USB drive."""
    certs(site, "init", "--name", "shop.example")
    key = (site / "tls/ca.key").rename(site / "usb.key")
    said = certs(site, "server", "--renew", code=3)
    assert (True, False) == ("--ca-key FILE" in said, "certs init" in said)
    certs(site, "server", "--renew", "--ca-key", key)
    certs(site, "issue", "till-3", "--role", "infer", "--ca-key", key)


def test_without_root_a_developer_has_an_authority_of_their_own(tmp_path: Path):
    """In the data directory where no agent is installed; where one is, sudo is needed."""
    environ = {"XDG_DATA_HOME": str(tmp_path / "data")}
    before = os.geteuid()
    try:
        if before == 0:
            os.seteuid(65534)
        place = place_new_authority(Path("/no-such-folder/agent.yaml"), environ)
        with pytest.raises(CertificateUnusable, match="may not write to /etc") as caught:
            place_new_authority(Path("/etc/agent.yaml"), environ)
    finally:
        os.seteuid(before)
    assert (tmp_path / "data/edge-agent/tls", True) == (place.path, "in your data directory" in place.note)
    assert "sudo" in caught.value.remedy


def _refused(*arguments: object) -> str:
    """Run the command, which ends with the exit code for something on this machine."""
    return run(*arguments, code=3)


def test_issue_makes_a_folder_to_carry(tls: Path):
    """With the roles asked for, and a remote.yaml that works wherever the folder lies."""
    said = run("certs", "issue", "till-3", "--role", "infer", "--role", "feedback", "--dir", tls)
    assert "till-3 may infer and feedback" in said
    assert "till-3 must resolve the name shop.example." in said
    moved = (tls / "clients" / "till-3").rename(tls.parent / "moved")
    found = load_remote(moved, {})
    assert found is not None
    assert ("shop.example:9443", str(moved / "client.key")) == (found.address, found.key)
    made = parse_certificates(Path(found.certificate).read_bytes(), "it")[0]
    assert ("till-3", {"infer", "feedback"}) == (made.name, certificate_roles(made, {}))
    assert (tls / "ca.crt").read_bytes() == Path(found.ca).read_bytes()


def test_a_client_of_an_ipv6_address_can_read_its_folder(tmp_path: Path):
    """The address stands in brackets, and in quotation marks, because brackets begin a list in YAML."""
    run("certs", "init", "--dir", tmp_path, "--name", "fd00::5")
    run("certs", "issue", "till-3", "--role", "infer", "--dir", tmp_path)
    found = load_remote(tmp_path / "clients" / "till-3", {})
    assert found is not None
    assert "[fd00::5]:9443" == found.address


def test_a_new_authority_follows_an_old_one_without_a_gap(tls: Path):
    """As in the run book: with both in each ca.crt, the new one issues, and the client accepts servers of either."""
    second = tls.parent / "tls-2"
    run("certs", "init", "--new-authority", "--dir", second, "--name", "shop.example")
    old, new = ((folder / "ca.crt").read_bytes() for folder in (tls, second))
    (second / "ca.crt").write_bytes(new + old)
    run("certs", "issue", "till-3", "--role", "infer", "--dir", second)
    client = second / "clients" / "till-3"
    assert new + old == (client / "ca.crt").read_bytes()
    made, issuer = (x509.load_pem_x509_certificate(pem) for pem in ((client / "client.crt").read_bytes(), new))
    made.verify_directly_issued_by(issuer)


def test_a_client_is_renewed_on_request(tls: Path):
    """Its address stays as somebody corrected it; without --renew nothing is written."""
    run("certs", "issue", "till-3", "--role", "infer", "--dir", tls)
    folder = tls / "clients" / "till-3"
    (folder / "remote.yaml").write_text("address: other:1\n")
    before = (folder / "client.crt").read_bytes()
    assert "--renew" in _refused("certs", "issue", "till-3", "--role", "infer", "--dir", tls)
    assert before == (folder / "client.crt").read_bytes()
    run("certs", "issue", "till-3", "--role", "infer", "--dir", tls, "--renew")
    assert before != (folder / "client.crt").read_bytes()
    assert "address: other:1\n" == (folder / "remote.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("issue", "till-3", "--role", "boss"), "a role is one of infer, feedback, admin", 2),
        (("issue", "till-3"), "Missing option", 2),
        (("issue", "../x", "--role", "infer"), "cannot be the name of a client", 3),
        (("server", "--renew", "--name", "a b"), "neither a host name nor an IP address", 3),
    ],
)
def test_what_cannot_be_issued_is_named(tls: Path, arguments: tuple[str, ...], said: str, code: int):
    """And nothing is written."""
    before = sorted(tls.rglob("*"))
    assert said in " ".join(run("certs", *arguments, "--dir", tls, code=code).split())
    assert before == sorted(tls.rglob("*"))


def test_without_an_authority_the_command_that_makes_one_is_named(tmp_path: Path):
    """Not a traceback."""
    assert "certs init" in _refused("certs", "issue", "till-3", "--role", "infer", "--dir", tmp_path)


def test_the_server_is_renewed_for_the_same_names(tls: Path):
    """Or for others, when they are given."""
    before = parse_certificates((tls / "server.crt").read_bytes(), "it")[0]
    run("certs", "server", "--renew", "--dir", tls)
    after = parse_certificates((tls / "server.crt").read_bytes(), "it")[0]
    assert (before.names, True) == (after.names, before.fingerprint != after.fingerprint)
    run("certs", "server", "--renew", "--dir", tls, "--name", "new.example")
    assert ("new.example",) == parse_certificates((tls / "server.crt").read_bytes(), "it")[0].names
    assert "already there" in _refused("certs", "server", "--dir", tls)


def test_show_says_whose_and_until_when(tls: Path):
    """Roles, names, the fingerprint of the audit log; and it says when one has ended."""
    run("certs", "issue", "boss", "--role", "admin", "--dir", tls)
    said = run("certs", "show", tls / "clients" / "boss" / "client.crt")
    assert ["certificate of boss", "admin"] == [said.splitlines()[0], said.splitlines()[2].split()[-1]]
    assert "authority of Edge Agent authority of shop.example" in run("certs", "show", tls / "ca.crt")
    root = certificate_authority.load_authority(tls / "ca.crt", tls / "ca.key", time.time())
    (tls / "old.crt").write_bytes(certificate_authority.issue_client_certificate(root, "old", [], OLD, 30).certificate)
    (tls / "new.crt").write_bytes(
        certificate_authority.issue_client_certificate(root, "new", [], time.time() + 9 * 86_400, 30).certificate
    )
    assert "ended 1970-01-31" in run("certs", "show", tls / "old.crt")
    assert "valid     from" in run("certs", "show", tls / "new.crt")
    assert "no certificate in PEM" in _refused("certs", "show", tls / "server.key")
    [plain] = json.loads(run("certs", "show", tls / "clients" / "boss" / "client.crt", "--json"))
    assert ("boss", ["admin"], False) == (plain["name"], plain["roles"], plain["is_authority"])
    assert "cannot read" in _refused("certs", "show", tls / "nowhere")


def remote_of(folder: Path, **values: str) -> Path:
    """Write a remote.yaml."""
    folder.mkdir(exist_ok=True)
    (folder / "remote.yaml").write_text(yaml.safe_dump(values))
    return folder / "remote.yaml"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "address: Field required"),
        ({"address": "x:1", "adress": "y"}, "adress"),
        ({"address": "x:1", "ca": "remote.yaml"}, "a certificate needs certificate and key as well"),
        ({"address": "x:1", "ca": "a", "certificate": "b", "key": "c"}, "cannot be read"),
    ],
)
def test_a_remote_that_is_wrong_is_named(tmp_path: Path, values: dict[str, str], said: str):
    """With the key and the file."""
    with pytest.raises(ConfigInvalid) as caught:
        load_remote(remote_of(tmp_path, **values), {})
    assert said in caught.value.message
    assert str(tmp_path / "remote.yaml") in caught.value.message


def test_where_no_remote_is_named_there_is_none(tmp_path: Path):
    """The sockets of this machine; the environment may name one."""
    path = remote_of(tmp_path, address="x:1")
    assert load_remote(None, {}) is None
    found = load_remote(None, {"EDGE_AGENT_REMOTE": str(path)})
    assert found is not None
    assert ("x:1", False) == (found.address, found.has_tls)
    with pytest.raises(ConfigInvalid, match="cannot read"):
        load_remote(tmp_path / "nowhere.yaml", {})
    path.write_text("a: [")
    with pytest.raises(ConfigInvalid, match="not valid YAML"):
        load_remote(path, {})


def test_a_key_of_another_certificate_is_named_before_anything_is_sent(tls: Path):
    """gRPC would only say that nobody answers."""
    for name in ("a", "b"):
        run("certs", "issue", name, "--role", "infer", "--dir", tls)
    (tls / "clients/b/client.key").replace(tls / "clients/a/client.key")
    assert "the key does not belong to" in _refused("--remote", tls / "clients/a", "classify", "x", "y")


def test_a_remote_with_a_type_that_does_not_fit_is_refused(tmp_path: Path):
    """It is no YAML that can be read, and no internal error."""
    path = tmp_path / "remote.yaml"
    path.write_text("address: !!bool shop\n")
    with pytest.raises(ConfigInvalid, match="is not valid YAML"):
        load_remote(path, {})
