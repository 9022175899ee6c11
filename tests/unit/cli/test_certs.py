"""`edge-agent certs` as a technician uses it, and the folder that it creates for a client."""

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
    """Run the command, check its exit code and return its output."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert code == result.exit_code, result.output
    return result.output


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    """A folder with an authority and a server certificate."""
    run("certs", "init", "--dir", tmp_path / "tls", "--name", "shop.example", "--name", "10.0.0.5")
    return tmp_path / "tls"


def test_init_creates_authority_and_server_certificate(tls: Path):
    """`certs init` creates a matching certificate and key for the authority and for the server; only the owner can read
    the keys."""
    assert {"ca.crt", "ca.key", "server.crt", "server.key"} == {path.name for path in tls.iterdir()}
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in tls.glob("*.key")}
    check_key_matches((tls / "server.crt").read_bytes(), (tls / "server.key").read_bytes(), "it")
    assert {"shop.example", "10.0.0.5"} == set(parse_certificates((tls / "server.crt").read_bytes(), "it")[0].names)


def test_endless_device_file_is_refused(tls: Path):
    """The commands refuse /dev/zero as a key or certificate after 1 MiB instead of filling the memory."""
    server = ("certs", "server", "--renew", "--dir", tls)
    for command in ((*server, "--ca-key", "/dev/zero"), ("certs", "show", "/dev/zero")):
        assert "/dev/zero has more than 1048576 bytes" in " ".join(run(*command, code=2).split())


@pytest.mark.parametrize("mask", [0o027, 0o077])
def test_daemon_can_enter_tls_folder_under_any_umask(tmp_path: Path, mask: int):
    """`certs init` creates folders with mode 0755 under a strict umask, which hardened machines give root; a client's
    folder has mode 0700."""
    tls = tmp_path / "etc" / "tls"
    with umask(mask):
        run("certs", "init", "--dir", tls, "--name", "shop.example")
        run("certs", "issue", "till-3", "--role", "infer", "--dir", tls)
    folders = (tls.parent, tls, tls / "clients", tls / "clients/till-3")
    assert [0o755, 0o755, 0o755, 0o700] == [stat.S_IMODE(path.stat().st_mode) for path in folders]


@needs_gcc
def test_init_refuses_a_clock_in_1970(tmp_path: Path):
    """`certs init` refuses to create an authority while the clock shows 1970, as on a machine without a clock battery:
    its certificates would have expired once the clock is set."""
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


def test_init_prints_lines_for_agent_yaml(tmp_path: Path):
    """`certs init` prints lines that are valid in agent.yaml unchanged, and names the next command."""
    said = run("certs", "init", "--dir", tmp_path / "tls", "--name", "shop.example")
    block = re.search(r"^service:\n(?:(?:  |access:).*\n)+", said, re.MULTILINE)
    assert block is not None
    (tmp_path / "agent.yaml").write_text(block[0])
    loaded = config.load(tmp_path / "agent.yaml", environ={})
    assert (str(tmp_path / "tls" / "server.crt"), False) == (loaded.access.certificate_file, loaded.service.insecure)
    assert "edge-agent certs issue till-3 --role infer --dir" in said


def test_init_does_not_overwrite_an_authority(tls: Path):
    """`certs init` refuses a folder that has an authority and leaves its files unchanged, because a second authority
    would lock out every client."""
    before = {path.name: path.read_bytes() for path in tls.iterdir()}
    assert "already" in _refused("certs", "init", "--dir", tls)
    assert before == {path.name: path.read_bytes() for path in tls.iterdir()}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The folder of an agent.yaml."""
    (tmp_path / "agent.yaml").write_text("")
    return tmp_path


def certs(site: Path, *arguments: object, code: int = 0) -> str:
    """Run a command of `certs` on a site without naming the authority's folder."""
    return " ".join(run("--config", site / "agent.yaml", "certs", *arguments, code=code).split())


def test_authority_is_created_next_to_agent_yaml_and_found_there(site: Path):
    """`certs init` creates the authority in the tls folder next to agent.yaml, where the other commands find it without
    --dir."""
    said = certs(site, "init", "--name", "shop.example")
    assert (True, False) == ("certs issue till-3 --role infer" in said, "--dir" in said)
    certs(site, "issue", "till-3", "--role", "infer")
    certs(site, "server", "--renew")
    assert {"ca.crt", "ca.key", "server.crt", "server.key", "clients"} == {
        each.name for each in (site / "tls").iterdir()
    }
    assert (site / "tls/clients/till-3/client.key").exists()


