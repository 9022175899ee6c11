"""The files of the configuration: agent.yaml wins over site.yaml, and that over appliance.yaml, key by key."""

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


def test_the_upper_file_wins_key_by_key(tmp_path: Path):
    """What an upper file does not name comes from below; what it names is its own, maps included."""
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
def test_a_key_that_occurs_twice_is_refused(tmp_path: Path, agent: str, line: int):
    """The second section would silently take the place of the first, with all that this has set."""
    with pytest.raises(ConfigInvalid, match=rf"occurs twice(.|\n)*line {line}"):
        loaded(tmp_path, agent=agent)


def test_a_section_without_keys_takes_nothing_away(tmp_path: Path):
    """In the sample every key is commented out: the section above site.yaml reads as nothing."""
    assert "shop-12" == loaded(tmp_path, agent="site:\n", site=SITE).site.id


def test_the_files_beneath_stand_alone(tmp_path: Path):
    """An enrolled box needs no agent.yaml of its own, where none was named on the command line."""
    path = laid(tmp_path, site=SITE)
    assert "shop-12" == config.validate_files(config_files.read(path, optional=True), environ={}).site.id


def test_a_file_called_site_yaml_is_not_read_twice(tmp_path: Path):
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


def test_where_a_value_came_from_can_be_told(tmp_path: Path):
    """By key; and which keys the technician says otherwise than those beneath."""
    found = config_files.read(
        laid(tmp_path, agent="uplink: {url: /mnt/x}", site=SITE, appliance=APPLIANCE), optional=False
    )
    keys = [("uplink", "url"), ("uplink", "options"), ("site", "receipts_dir"), ("log", "level")]
    assert ["agent.yaml", "site.yaml", "appliance.yaml", "agent.yaml"] == [found.source_of(*key).name for key in keys]
    assert ["uplink.url"] == found.overruled_keys()
    again = config_files.read(laid(tmp_path, agent="site: {outbox_dir: /z}"), optional=False)
    assert ["site.outbox_dir"] == again.overruled_keys()


def test_what_is_written_is_read_back(tmp_path: Path):
    """Whatever the values look like, with a comment above that stays one."""
    sections = {
        "uplink": {"url": "s3://a: b#c", "options": {"x": "no", "y": "1e3\n- ü"}},
        "site": {"receipt_keys": ["00"]},
    }
    raw = config_files.render_sections(sections, "one\ntwo: three")
    assert (sections, True) == (yaml.safe_load(raw), raw.startswith(b"# one\n# two: three\n"))


@pytest.mark.parametrize("path", [Path(), Path("/")])
def test_a_path_that_names_no_file_has_files_beside_it(path: Path):
    """`doctor --config ""` then reports that agent.yaml is a folder."""
    assert [path / "site.yaml", path / "appliance.yaml"] == config_files.lower_file_paths(path)


def test_a_remote_file_that_is_too_large_is_refused_instead_of_cut(tmp_path: Path) -> None:
    """A remote.yaml whose certificate stands behind the limit is refused: cut, it would connect without TLS."""
    path = tmp_path / config_files.REMOTE_FILE
    comment = "#" * config_files.REMOTE_BYTES_MAX
    path.write_text(f"address: shop:9443\n{comment}\nca: ca.crt\ncertificate: client.crt\nkey: client.key\n")
    with pytest.raises(ConfigInvalid, match=f"at most {config_files.REMOTE_BYTES_MAX} bytes"):
        config_files.load_remote(path, {})
