"""`doctor` about the console."""

import socket
import time
from dataclasses import replace

import pytest

from edge_agent import certificate_authority
from edge_agent.certificate_authority import AUTHORITY_DAYS
from edge_agent.config import WebConfig
from edge_agent.doctor.console_checks import UNIT, ConsoleFacts, judge_console
from edge_agent.doctor.installation import FileInfo
from edge_agent.doctor.unit_checks import UnitFacts
from tests.support.doctor_cases import DAY, file, looked, place
from tests.support.free_ports import free_port
from tests.support.tls_site import TlsSite


def unit(state: str, enabled: str = "disabled") -> UnitFacts:
    said = {"LoadState": "loaded", "ActiveState": state, "UnitFileState": enabled, "Result": "exit-code"}
    return UnitFacts(UNIT, False, {**said, "ExecMainStatus": "3"})


TOKEN = file("/x/token", 0o600)
QUIET = ConsoleFacts("127.0.0.1:8390", False, TOKEN, unit=unit("inactive"))
WANTED = replace(QUIET, unit=unit("active", "enabled"))
SECURE = replace(WANTED, certificate="/x/server.crt", listening=True)


@pytest.mark.parametrize(
    ("facts", "verdict", "seen"),
    [
        (QUIET, "ok", "not started; 'edge-agent serve web' starts it"),
        (replace(QUIET, unit=None), "ok", "not started; 'edge-agent serve web' starts it"),
        (
            replace(QUIET, token=FileInfo("/x/token", "")),
            "ok",
            "not started; 'edge-agent serve web' starts it",
        ),
        (replace(QUIET, listening=True), "ok", "127.0.0.1:8390 is open"),
        (replace(QUIET, token=file("/x/token", 0o640)), "fault", "other users may read the token"),
        (replace(WANTED, missing=("uvicorn",)), "fault", "the console needs uvicorn, which is not installed"),
        (replace(WANTED, listening=True), "ok", "127.0.0.1:8390 is open"),
        (WANTED, "fault", "no process listens on 127.0.0.1:8390"),
        (replace(QUIET, unit=unit("inactive", "enabled")), "fault", "no process listens on 127.0.0.1:8390"),
        (replace(QUIET, unit=unit("failed")), "fault", f"{UNIT} failed: it ended with exit code 3"),
        (replace(SECURE, problem="the key does not belong to it"), "fault", "the key does not belong to it"),
        (replace(SECURE, expires_in=-3 * DAY), "fault", "/x/server.crt expired 3 days ago"),
        (replace(SECURE, expires_in=3 * DAY), "warning", "/x/server.crt expires in 3 days"),
        (replace(SECURE, expires_in=300 * DAY), "ok", "127.0.0.1:8390 is open"),
        (
            replace(SECURE, certificate="/x/ca.crt", of_clients=True, expires_in=-3 * DAY),
            "fault",
            "/x/ca.crt expired 3 days ago: the console lets no browser in",
        ),
    ],
)
def test_console_is_judged(facts, verdict, seen):
    """An open token, an expiring certificate and a service that does not run are findings with a remedy; a console that
    is not started is ok."""
    [found] = judge_console(facts)
    assert (verdict, True) == (found.verdict, seen in found.seen), found.seen
    assert (verdict == "ok") == (not found.remedy and not found.command)


def test_doctor_checks_the_configured_token_file(tmp_path):
    """`doctor` checks the token file and the port that agent.yaml configures for the console; a token that others may
    read is a fault."""
    web = WebConfig(address=f"127.0.0.1:{free_port()}", token_file=str(tmp_path / "token"))
    assert "ok" == looked(place(tmp_path, web=web))["console"].verdict
    (tmp_path / "token").write_text("t" * 43)
    (tmp_path / "token").chmod(0o644)
    found = looked(place(tmp_path, web=web))["console"]
    assert ("fault", True) == (found.verdict, str(tmp_path / "token") in found.command)


def test_doctor_checks_the_consoles_certificate(tmp_path):
    """`doctor` reports a certificate of the console that is missing or whose key does not belong to it."""
    site, token = TlsSite(tmp_path / "tls"), str(tmp_path / "token")
    files = {"certificate_file": str(site.certificate), "key_file": str(site.key), "client_ca_file": str(site.ca)}
    (tmp_path / "root/run/systemd/system").mkdir(parents=True)

    def seen(**changed: str) -> str:
        web = WebConfig(address=f"127.0.0.1:{free_port()}", token_file=token, **{**files, **changed})
        where = replace(place(tmp_path, web=web), run=lambda _: "LoadState=loaded\nActiveState=active\n")
        return looked(where)["console"].seen

    assert "no process listens" in seen()
    assert "does not belong" in seen(key_file=str(site.folder / "ca.key"))
    assert "none.crt does not exist" in seen(certificate_file=str(tmp_path / "none.crt"))


def test_doctor_checks_the_consoles_client_authority(tmp_path):
    """If the clients' authority expires before the certificate, `doctor` names the authority and does not advise to
    renew the certificate."""
    site = TlsSite(tmp_path / "tls")
    authority = certificate_authority.make_authority("old", time.time() - (AUTHORITY_DAYS - 3) * DAY)
    certificate_authority.write_pair(authority, tmp_path / "old.crt", tmp_path / "old.key")
    certificate_authority.write_pair(site.server(days=365), site.certificate, site.key, replace=True)
    files = {"certificate_file": str(site.certificate), "key_file": str(site.key)}
    with socket.create_server(("127.0.0.1", 0)) as console:
        address = f"127.0.0.1:{console.getsockname()[1]}"
        web = WebConfig(
            address=address, client_ca_file=str(tmp_path / "old.crt"), token_file=str(tmp_path / "t"), **files
        )
        found = looked(place(tmp_path, web=web))["console"]
    assert ("warning", True) == (found.verdict, found.seen.startswith(f"{tmp_path / 'old.crt'} expires in ")), found
    assert "--renew" not in found.command


def test_console_certificate_is_renewed_in_its_folder():
    """The command renews the certificate in its own folder, because without --dir it would use another authority.

    It writes server.crt; if the certificate has another name, the remedy is to change agent.yaml.
    """
    facts = ConsoleFacts(
        "127.0.0.1:8391", True, file("token", kind=""), certificate="/srv/tls/web.crt", expires_in=-9.0
    )
    [found] = judge_console(facts)
    assert ("fault", True) == (found.verdict, "certs server --renew --dir /srv/tls --name NAME; " in found.command)
    assert "writes server.crt and server.key: name both in agent.yaml" in found.remedy
    [found] = judge_console(replace(facts, certificate="/srv/tls/server.crt"))
    assert ("name both" in found.remedy, "--dir /srv/tls; " in found.command) == (False, True)


def test_console_certificate_of_another_authority_is_not_renewed():
    """If the certificate's authority is not on this machine, the remedy names that authority and the command does not
    renew."""
    facts = ConsoleFacts(
        "127.0.0.1:8391",
        True,
        file("token", kind=""),
        certificate="/srv/tls/web.crt",
        expires_in=9.0,
        has_authority=False,
    )
    [found] = judge_console(facts)
    assert ("warning", True, False) == (found.verdict, "its authority" in found.remedy, "--renew" in found.command)