def test_authority_folder_is_taken_from_agent_yaml(site: Path):
    """`certs issue` uses the authority folder that agent.yaml names, also if the rest of agent.yaml is invalid."""
    certs(site, "init", "--dir", site / "elsewhere", "--name", "shop.example")
    (site / "agent.yaml").write_text(f"access: {{client_ca_file: {site}/elsewhere/ca.crt}}\n")
    certs(site, "issue", "till-3", "--role", "infer")
    assert (site / "elsewhere/clients/till-3").is_dir()


def test_second_authority_needs_new_authority_option(site: Path):
    """`certs init` refuses a second authority and names the existing one; --new-authority creates another in a
    different folder."""
    certs(site, "init", "--name", "shop.example")
    before = (site / "tls/ca.crt").read_bytes()
    for more in ((), ("--dir", site / "second")):
        said = certs(site, "init", "--name", "shop.example", *more, code=3)
        assert (True, True) == (f"{site}/tls/ca.crt" in said, "--new-authority" in said)
    assert "server.key already" in certs(site, "init", "--new-authority", code=3)
    assert not (site / "second").exists()
    certs(site, "init", "--new-authority", "--dir", site / "second", "--name", "shop.example")
    assert (before, True) == ((site / "tls/ca.crt").read_bytes(), (site / "second/ca.crt").exists())


def test_authority_of_version_0_1_is_found(site: Path, monkeypatch: pytest.MonkeyPatch):
    """The commands find an authority of version 0.1 in ./edge-agent-tls and print the command that moves it to the tls
    folder."""
    monkeypatch.chdir(site)
    run("certs", "init", "--dir", site / "edge-agent-tls", "--name", "shop.example")
    said = certs(site, "issue", "till-3", "--role", "infer")
    assert f"'sudo mv {site}/edge-agent-tls {site}/tls'" in said
    assert (site / "edge-agent-tls/clients/till-3").is_dir()
    assert "has an authority already" in certs(site, "init", code=3)


def test_site_does_not_replace_certificates_of_central_team(site: Path):
    """If an enrolment file installed the certificates, `certs init` and `certs server` name the file and the central
    team, and create nothing."""
    (site / "clients.crt").write_text("of the fleet")
    (site / "agent.yaml").write_text(f"access: {{client_ca_file: {site}/clients.crt}}\n")
    assert f"{site}/clients.crt" in certs(site, "init", "--name", "shop.example", code=3)
    assert "central team" in certs(site, "server", "--renew", code=3)
    assert ["agent.yaml", "clients.crt"] == sorted(path.name for path in site.iterdir())


def test_missing_authority_key_is_requested_with_ca_key(site: Path):
    """If the authority's key is stored elsewhere, such as on a USB drive, the command asks for --ca-key FILE and does
    not suggest a new authority."""
    certs(site, "init", "--name", "shop.example")
    key = (site / "tls/ca.key").rename(site / "usb.key")
    said = certs(site, "server", "--renew", code=3)
    assert (True, False) == ("--ca-key FILE" in said, "certs init" in said)
    certs(site, "server", "--renew", "--ca-key", key)
    certs(site, "issue", "till-3", "--role", "infer", "--ca-key", key)


def test_developer_without_root_gets_an_authority_in_their_data_dir(tmp_path: Path):
    """Without root and without an installed agent, the authority is created in the user's data directory; where an
    agent is installed, the remedy is sudo."""
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
    """Run a command that must end with exit code 3, and return its output."""
    return run(*arguments, code=3)


def test_issue_creates_a_portable_client_folder(tls: Path):
    """`certs issue` creates a folder with a certificate for the requested roles and a remote.yaml that still works
    after the folder is moved."""
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


def test_ipv6_address_in_client_folder_is_readable(tmp_path: Path):
    """remote.yaml holds an IPv6 address in brackets and in quotes, because an unquoted bracket begins a list in
    YAML."""
    run("certs", "init", "--dir", tmp_path, "--name", "fd00::5")
    run("certs", "issue", "till-3", "--role", "infer", "--dir", tmp_path)
    found = load_remote(tmp_path / "clients" / "till-3", {})
    assert found is not None
    assert "[fd00::5]:9443" == found.address


