"""The configuration files: agent.yaml overrides site.yaml, which overrides appliance.yaml, key by key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from edge_agent import config
from edge_agent.config import Config, config_files
from edge_agent.errors import ConfigInvalid

SITE = "site: {id: shop-12, outbox_dir: /a}\nuplink: {url: s3://fleet/examples, options: {region: eu-1}}\n"
APPLIANCE = "site: {outbox_dir: /b, receipts_dir: /c}\n"


def laid(folder: Path, **texts: str) -> Path:
    """Write files by their name without suffix; return the path of agent.yaml."""
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / "agent.yaml"


def loaded(folder: Path, **texts: str) -> Config:
    """Return the configuration of these files."""
    return config.load(laid(folder, **{"agent": "", **texts}), environ={})


def test_upper_file_overrides_key_by_key(tmp_path: Path):
    """A key that an upper file does not set comes from below; a map that it sets replaces the lower one."""
    made = loaded(tmp_path, agent="uplink: {options: {}}", site=SITE, appliance=APPLIANCE)
    assert ("shop-12", "/a", "/c") == (made.site.id, made.site.outbox_dir, made.site.receipts_dir)
    assert ("s3://fleet/examples", {}) == (made.uplink.url, made.uplink.options)


@pytest.mark.parametrize(
    ("agent", "line"),
    [
        ("examples: {collect: {a: local}}\nlog: {level: debug}\nexamples:\n  review_share: 0.1\n", 3),
        ("examples:\n  collect:\n    a: local\n    'a': upstream\n", 4),
    ],
)
def test_repeated_key_is_refused(tmp_path: Path, agent: str, line: int):
    """A repeated section would silently replace the first one."""
    with pytest.raises(ConfigInvalid, match=rf"occurs twice(.|\n)*line {line}"):
        loaded(tmp_path, agent=agent)


def test_empty_section_overrides_nothing(tmp_path: Path):
    """A section of the sample whose keys are all commented out does not hide site.yaml."""
    assert "shop-12" == loaded(tmp_path, agent="site:\n", site=SITE).site.id


def test_agent_yaml_is_optional_beside_site_yaml(tmp_path: Path):
    """An enrolled machine needs no agent.yaml unless the command line names it."""
    path = laid(tmp_path, site=SITE)
    assert "shop-12" == config.validate_files(config_files.read(path, optional=True), environ={}).site.id


def test_site_yaml_as_the_named_file_is_read_once(tmp_path: Path):
    """Named on the command line it is the file itself."""
    assert "shop-12" == config.load(laid(tmp_path, site=SITE).with_name("site.yaml"), environ={}).site.id


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        ({"site": "site: {idd: shop-12}"}, "site.yaml: unknown key 'site.idd'"),
        ({"site": "site: {id: shop-12}", "agent": "site: {idd: x}"}, "agent.yaml: unknown key 'site.idd'"),
        ({"site": "site: {id: Shop}"}, "site.yaml: site.id"),
        ({"site": SITE, "agent": "site: {id: Shop}"}, "agent.yaml: site.id"),
        ({"appliance": "stores: {}"}, "appliance.yaml: unknown key 'stores'"),
        ({"site": "state_dir: /x"}, "site.yaml must hold sections"),
        ({"site": "["}, "site.yaml is not valid YAML"),
        ({"site": "uplink: {url: 's3://u:p@host/x'}"}, "site.yaml: uplink: the user or query"),
        ({"site": "x: '" + "y" * config.CONFIG_BYTES_MAX + "'"}, "site.yaml must hold keys and values"),
    ],
)
def test_an_error_names_the_file_that_has_it(tmp_path: Path, texts: dict[str, str], named: str):
    """Whichever of them holds the key."""
    with pytest.raises(ConfigInvalid) as caught:
        loaded(tmp_path, **texts)
    assert named in caught.value.message


def test_source_file_of_a_value_is_known(tmp_path: Path):
    """The file of each key is known, and which keys agent.yaml overrides."""
    found = config_files.read(
        laid(tmp_path, agent="uplink: {url: /mnt/x}", site=SITE, appliance=APPLIANCE), optional=False
    )
    keys = [("uplink", "url"), ("uplink", "options"), ("site", "receipts_dir"), ("log", "level")]
    assert ["agent.yaml", "site.yaml", "appliance.yaml", "agent.yaml"] == [found.source_of(*key).name for key in keys]
    assert ["uplink.url"] == found.overruled_keys()
    again = config_files.read(laid(tmp_path, agent="site: {outbox_dir: /z}"), optional=False)
    assert ["site.outbox_dir"] == again.overruled_keys()


def test_written_sections_are_read_back(tmp_path: Path):
    """Any values are read back, and the comment above stays a comment."""
    sections = {
        "uplink": {"url": "s3://a: b#c", "options": {"x": "no", "y": "1e3\n- ü"}},
        "site": {"receipt_keys": ["00"]},
    }
    raw = config_files.render_sections(sections, "one\ntwo: three")
    assert (sections, True) == (yaml.safe_load(raw), raw.startswith(b"# one\n# two: three\n"))


@pytest.mark.parametrize("path", [Path(), Path("/")])
def test_lower_files_of_a_folder_are_in_that_folder(path: Path):
    """`doctor --config ""` then reports that agent.yaml is a folder."""
    assert [path / "site.yaml", path / "appliance.yaml"] == config_files.lower_file_paths(path)


def test_too_large_remote_file_is_refused(tmp_path: Path) -> None:
    """A truncated remote.yaml could lose its certificate and connect without TLS."""
    path = tmp_path / config_files.REMOTE_FILE
    comment = "#" * config_files.REMOTE_BYTES_MAX
    path.write_text(f"address: shop:9443\n{comment}\nca: ca.crt\ncertificate: client.crt\nkey: client.key\n")
    with pytest.raises(ConfigInvalid, match=f"at most {config_files.REMOTE_BYTES_MAX} bytes"):
        config_files.load_remote(path, {})
