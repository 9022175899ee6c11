"""A central team and its machines, for following docs/enrolment.md: every step is the command that a person types.

team = CentralFolder(tmp_path, url, options)
box = EnrolledMachine(tmp_path / "box"); box.enrol(team.kit("shop-12"))
with box.serving(): box.correct(2); box.uplink()
team.collect(); team.sites("accept", "shop-12", box.code())
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from edge_agent.client import Classification, ReviewClient
from edge_agent.formats import enrolment_file
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.fleet_cases import CentralTeam as Publishing
from tests.support.segments import CentralTeam as Collecting

SITE, TASK = "shop-12", "pos"
_SECRETS = ("access_key_id", "secret_access_key")


def run(*command: object, code: int = 0, **environment: str) -> str:
    """Run a command that must end with that code; return its output."""
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    assert code == done.returncode, done.stdout + done.stderr
    return done.stdout + done.stderr


def hand_over(etc: Path, folder: Path) -> None:
    """Pass the credentials to the uplink as systemd does."""
    drop_in = etc / "systemd/system/edge-uplink.service.d/credentials.conf"
    for line in drop_in.read_text().splitlines() if drop_in.exists() else ():
        directive, _, rest = line.partition("=")
        name, _, path = rest.partition(":")
        target = folder / name
        if directive == "LoadCredentialEncrypted":
            run("systemd-creds", "decrypt", f"--name={name}", path, target)
        elif directive == "LoadCredential":
            target.write_bytes(Path(path).read_bytes())
        if target.exists():
            target.chmod(0o400)


class CentralFolder:
    """The central team's folder: keys, fleet.yaml, enrolment files, collected examples. Sites upload to `url`."""

    def __init__(self, folder: Path, url: str, options: dict[str, str]) -> None:
        self.folder, self.url, self.options = folder / "central", url, options
        self.publishing = Publishing(folder / "publishing")
        (self.folder / "secrets").mkdir(parents=True)
        (self.folder / "root.json").write_bytes(self.publishing.root_bytes)
        self.keys = ["central-keys"]
        self.convert("keys", "create", self.folder / "central-keys")
        self.data = Collecting(self.folder)

    def convert(self, *arguments: object, code: int = 0) -> str:
        """Run edge-convert."""
        return run(sys.executable, "-m", "convert.cli", *arguments, code=code)

    def enrolment(self, site: str = SITE, **changes: Any) -> Path:
        """Make an enrolment file by fleet.yaml; each site has a credential of its own."""
        secret = {name: value for name, value in self.options.items() if name in _SECRETS}
        public = {name: value for name, value in self.options.items() if name not in _SECRETS}
        credential = {"credential": "secrets/{site}.yaml"} if secret else {}
        (self.folder / "secrets" / f"{site}.yaml").write_text(yaml.safe_dump(secret))
        plain = {
            "registry": "collected/sites.json",
            "keys": self.keys,
            "root": "root.json",
            "examples": {"url": self.url, "options": public, **credential},
            "updates": {"url": str(self.publishing.folder)},
        }
        (self.folder / "fleet.yaml").write_text(yaml.safe_dump({**plain, **changes}))
        self.convert(
            "enrolment-file", site, "--force", "--fleet", self.folder / "fleet.yaml", "--out", self.folder / "kits"
        )
        return self.folder / "kits" / f"{site}.kit"

    def collect(self, *more: Path, code: int = 0) -> dict[str, Any]:
        """Run collect; return its report."""
        options = [f"--store-option={name}={value}" for name, value in self.options.items()]
        places = ["--keys", self.folder / self.keys[0], "--out", self.folder / "collected"]
        said = self.convert("collect", self.url, *more, *places, *options, "--json", code=code)
        report: dict[str, Any] = json.loads(said.splitlines()[-1])
        return report

    def sites(self, *arguments: str, code: int = 0) -> str:
        """Run edge-convert sites."""
        return self.convert("sites", *arguments, "--collected", self.folder / "collected", code=code)

    def corrections(self) -> int:
        """Return how many corrected examples have arrived."""
        return int(self.data.query("SELECT count(*) FROM examples WHERE truth = 'price'")[0][0])


class EnrolledMachine:
    """A machine: its /etc, its state, and the two daemons."""

    def __init__(self, folder: Path) -> None:
        self.etc = folder / "etc"
        settings = {
            "examples": {"collect": {TASK: "upstream"}, "commit_seconds": 0.05, "disk_reserve_bytes": 0},
            "uplink": {"disk_reserve_bytes": 0},
        }
        # agent.yaml lies where enrolment writes, and the state beside it.
        self.daemon = RunningDaemon(self.etc / "edge-agent", **settings)
        self.bundle = echo_bundle(folder / TASK, TASK, labels=("refund", "price"))
        self.answered = 0

    def command(self, *arguments: object, code: int = 0, **environment: str) -> str:
        """Run edge-agent."""
        return run(*self.daemon.command(), *arguments, code=code, **environment)

    def enrol(self, path: Path, *options: str, code: int = 0) -> str:
        """Enrol the machine, with the code of the enrolment file."""
        spoken = enrolment_file.verification_code(enrolment_file.parse(path.read_bytes())[1])
        return self.command("enrol", path, "--code", spoken, "--etc", self.etc, *options, code=code)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Run the daemon, with a task."""
        with self.daemon:
            self.daemon.install(self.bundle)
            yield

    def correct(self, count: int) -> None:
        """Answer, have each answer corrected, and seal it all."""
        texts = [f"refund {self.answered + number}" for number in range(count)]
        self.answered += count
        with self.daemon.client() as client, ReviewClient(f"unix:{self.daemon.run_dir}/review.sock") as reviewer:
            for answer in client.classify(TASK, texts):
                assert isinstance(answer, Classification), answer
                reviewer.correct(answer.prediction_id, "price", reviewer="anna")
        with self.daemon.admin() as admin:
            admin.seal_examples()

    def uplink(self) -> None:
        """Upload and download everything that is due, with the credentials that the unit's drop-in names."""
        with tempfile.TemporaryDirectory() as handed:
            hand_over(self.etc, Path(handed))
            self.command("serve", "uplink", "--once", CREDENTIALS_DIRECTORY=handed)

    def site(self) -> dict[str, Any]:
        """Return what 'edge-agent identity' shows."""
        found: dict[str, Any] = json.loads(self.command("identity", "--json"))
        return found

    def code(self) -> str:
        """Return the code that the technician reads out."""
        return str(self.site()["code"])

    def take_receipts(self) -> None:
        """Make the daemon process the central team's receipts now."""
        with self.daemon.admin() as admin:
            admin.read_receipts()