def test_new_authority_issues_while_old_one_is_still_trusted(tls: Path):
    """With both authorities in ca.crt, as in the runbook, the new one issues a client's certificate and the client's
    ca.crt accepts servers of either."""
    second = tls.parent / "tls-2"
    run("certs", "init", "--new-authority", "--dir", second, "--name", "shop.example")
    old, new = ((folder / "ca.crt").read_bytes() for folder in (tls, second))
    (second / "ca.crt").write_bytes(new + old)
    run("certs", "issue", "till-3", "--role", "infer", "--dir", second)
    client = second / "clients" / "till-3"
    assert new + old == (client / "ca.crt").read_bytes()
    made, issuer = (x509.load_pem_x509_certificate(pem) for pem in ((client / "client.crt").read_bytes(), new))
    made.verify_directly_issued_by(issuer)


def test_client_certificate_is_renewed_only_with_renew(tls: Path):
    """`certs issue --renew` replaces a client's certificate and keeps an address that somebody edited; without --renew
    the command refuses and writes nothing."""
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
def test_invalid_certificate_request_is_refused(tls: Path, arguments: tuple[str, ...], said: str, code: int):
    """The command reports an unknown role, a missing role, an invalid client name or an invalid host name, and writes
    nothing."""
    before = sorted(tls.rglob("*"))
    assert said in " ".join(run("certs", *arguments, "--dir", tls, code=code).split())
    assert before == sorted(tls.rglob("*"))


def test_issue_without_authority_names_certs_init(tmp_path: Path):
    """Without an authority, `certs issue` names `certs init`."""
    assert "certs init" in _refused("certs", "issue", "till-3", "--role", "infer", "--dir", tmp_path)


def test_server_renewal_keeps_names_unless_others_are_given(tls: Path):
    """`certs server --renew` issues a certificate for the same names, or for those of --name; without --renew it
    refuses."""
    before = parse_certificates((tls / "server.crt").read_bytes(), "it")[0]
    run("certs", "server", "--renew", "--dir", tls)
    after = parse_certificates((tls / "server.crt").read_bytes(), "it")[0]
    assert (before.names, True) == (after.names, before.fingerprint != after.fingerprint)
    run("certs", "server", "--renew", "--dir", tls, "--name", "new.example")
    assert ("new.example",) == parse_certificates((tls / "server.crt").read_bytes(), "it")[0].names
    assert "already there" in _refused("certs", "server", "--dir", tls)


def test_show_prints_owner_roles_and_validity(tls: Path):
    """`certs show` prints the owner, roles and validity of a certificate as text or JSON, and marks one that has
    expired or is not valid yet."""
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
def test_invalid_remote_yaml_is_reported_with_its_path(tmp_path: Path, values: dict[str, str], said: str):
    """An invalid remote.yaml is refused with the problem and the path of the file."""
    with pytest.raises(ConfigInvalid) as caught:
        load_remote(remote_of(tmp_path, **values), {})
    assert said in caught.value.message
    assert str(tmp_path / "remote.yaml") in caught.value.message


def test_remote_is_optional_and_read_from_environment(tmp_path: Path):
    """Without an option and without EDGE_AGENT_REMOTE no remote is used; a named file that cannot be read or is not
    YAML is refused."""
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


def test_remote_key_of_another_certificate_is_refused(tls: Path):
    """The client checks that key and certificate match before it connects, because gRPC would only report that nobody
    answers."""
    for name in ("a", "b"):
        run("certs", "issue", name, "--role", "infer", "--dir", tls)
    (tls / "clients/b/client.key").replace(tls / "clients/a/client.key")
    assert "the key does not belong to" in _refused("--remote", tls / "clients/a", "classify", "x", "y")


def test_remote_yaml_with_an_impossible_type_is_refused(tmp_path: Path):
    """A YAML tag that does not fit its value in remote.yaml is reported as invalid YAML, not as an internal error."""
    path = tmp_path / "remote.yaml"
    path.write_text("address: !!bool shop\n")
    with pytest.raises(ConfigInvalid, match="is not valid YAML"):
        load_remote(path, {})
