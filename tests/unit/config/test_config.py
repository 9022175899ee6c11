"""agent.yaml: accepted and refused content, error messages, and the sample file."""

import os
import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from edge_agent import config
from edge_agent.config import CONFIG_BYTES_MAX, SOCKET_PATH_BYTES_MAX, Config, Overrides
from edge_agent.config.sections import MESSAGE_BYTES_MAX
from edge_agent.errors import ConfigInvalid, SocketPathTooLong

SAMPLE = Path(__file__).parents[3] / "systemd" / "agent.yaml"
# Words that say what a number counts.
UNITS = {
    "priority",
    "bytes",
    "clients",
    "connections",
    "streams",
    "seconds",
    "days",
    "digests",
    "threads",
    "bundles",
    "sequences",
    "requests",
    "questions",
    "failures",
    "calls",
    "ids",
    "characters",
    "examples",
    "share",
    "tokens",
    "price",
    "cost",
}


def write(tmp_path: Path, text: str | bytes) -> Path:
    """Write an agent.yaml."""
    path = tmp_path / "agent.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(tmp_path: Path, text: str | bytes) -> ConfigInvalid:
    """Return the error for a file with this text."""
    with pytest.raises(ConfigInvalid) as caught:
        config.load(write(tmp_path, text), environ={})
    return caught.value


@pytest.mark.skipif(config.DEFAULT_PATH.exists(), reason="this machine has a configuration of its own")
def test_defaults_apply_without_a_file():
    """Without a file the defaults hold."""
    assert Config() == config.load(environ={})


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "null\n"])
def test_an_empty_file_changes_nothing(tmp_path, text):
    """A file without keys is the same as no file."""
    assert Config() == config.load(write(tmp_path, text), environ={})


def test_file_changes_only_the_keys_that_it_sets(tmp_path):
    """A key in the file is used, and other keys keep their defaults."""
    loaded = config.load(write(tmp_path, "engine: {sequences_max: 3}\nrun_dir: /tmp/r\n"), environ={})
    assert 3 == loaded.engine.sequences_max
    assert Config().engine.queue_requests_max == loaded.engine.queue_requests_max
    assert Path("/tmp/r/inference.sock") == loaded.inference_socket
    assert Path("/tmp/r/admin.sock") == loaded.admin_socket


def test_the_configuration_is_frozen():
    """The configuration cannot be changed after it was read."""
    with pytest.raises(ValueError, match="frozen"):
        Config().engine.sequences_max = 3


@pytest.mark.parametrize(
    ("text", "key", "remedy"),
    [
        ("stat_dir: /x", "stat_dir", "Did you mean 'state_dir'?"),
        ("engine: {qeue_requests_max: 1}", "engine.qeue_requests_max", "Did you mean 'engine.queue_requests_max'?"),
        ("service: {drain_second: 1}", "service.drain_second", "Did you mean 'service.drain_seconds'?"),
        ("web: {port: 1}", "web.port", "Known keys there: address,"),
        ("log: {xyzzy: 1}", "log.xyzzy", "Known keys there: level, format."),
        (
            "xyzzy: 1",
            "xyzzy",
            "Known keys there: state_dir, run_dir, log, store, engine, service, access, metrics, examples, redaction,"
            " site, uplink, update, escalation, web.",
        ),
    ],
)
def test_unknown_key_suggests_the_nearest(tmp_path, text, key, remedy):
    """An unknown key is refused with the nearest known one, or with all of its section if none is similar."""
    error = refused(tmp_path, text)
    assert f"unknown key '{key}'" in error.message
    assert remedy in error.remedy


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("engine: {sequences_max: 65}", ["engine.sequences_max", "less than or equal to 64", "not 65"]),
        ("engine: {load_seconds_max: 0}", ["engine.load_seconds_max", "greater than 0", "not 0"]),
        ("engine: {load_seconds_max: .nan}", ["engine.load_seconds_max", "not nan"]),
        ("engine: {queue_requests_max: many}", ["engine.queue_requests_max", "integer", "not 'many'"]),
        ("store: {allow_unsigned: perhaps}", ["store.allow_unsigned", "boolean", "not 'perhaps'"]),
        ("log: {level: loud}", ["log.level", "'debug', 'info', 'warning' or 'error'", "not 'loud'"]),
        ("log: 5", ["log:", "not 5"]),
        ("run_dir: [a]", ["run_dir", "not ['a']"]),
        ("1: 2", ["1: Keys should be strings"]),
    ],
)
def test_a_wrong_value_is_named(tmp_path, text, parts):
    """A value of the wrong type or out of range is refused with the file, the key, the rule and the value."""
    error = refused(tmp_path, text)
    assert error.message.startswith(f"{tmp_path}/agent.yaml: ")
    assert [] == [part for part in parts if part not in error.message]
    assert "sample agent.yaml" in error.remedy


