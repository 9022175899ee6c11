"""The commands of edge-agent-setup if a service does not start or stays disabled."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from installer.setup import durable_files, program_build
from installer.setup.commands import SetupRun, disabled_uplink
from installer.setup.errors import FAILED, SetupError
from installer.setup.install_paths import InstallPaths
from installer.setup.programs import InstalledPrograms
from installer.setup.services import Services


class StubbornServices(Services):
    """Services that all fail to start."""

    def start(self, units: list[str]) -> None:
        """Fail as systemctl does."""
        raise SetupError(FAILED, "'systemctl restart edge-agent.service' failed", "'edge-agent doctor' says more.")


def test_failed_rollback_names_the_command_to_return(tmp_path: Path):
    """If the service does not start after a rollback, the error names the command that returns to the newer program."""
    places = InstallPaths(tmp_path)
    for version in ("1.0", "2.0"):
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        about = dict.fromkeys(("variant", "commit", "interpreter", "installed_at"), "x")
        about |= {"version": version, "python": python}
        durable_files.write(places.programs / version / program_build.MARK, json.dumps(about).encode())
        durable_files.write(places.programs / version / "share/agent.yaml", b"")
        durable_files.link(places.programs / version / "bin/python", sys.executable)
    places.current.symlink_to("venvs/2.0")
    places.previous.symlink_to("venvs/1.0")
    setup = SetupRun(places, StubbornServices(places, starts_units=True), InstalledPrograms(places))
    with pytest.raises(SetupError) as failed:
        setup.rollback()
    assert "venvs/1.0" == str(places.current.readlink())
    forward = "'sudo edge-agent-setup rollback' goes back to 2.0 (x, 2.0)."
    assert f"'edge-agent doctor' says more. {forward}" == failed.value.remedy


@pytest.mark.parametrize(
    ("site_yaml", "state", "said"),
    [
        pytest.param("uplink:\n  url: s3://fleet/examples\n", "disabled", True, id="uploads"),
        pytest.param("uplink:\n  updates_url: https://fleet\n", "disabled", True, id="downloads"),
        pytest.param("escalation:\n  url: https://model\n", "disabled", True, id="asks a large model"),
        pytest.param("uplink:\n  url: s3://fleet/examples\n", "enabled", False, id="starts"),
        pytest.param("site:\n  id: shop-12\n", "disabled", False, id="uses a USB drive"),
        pytest.param("", "disabled", False, id="never enrolled"),
    ],
)
def test_setup_names_the_command_that_enables_a_disabled_uplink(tmp_path: Path, site_yaml: str, state: str, said: bool):
    """Setup names the command that enables the uplink only if the uplink is disabled and site.yaml needs it, as after
    an uninstall that kept the enrolment."""
    places = InstallPaths(tmp_path)
    if site_yaml:
        durable_files.write(places.config / "site.yaml", site_yaml.encode())
    found = disabled_uplink(places, state)
    assert said == ("sudo systemctl enable --now edge-uplink" in found) == bool(found)
