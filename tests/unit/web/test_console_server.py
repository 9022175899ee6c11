"""What the console listens on."""

import os

import pytest

from edge_agent.config import ConfigInvalid, load
from edge_agent.errors import SocketInUse
from edge_agent.web.console_server import display_address, open_listener
from tests.support.free_ports import free_port

CERTIFICATES = {"certificate_file": "a.crt", "key_file": "a.key", "client_ca_file": "ca.crt"}


@pytest.mark.parametrize(
    ("web", "said"),
    [
        ({"address": "0.0.0.0:8390"}, "which others than this machine may reach"),
        ({"address": "shop.example:8390"}, "which others than this machine may reach"),
        ({"address": "8390"}, "is no address"),
        ({"certificate_file": "a.crt"}, "needs web.key_file and web.client_ca_file"),
        ({**CERTIFICATES, "key_file": ""}, "needs web.key_file as well"),
        ({"roles": ["look"]}, "web.roles.0"),
        ({"adress": "127.0.0.1:1"}, "address"),
    ],
)
def test_what_would_open_the_console_by_an_oversight_is_refused(tmp_path, web, said):
    """Others than this machine are let in with certificates alone, all three files together."""
    path = tmp_path / "agent.yaml"
    path.write_text(f"web: {web}\n")
    with pytest.raises(ConfigInvalid) as refused:
        load(path, environ={})
    assert said in f"{refused.value.message} {refused.value.remedy}"


@pytest.mark.parametrize("web", [{}, {"address": "[::1]:1"}, CERTIFICATES, {**CERTIFICATES, "address": "0.0.0.0:1"}])
def test_a_console_for_this_machine_or_with_certificates_is_fine(tmp_path, web):
    """Loopback, or all three files, is all that it takes."""
    path = tmp_path / "agent.yaml"
    path.write_text(f"web: {web}\n")
    assert load(path, environ={}).web.has_tls == ("key_file" in web)


def test_a_port_that_is_taken_is_named():
    """Two consoles on one address: the second says what to do."""
    address = f"127.0.0.1:{free_port()}"
    with open_listener(address), pytest.raises(SocketInUse, match=f"cannot listen on {address}") as refused:
        open_listener(address)
    assert "'address' under 'web'" in refused.value.remedy


def test_the_shown_address_can_be_opened():
    """An address of every network is shown by this machine's name; one of IPv6 in brackets."""
    assert "http://127.0.0.1:1" == display_address("127.0.0.1:1", secure=False)
    assert "https://[::1]:1" == display_address("[::1]:1", secure=True)
    assert f"https://{os.uname().nodename}:1" == display_address("0.0.0.0:1", secure=True)