def test_huge_wrong_value_is_truncated(tmp_path):
    """The error shows a huge value cut short."""
    error = refused(tmp_path, f"engine: {{sequences_max: {'x' * 100_000}}}")
    assert len(error.message) - len(str(tmp_path)) < 300


@pytest.mark.parametrize(
    "text",
    [
        *(b"a: [", b"a: b: c", b"\xff\xfe\xff", b"run_dir: 2024-13-45", b"- " * 100_000, b"a: &x [*y]"),
        *(b"a: !!int ''", b"a: !!float ''", b"a: !!bool maybe", b"a: !!timestamp soon"),
        b'run_dir: "\\uD800"',
    ],
)
def test_a_file_that_is_not_yaml_is_refused(tmp_path, text):
    """Bytes that are no YAML are refused as such."""
    assert "is not valid YAML" in refused(tmp_path, text).message


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('state_dir: "/a\\0b"', "state_dir"),
        ('site: {outbox_dir: "\\0"}', "site.outbox_dir"),
        ('service: {inference_group: "a\\0"}', "service.inference_group"),
    ],
)
def test_path_with_an_invalid_character_is_refused(tmp_path, text, key):
    """The error names the key and has no control characters."""
    error = refused(tmp_path, text)
    assert f"{key} holds a character that no name can have" in error.message
    assert error.message.isprintable()


@pytest.mark.parametrize("text", ["just words", "- a\n- b\n", "5"])
def test_a_file_without_keys_is_refused(tmp_path, text):
    """A file whose top level is not a mapping is refused."""
    assert "must hold keys and values" in refused(tmp_path, text).message


def test_a_too_large_file_is_refused(tmp_path):
    """A file over the size limit is refused; one of exactly the limit is read."""
    path = write(tmp_path, "#" * CONFIG_BYTES_MAX)
    assert Config() == config.load(path, environ={})
    path.write_text("#" * (CONFIG_BYTES_MAX + 1))
    with pytest.raises(ConfigInvalid, match=f"at most {CONFIG_BYTES_MAX} bytes"):
        config.load(path, environ={})


def test_a_named_file_must_be_readable(tmp_path):
    """A named file that cannot be read is an error with the system's reason."""
    missing = tmp_path / "missing.yaml"
    with pytest.raises(ConfigInvalid, match=re.escape(f"cannot read {missing}: No such file or directory")):
        config.load(missing, environ={})
    with pytest.raises(ConfigInvalid, match="Is a directory"):
        config.load(tmp_path, environ={})


def test_the_environment_may_name_the_file(tmp_path):
    """EDGE_AGENT_CONFIG names the file, and --config takes precedence."""
    other = tmp_path / "other.yaml"
    other.write_text("log: {level: debug}")
    environ = {"EDGE_AGENT_CONFIG": str(other)}
    assert "debug" == config.load(environ=environ).log.level
    assert "error" == config.load(write(tmp_path, "log: {level: error}"), environ=environ).log.level


def test_directories_of_systemd_are_used(tmp_path):
    """STATE_DIRECTORY and RUNTIME_DIRECTORY are used; of several, the first."""
    environ = {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "RUNTIME_DIRECTORY": "/run/a"}
    loaded = config.load(write(tmp_path, ""), environ=environ)
    assert (Path("/var/lib/a"), Path("/run/a")) == (loaded.state_dir, loaded.run_dir)


def test_precedence_of_directories(tmp_path):
    """The command line takes precedence over the file, and the file over systemd."""
    environ = {"STATE_DIRECTORY": "/from/systemd", "RUNTIME_DIRECTORY": "/from/systemd"}
    path = write(tmp_path, "state_dir: /from/file\nrun_dir: /from/file\n")
    loaded = config.load(path, Overrides(run_dir=Path("/from/line")), environ)
    assert (Path("/from/file"), Path("/from/line")) == (loaded.state_dir, loaded.run_dir)


TCP = "service: {tcp_address: '127.0.0.1:9443', insecure: %s}\naccess: {%s}"
ALL_FILES = "certificate_file: a, key_file: b, client_ca_file: c"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TCP % ("false", "certificate_file: a"), "TLS needs access.key_file and access.client_ca_file as well"),
        ("access: {client_ca_file: c}", "TLS needs access.certificate_file and access.key_file as well"),
        (TCP % ("true", ALL_FILES), "service.insecure is set in addition to the certificates"),
        (TCP % ("false", ""), "service.tcp_address is set without TLS"),
    ],
)
def test_incomplete_tls_settings_are_refused(tmp_path, text, said):
    """All three TLS files or none must be set, and never together with insecure."""
    error = refused(tmp_path, text)
    assert said in error.message
    assert error.remedy


def test_tcp_with_certificates_needs_nothing_else(tmp_path):
    """An address and the three files are enough."""
    loaded = config.load(write(tmp_path, TCP % ("false", ALL_FILES)), environ={})
    assert ("127.0.0.1:9443", "a") == (loaded.service.tcp_address, loaded.access.certificate_file)


def test_tcp_without_tls_requires_insecure(tmp_path):
    """A TCP address without TLS is refused unless `insecure: true` is set."""
    error = refused(tmp_path, "service: {tcp_address: '127.0.0.1:9443'}")
    assert "service.tcp_address is set without TLS" in error.message
    assert "'insecure: true'" in error.remedy
    path = write(tmp_path, "service: {tcp_address: '127.0.0.1:9443', insecure: true}")
    assert "127.0.0.1:9443" == config.load(path, environ={}).service.tcp_address


@pytest.mark.parametrize("address", ["[fe80::1:9443", "fe80::1]:9443", "9443", "0.0.0.0:https", "unix:/run/x:1"])
@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("service: {tcp_address: '%s', insecure: true}", "service.tcp_address"),
        ("metrics: {address: '%s', insecure: true}", "metrics.address"),
        ("web: {address: '%s'}", "web.address"),
    ],
)
def test_listener_address_requires_host_and_port(tmp_path, section, key, address):
    """Half an IPv6 address, a path and a port name are refused with the key."""
    assert f"{key}: '{address}' is not an address" in refused(tmp_path, section % address).message


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "[::]:9464", "192.0.2.7:9464", "till.example:9464"])
def test_metrics_on_a_network_require_insecure(tmp_path, address):
    """A metrics address that others can reach is refused unless `insecure: true` is set."""
    error = refused(tmp_path, f"metrics: {{address: '{address}'}}")
    assert f"metrics.address is {address}" in error.message
    assert "'insecure: true'" in error.remedy
    path = write(tmp_path, f"metrics: {{address: '{address}', insecure: true}}")
    assert address == config.load(path, environ={}).metrics.address


@pytest.mark.parametrize("address", ["127.0.0.1:9464", "127.1.2.3:1", "[::1]:9464", "localhost:0", ""])
def test_metrics_on_loopback_are_accepted(tmp_path, address):
    """Loopback, or nowhere, is where the metrics may be without more words."""
    assert address == config.load(write(tmp_path, f"metrics: {{address: '{address}'}}"), environ={}).metrics.address


@pytest.mark.parametrize("address", ["9464", ":9464", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:70000", "[::1]"])
def test_metrics_address_requires_host_and_port(tmp_path, address):
    """The error has an example."""
    assert "127.0.0.1:9464" in refused(tmp_path, f"metrics: {{address: '{address}'}}").message


def test_message_size_beyond_the_engine_limit_is_refused(tmp_path):
    """message_bytes_max may not exceed what an engine's process accepts; the error has both numbers."""
    refusal = refused(tmp_path, f"service: {{message_bytes_max: {MESSAGE_BYTES_MAX + 1}}}")
    assert f"service.message_bytes_max is {MESSAGE_BYTES_MAX + 1};" in refusal.message
    assert f"more than {MESSAGE_BYTES_MAX} bytes" in refusal.message
    path = write(tmp_path, f"service: {{message_bytes_max: {MESSAGE_BYTES_MAX}}}")
    assert MESSAGE_BYTES_MAX == config.load(path, environ={}).service.message_bytes_max


@pytest.mark.parametrize("character", ["x", "é"])
def test_socket_path_over_the_kernel_limit_is_refused(tmp_path, character):
    """A socket path may have 107 bytes; the error has both numbers."""
    room = SOCKET_PATH_BYTES_MAX - len("//inference.sock")
    fitting = Path("/" + character * (room // len(os.fsencode(character))))
    path = write(tmp_path, "")
    assert fitting == config.load(path, Overrides(run_dir=fitting), {}).run_dir
    too_long = Path(f"{fitting}{character}")
    numbers = f"has {len(os.fsencode(too_long / 'inference.sock'))} bytes; the limit is 107"
    with pytest.raises(SocketPathTooLong, match=numbers):
        config.load(path, Overrides(run_dir=too_long), {})


def unitless(model: type[BaseModel], where: str = "") -> list[str]:
    """Find numbers whose name has no unit."""
    found = []
    for key, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += unitless(field.annotation, f"{where}{key}.")
        elif field.annotation in (int, float) and not UNITS & set(key.split("_")):
            found.append(where + key)
    return found


def test_every_numeric_key_has_its_unit():
    """The name of every numeric key carries its unit."""

    class Bad(Config):
        timeout: int = 5

    assert [] == unitless(Config)
    assert ["timeout"] == unitless(Bad)


def test_every_numeric_key_has_a_range():
    """No numeric key takes a negative value."""
    sections = {"store": config.StoreConfig, "engine": config.EngineConfig, "service": config.ServiceConfig}
    sections["examples"] = config.ExamplesConfig
    for section, model in sections.items():
        for key, field in model.model_fields.items():
            if field.annotation in (int, float):
                with pytest.raises(ValueError, match="greater than"):
                    Config.model_validate({section: {key: -1}})


def test_every_key_is_described():
    """Every key has a description that ends as a sentence."""
    sections = [Config, config.LogConfig, config.StoreConfig, config.EngineConfig, config.ServiceConfig]
    sections += [
        config.AccessConfig,
        config.MetricsConfig,
        config.ExamplesConfig,
        config.RedactionConfig,
        config.SiteConfig,
        config.UplinkConfig,
        config.UpdateConfig,
        config.EscalationConfig,
    ]
    fields = {key: field for model in sections for key, field in model.model_fields.items()}
    plain = {key: field for key, field in fields.items() if field.description is not None}
    assert {
        "log",
        "store",
        "engine",
        "service",
        "access",
        "metrics",
        "examples",
        "redaction",
        "site",
        "uplink",
        "update",
        "escalation",
        "web",
    } == fields.keys() - plain.keys()
    assert [] == [key for key, field in plain.items() if not str(field.description).endswith(".")]


def test_sample_file_is_up_to_date():
    """systemd/agent.yaml is what the model generates."""
    remedy = "write it anew: python -c 'from edge_agent.config import sample; print(sample(), end=\"\")'"
    assert config.sample() == SAMPLE.read_text(encoding="utf-8"), remedy


def test_the_sample_changes_nothing(tmp_path):
    """Every line of the sample is a comment."""
    assert [] == [line for line in config.sample().splitlines() if not line.startswith("#")]
    assert Config() == config.load(write(tmp_path, config.sample()), environ={})


def test_uncommented_sample_has_every_default(tmp_path):
    """With one '#' less on every line, the sample has every key with its default."""
    text = "\n".join(line[1:] for line in config.sample().splitlines())
    assert Config().model_dump(mode="json") == yaml.safe_load(text)
    assert Config() == config.load(write(tmp_path, text), environ={})


def test_the_sample_shows_choices():
    """The sample lists the permitted values of a key."""
    assert "#  # Least severe level shown. One of: debug, info, warning, error.\n#  level: info\n" in config.sample()


def test_a_section_without_keys_is_the_default(tmp_path: Path) -> None:
    """Uncommenting only the name of a section changes nothing."""
    file = tmp_path / "agent.yaml"
    file.write_text("log:\nstore:\n  allow_unsigned: true\n")
    loaded = config.load(file, environ={})
    assert Config().log == loaded.log
    assert loaded.store.allow_unsigned


def test_key_at_the_wrong_level_suggests_its_section(tmp_path: Path) -> None:
    """allow_unsigned at the top level suggests store.allow_unsigned."""
    file = tmp_path / "agent.yaml"
    file.write_text("allow_unsigned: true\n")
    with pytest.raises(ConfigInvalid) as caught:
        config.load(file, environ={})
    assert "Did you mean 'store.allow_unsigned'?" == caught.value.remedy


def test_credentials_of_systemd_are_found(tmp_path):
    """The uplink's credentials of systemd are used unless the file names others."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(folder)}
    path = write(tmp_path, "uplink: {updates_credentials_file: /own}")
    assert ("", "/own") == _credential_files(config.load(path, environ=environ))
    for name in ("uplink", "uplink-updates"):
        (folder / name).touch()
    assert (str(folder / "uplink"), "/own") == _credential_files(config.load(path, environ=environ))
    path = write(tmp_path, "uplink:")
    found = (str(folder / "uplink"), str(folder / "uplink-updates"))
    assert found == _credential_files(config.load(path, environ=environ))


def test_the_large_model_s_key_comes_from_systemd(tmp_path):
    """The credential 'escalation' is the large model's key unless the file names another."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "escalation").touch()
    environ = {"CREDENTIALS_DIRECTORY": str(folder)}
    found = config.load(write(tmp_path, "escalation: {url: 'https://m.example/v1', model: m}"), environ=environ)
    assert str(folder / "escalation") == found.escalation.credentials_file
    found = config.load(write(tmp_path, "escalation: {credentials_file: /own}"), environ=environ)
    assert "/own" == found.escalation.credentials_file


@pytest.mark.parametrize("key", ["url", "updates_url"])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://[fe80::1/x", "is not the address of a store"),
        ("https://host:99999/x", "is not the address of a store"),
        ("https://host:secret/x", "is not the address of a store"),
        ("s3:///x", "is not the address of a store"),
        ("ftp://host/x", "'ftp' is not a known kind of store"),
    ],
)
def test_invalid_store_address_is_refused(tmp_path, key, url, said):
    """The error names the key and does not show an invalid port, which may be a password."""
    error = refused(tmp_path, f"uplink: {{{key}: '{url}'}}")
    assert (True, True) == (f"uplink.{key}" in error.message, said in error.message)
    assert "secret" not in f"{error.message} {error.remedy}"


@pytest.mark.parametrize("key", ["options", "updates_options"])
def test_invalid_store_option_is_refused(tmp_path, key):
    """Connection settings and an invalid endpoint are refused by name; other options are left to the store."""
    for name in ("timeout", "AWS_ALLOW_HTTP"):
        error = refused(tmp_path, f"uplink: {{{key}: {{{name}: 'x'}}}}")
        assert f"'{name}' in uplink.{key} is a setting of the connection" in error.message
    error = refused(tmp_path, f"uplink: {{{key}: {{region: eu-1, endpoint: 'https://[fe80::1/x'}}}}")
    assert f"'endpoint' in uplink.{key} is not the address of a server" in error.message
    session = "till (+https://shop.example, see there)"
    found = config.load(write(tmp_path, f"uplink: {{url: 's3://a/b', {key}: {{aws_default_region: '{session}'}}}}"))
    assert {"aws_default_region": session} == getattr(found.uplink, key)


@pytest.mark.parametrize("url", ["https://[fe80::1]:8443/x", "s3://a_bucket", "az://box/x", "file:///srv/x", "/srv/x"])
def test_an_address_of_a_store_is_accepted(tmp_path, url):
    """A host or bucket with or without a port, and a folder, are accepted."""
    loaded = config.load(write(tmp_path, f"uplink: {{url: '{url}', updates_url: '{url}'}}"), environ={})
    assert (url, url) == (loaded.uplink.url, loaded.uplink.updates_url)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{url: 'https://m.example/v1'}", "without escalation.model"),
        ("{url: 'https://me:secret@m.example/v1', model: m}", "not the plain address"),
        ("{url: 'https://m.example/v1?key=secret', model: m}", "not the plain address"),
        ("{url: 'm.example/v1', model: m}", "not the plain address"),
        ("{url: 'https://m/v1', model: m, proxy_url: 'p:1'}", "not the plain address of a proxy"),
        ("{url: 'https://[fe80::1/v1', model: m}", "not the plain address"),
        ("{url: 'https://m.example:secret/v1', model: m}", "not the plain address"),
    ],
)
def test_invalid_large_model_address_is_refused(tmp_path, section, said):
    """An address with a secret is refused without showing it."""
    error = refused(tmp_path, f"escalation: {section}")
    assert said in error.message
    assert "secret" not in error.message


def _credential_files(loaded: Config) -> tuple[str, str]:
    return loaded.uplink.credentials_file, loaded.uplink.updates_credentials_file
