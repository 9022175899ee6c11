"""The commands of edge-agent against a fake daemon on real Unix sockets."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from convert.cli import app as factory
from edge_agent import __version__
from edge_agent.cli import COMMANDS, app
from edge_agent.cli.exits import report_error
from edge_agent.errors import EdgeAgentError
from edge_agent.formats import state_code
from edge_agent.v1 import admin_pb2
from tests.support.fake_daemon import FakeDaemon

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run edge-agent with a configuration and directories of its own."""
    config = tmp_path / "agent.yaml"
    config.write_text("")
    options = ["--config", str(config), "--state-dir", str(tmp_path / "state"), "--run-dir", str(tmp_path)]
    return lambda *arguments, stdin="": CliRunner().invoke(app, [*options, *arguments], input=stdin)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(f"unix:{tmp_path}/inference.sock", f"unix:{tmp_path}/admin.sock") as running:
        yield running


@pytest.mark.parametrize("words", [*COMMANDS, *("bundles list", "media import", "config show", "serve uplink")])
def test_help_of_each_command_shows_an_example(words):
    """`-h` of every command shows an example to copy, or lists its subcommands."""
    result = CliRunner().invoke(app, [*words.split(), "-h"], env={"COLUMNS": "120"})
    teaches = "Example:" in result.stdout or "Commands" in result.stdout
    assert (0, True) == (result.exit_code, teaches)


@pytest.mark.parametrize("program", [app, factory], ids=["edge-agent", "edge-convert"])
def test_usage_line_marks_each_argument_once(program):
    """A usage line puts an optional argument in one pair of brackets, and three dots after an argument that can be
    repeated."""
    for command in every_command(typer.main.get_command(program)):
        usage = command.get_usage(command.make_context("x", [], resilient_parsing=True))
        assert not re.search(r"\[\[|\]\]|\.{4}|\.{3}[\]}]", usage), usage


def every_command(command):
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from every_command(inner)


def test_help_lists_commands_and_exit_codes():
    """`edge-agent --help` lists every command and the exit codes."""
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"})
    assert [] == [command for command in COMMANDS if f" {command} " not in result.stdout]
    assert "Exit codes: 0 done" in result.stdout


@pytest.mark.slow
def test_module_runs_as_edge_agent():
    """`python -m edge_agent.cli` runs edge-agent."""
    command = [sys.executable, "-m", "edge_agent.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"edge-agent {__version__}\n" == done.stdout


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["classify"], ["classify", "x", "y", "--on-low-confidence", "z"], ["demo"]]
)
def test_wrong_usage_ends_with_2(run, arguments):
    """Unknown commands, missing arguments and invalid option values end with exit code 2."""
    assert 2 == run(*arguments).exit_code


@pytest.mark.parametrize(
    "arguments", [["status"], ["bundles", "list"], ["classify", "t", "x"], ["generate", "t", "x"], ["rollback", "t"]]
)
def test_missing_daemon_ends_with_3_and_a_remedy(run, arguments):
    """Without a daemon, a command prints one sentence and a remedy without a traceback, and ends with exit code 3."""
    result = run(*arguments)
    assert (3, "") == (result.exit_code, result.stdout)
    assert result.stderr.startswith("error: no daemon answers at unix:")
    assert "\n  what to do: Is edge-agent running?" in result.stderr
    assert "Traceback" not in result.stderr


def test_invalid_configuration_ends_with_3(run, tmp_path):
    """For an unknown key in agent.yaml, the command names the key and the most similar valid one."""
    (tmp_path / "agent.yaml").write_text("stor: {}")
    result = run("status")
    assert 3 == result.exit_code
    assert "unknown key 'stor'" in result.stderr
    assert "what to do: Did you mean 'store'?" in result.stderr


def test_status_code_encodes_the_daemons_state(run, daemon):
    """`status --code` prints groups that decode to the daemon's version and tasks; --json and --qr cannot be combined
    with it."""
    lines = run("status", "--code").stdout.splitlines()
    found = state_code.decode(" ".join(line.partition(":")[2] for line in lines[1:-2]))
    assert ("0.1.0", ["pos-intent"]) == (found.agent_version, [task.task for task in found.tasks])
    assert 2 == run("status", "--code", "--json").exit_code
    assert 2 == run("status", "--code", "--qr").exit_code


def test_status_shows_tasks_engines_and_warnings(run, daemon):
    """`edge-agent status` prints one line for each task, engine and warning."""
    lines = run("status").stdout.splitlines()
    assert lines[0].startswith("edge-agent 0.1.0 is serving, up ")
    assert any(line.split()[:3] == ["pos-intent", "classify", "1.2.0"] for line in lines)
    assert any(line.split()[:3] == ["echo-1234", "ready", "cpu"] for line in lines)
    assert "warning: Without a verified signature: pos-intent." == lines[-1]


def test_status_shows_why_an_engine_failed(run, daemon):
    """`edge-agent status` prints the problem of a failed engine."""
    daemon.admin.status.engines[0].state = 4
    daemon.admin.status.engines[0].problem = "the weights are truncated"
    assert "echo-1234: the weights are truncated" in run("status").stdout


def test_status_json_has_iso_times_and_tasks(run, daemon):
    """`status --json` prints times in ISO 8601 and whether each task is ready."""
    status = json.loads(run("status", "--json").stdout)
    assert ("2026-01-02T03:04:05+00:00", True) == (status["start_time"], status["tasks"][0]["ready"])


@pytest.mark.parametrize("site", ["", "shop-12"])
def test_status_without_tasks_names_the_first_step(run, daemon, site):
    """Without a task, `status` names `media import`, and first `enrol` on a machine that is not enrolled: without a
    trusted root it would refuse the drive."""
    daemon.admin.status.ClearField("tasks")
    daemon.admin.status.ClearField("engines")
    daemon.admin.status.site = site
    said = " ".join(run("status").stdout.split())
    assert ("not enrolled: 'edge-agent enrol FILE'" in said) is (not site)
    assert "'edge-agent media import'" in said


def test_bundles_list_prints_each_version(run, daemon):
    """`bundles list` prints a line for each version, `--json` a list, and the daemon filters by task."""
    assert "pos-intent  1.2.0" in run("bundles", "list").stdout
    assert "1.2.0" == json.loads(run("bundles", "list", "pos-intent", "--json").stdout)[0]["ref"]["version"]
    assert "pos-intent" == daemon.admin.requests[-1].task


def test_bundles_show_finds_a_bundle_by_digest_or_its_start(run, daemon):
    """`bundles show` accepts a digest or its beginning and prints the full digest; a version that matches no bundle or
    two is refused with the command that lists them."""
    daemon.admin.digests[1] = digest = "cd" * 32
    for name in (digest[:8], digest):
        assert digest in run("bundles", "show", "pos-intent", name).stdout
    assert digest == json.loads(run("bundles", "show", "pos-intent", digest, "--json").stdout)["ref"]["digest"]
    for name in ("9.9.9", "1.2.0"):
        missing = run("bundles", "show", "pos-intent", name)
        assert (2, True) == (missing.exit_code, "'edge-agent bundles list pos-intent'" in missing.stderr)


def test_install_activates_unless_no_activate_is_given(run, daemon, tmp_path):
    """`install` activates the bundle; with --no-activate it prints the activate command, by digest if two bundles share
    the version."""
    assert "Installed pos-intent 1.2.0" in run("install", str(tmp_path)).stdout
    assert not daemon.admin.requests[-1].no_activate
    kept = run("install", "--no-activate", str(tmp_path))
    assert "To let it answer: edge-agent activate pos-intent 1.2.0\n" in kept.stdout
    daemon.admin.digests[1] = "cd" * 32
    twice = run("install", "--no-activate", str(tmp_path))
    assert "To let it answer: edge-agent activate pos-intent abababababab\n" in twice.stdout


def test_refused_bundle_ends_with_5(run, daemon, tmp_path):
    """`install` prints the daemon's error and remedy for a refused bundle."""
    result = run("install", str(tmp_path / "hostile"))
    assert 5 == result.exit_code
    said = "error: the bundle has no signature\n  what to do: the remedy for BUNDLE_UNSIGNED\n"
    assert said == result.stderr


def test_activate_rollback_and_remove_report_the_change(run, daemon):
    """`activate`, `rollback` and `remove` name the bundle, the freed bytes and how to reinstall; a rollback without a
    previous version ends with 2."""
    named = "pos-intent 1.2.0 (abababababab, unsigned)"
    assert f"{named} answers 'pos-intent' now.\n" == run("activate", "pos-intent", "1.2.0").stdout
    assert f"{named} answers 'pos-intent' again.\n" == run("rollback", "pos-intent").stdout
    assert "Removed pos-intent 1.1.0; 98.0 MB freed.\n" == run("remove", "pos-intent", "1.1.0", "-y").stdout
    removed = run("remove", "--yes", "pos-intent").stdout.splitlines()
    way_back = "Nothing answers 'pos-intent' now. The way back: 'edge-agent install PATH' of its file."
    assert ["Removed the task pos-intent; 98.0 MB freed.", way_back] == removed
    assert 2 == run("rollback", "young").exit_code


def test_classify_prints_a_table(run, daemon):
    """`classify` prints a table row with input, label, confidence, time and notes about the answer."""
    result = run("classify", "pos-intent", "give me my money")
    assert 0 == result.exit_code
    words = result.stdout.splitlines()[1].split("  ")
    row = [word.strip() for word in words if word.strip()]
    assert ["give me my money", "refund", "0.75", "24", "below the threshold 0.80, cpu shared"] == row


def test_classify_shortens_a_long_input_in_the_table(run, daemon):
    """`classify` prints only the beginning of a long input in the table; `--json` contains all of it."""
    shown = run("classify", "pos-intent", "abcd" * 50_000).stdout
    assert ("(200,000" in shown, len(shown.splitlines()) < 50) == (True, True)
    assert "abcd" * 50_000 == json.loads(run("classify", "pos-intent", "--json", "abcd" * 50_000).stdout)["input"]


def test_classify_top_k_shows_the_best_labels(run, daemon):
    """`classify --top-k N` prints a line for each of the N best labels; JSON contains only these."""
    lines = run("classify", "pos-intent", "--top-k", "2", "give me my money").stdout.splitlines()
    assert ["0.75  refund" in lines[1], "0.25  price"] == [True, lines[2].strip()]
    found = json.loads(run("classify", "pos-intent", "--json", "--top-k", "1", "x").stdout)
    assert [["refund", 0.75]] == found["classification"]["scores"]


def test_classify_batches_input_lines_by_the_tasks_limit(run, daemon):
    """`classify` sends five lines in three calls to a task that accepts two inputs per call, and skips blank lines."""
    result = run("classify", "pos-intent", "--json", stdin="a\n\nb\nc\nd\ne\n")
    assert ["a", "b", "c", "d", "e"] == [json.loads(line)["input"] for line in result.stdout.splitlines()]
    sizes = [len(request.texts) for request in daemon.inference.requests if hasattr(request, "texts")]
    assert [2, 2, 1] == sizes


def test_one_bad_input_does_not_hide_the_others(run, daemon):
    """`classify` and `embed` print every result, also after a failed input; the exit code is that of the first
    failure."""
    result = run("classify", "pos-intent", "good", "bad", "good")
    assert (2, 5) == (result.exit_code, len(result.stdout.splitlines()))
    assert "what to do: Shorten it." in result.stdout
    assert "INPUT_TOO_LONG: 9 tokens; the limit is 4" in result.stdout
    errors = [json.loads(line) for line in run("embed", "p", "--json", "good", "bad").stdout.splitlines()]
    assert [["input", "embedding"], ["input", "error"]] == [list(line) for line in errors]


def test_daemon_errors_map_to_exit_codes(run, daemon):
    """An unknown task ends with 2, a full queue with 4, and a request over the output limit with 2 and a remedy that
    names the option."""
    assert 2 == run("classify", "unknown", "x").exit_code
    busy = run("generate", "busy", "x")
    said = "error: 64 inputs wait; the limit is 64\n  what to do: Try again in 1.5 s.\n"
    assert (4, said) == (busy.exit_code, busy.stderr)
    many = run("generate", "assistant", "x", "--output-tokens-max", "5000")
    assert (2, True) == (many.exit_code, "Give a smaller --output-tokens-max" in many.stderr)


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["classify", "pos-intent"], b"ok\na\xffb\n", "line 2 of standard input is not UTF-8: byte 2 is 0xff"),
        (["generate", "assistant", "-"], b"a\xff", "standard input is not UTF-8: byte 2 is 0xff"),
        (["classify", "pos-intent"], b"\n \n", "no input: standard input holds no text"),
        (["classify", "pos-intent", "a\udcff"], b"", r"is not UTF-8: a\xff"),
        (["bundles", "list", "nope"], b"", "the task 'nope' has no bundle; installed tasks: pos-intent"),
        (["classify", "--target", "/x.sock", "a", "b"], b"", "write unix:/x.sock"),
    ],
)
def test_invalid_input_ends_with_2_and_a_sentence(run, daemon, arguments, stdin, said):
    """Input that the caller can correct ends with 2 and a message that names the fault."""
    result = run(*arguments, stdin=stdin)
    assert (2, True) == (result.exit_code, said in result.stderr)


def test_answers_before_an_invalid_line_are_printed(run, daemon):
    """`classify` prints the answers to the lines before an invalid one."""
    result = run("classify", "pos-intent", stdin=b"one\ntwo\n\xff\n")
    assert (2, 3) == (result.exit_code, len(result.stdout.splitlines()))


def test_extract_prints_the_record(run, daemon):
    """`extract` prints the record and its confidence in a table; `--json` also contains the positions of the
    entities."""
    assert ["x", '{"price":"5"}', "0.75", "24", "cpu", "shared"] == run("extract", "p", "x").stdout.splitlines()[
        1
    ].split()
    found = json.loads(run("extract", "p", "x", "--json").stdout)["extraction"]
    assert ('{"price":"5"}', 3) == (found["json"], found["entities"][0]["start"])


def test_tables_fit_100_columns_off_a_terminal(run, daemon):
    """Off a terminal, no table line is wider than 100 columns or ends in spaces, and engine names are not cut."""
    daemon.admin.status.engines[0].name = "llama-" + "0123456789" * 2
    daemon.admin.status.warnings.append("a warning that is long " * 9)
    out = (
        run("status").stdout
        + run("bundles", "list").stdout
        + run("classify", "pos-intent", "long words " * 30, "bad").stdout
    )
    assert [] == [line for line in out.splitlines() if len(line) > 100 or line != line.rstrip()]
    assert "llama-" + "0123456789" * 2 in out


def test_error_without_remedy_gets_the_one_of_its_exit_code(capsys):
    """The CLI prints the default remedy of the exit code for an error that has none."""
    report_error(EdgeAgentError("it broke"))
    assert "what to do: The daemon's log says more" in capsys.readouterr().err


def test_generate_logprobs_prints_a_table_on_standard_error(run, daemon):
    """`generate --logprobs N` prints each token's probability on standard error, quotes the pieces and shows incomplete
    characters as bytes; 6 alternatives are refused."""
    result = run("generate", "assistant", "hi", "--logprobs", "1")
    assert "Hello there\n" == result.stdout
    lines = [" ".join(line.split()) for line in result.stderr.splitlines()]
    assert ["'Hello' 60.7% 'Hi' 13.5%", r"' th\\xc3' 100.0%"] == lines[-2:]
    assert 1 == daemon.inference.requests[-1].logprobs
    assert 2 == run("generate", "assistant", "hi", "--logprobs", "6").exit_code


def test_generate_writes_only_text_to_standard_output(run, daemon):
    """`generate` writes the text to standard output and its notes to standard error, so that a pipe receives only the
    text."""
    result = run("generate", "assistant", "hi", "--output-tokens-max", "9", "--temperature", "0.5")
    assert (0, "Hello there\n", "cut at 2 tokens\n") == (result.exit_code, result.stdout, result.stderr)
    assert (9, 0.5) == (daemon.inference.requests[-1].output_tokens_max, daemon.inference.requests[-1].temperature)


@pytest.mark.parametrize(("options", "escalate"), [([], False), (["--escalate"], True)])
def test_generate_escalate_requests_the_large_model(run, daemon, options, escalate):
    """`generate --escalate` requests the large model and, if the local model answered, reports the reason on standard
    error."""
    result = run("generate", "assistant", "hi", *options)
    assert ("Hello there\n", escalate) == (result.stdout, daemon.inference.requests[-1].escalate)
    assert escalate == ("written by the model here: UPSTREAM_OFFLINE, see docs/routing.md" in result.stderr)


def test_generate_reads_standard_input(run, daemon):
    """`generate TASK -` reads the text from standard input."""
    run("generate", "assistant", "-", stdin="a long text")
    assert "a long text" == daemon.inference.requests[-1].text


def test_embed_prints_the_start_of_the_vector(run, daemon):
    """`embed` prints the vector's length and first values; `--json` contains all values."""
    assert ["x", "2", "+0.500", "-0.250", "…", "24", "cpu", "shared"] == run("embed", "p", "x").stdout.splitlines()[
        1
    ].split()
    assert [0.5, -0.25] == json.loads(run("embed", "p", "x", "--json").stdout)["embedding"]["values"]


def test_target_option_calls_another_daemon(daemon, tmp_path):
    """`classify --target SOCKET` calls another daemon without its configuration."""
    arguments = ["classify", "--target", f"unix:{tmp_path}/inference.sock", "pos-intent", "x"]
    assert "refund" in CliRunner().invoke(app, arguments).stdout


def test_status_shows_captured_and_evicted_examples(run, daemon):
    """`status` prints consent, stored examples and segments that wait for receipts; it reports evicted or lost examples
    only if there are any."""
    examples = daemon.admin.status.examples
    examples.collect.update({"pos-intent": "upstream"})
    examples.retained.update({"unsure": 3, "reviewed": 1, "routine": 0})
    examples.counters.update({"captured": 9, "dropped_queue_full": 0})
    examples.outbox_segments = 2
    shown = " ".join(run("status").stdout.split())
    assert "examples of pos-intent (upstream); kept here: 1 reviewed, 3 unsure;" in shown
    assert "waiting for receipts: 2 segments" in shown
    assert "given up" not in shown
    examples.counters.update({"sacrificed_routine": 5, "segments_lost": 1})
    assert "given up so far: sacrificed routine 5, segments lost 1" in " ".join(run("status").stdout.split())
    assert 9 == json.loads(run("status", "--json").stdout)["examples"]["counters"]["captured"]


def test_status_shows_the_uplink(run, daemon):
    """`status` prints the uplink's destination, state, contact times, waiting data and problems with remedies."""
    uplink = daemon.admin.status.uplink
    uplink.state, uplink.upstream = admin_pb2.LINK_STATE_OFFLINE, "s3://fleet/examples"
    now = time.time()
    for field, seconds in (("since_time", -7300), ("contact_time", -8000), ("retry_time", 130)):
        getattr(uplink, field).FromMilliseconds(int((now + seconds) * 1000))
    uplink.waiting_segments, uplink.waiting_bytes = 1, 2000
    uplink.problems.add(reason="UPSTREAM_BUSY", message="PUT [x] failed", remedy="Nothing.", about="0-1")
    uplink.downloads.state, uplink.downloads.repository = admin_pb2.LINK_STATE_ONLINE, "https://updates.example"
    shown = " ".join(run("status").stdout.split())
    assert "uplink to s3://fleet/examples: offline for 2 h, last contact 2 h ago, tried again in 2 min" in shown
    assert "waiting to go up: 1 segment, 2.0 kB" in shown
    assert "updates from https://updates.example: online; waiting to come down: 0 files, 0 bytes" in shown
    assert "uplink: PUT [x] failed (0-1). Nothing." in shown
    plain = json.loads(run("status", "--json").stdout)["uplink"]
    assert ("OFFLINE", 1, "UPSTREAM_BUSY") == (
        plain["state"],
        plain["waiting_segments"],
        plain["problems"][0]["reason"],
    )
    assert (None, "ONLINE") == (plain["downloads"]["since"], plain["downloads"]["state"])


def test_status_omits_capture_and_uplink_that_are_off(run, daemon):
    """`status` prints nothing about examples and the uplink at a site that does not capture; both are null in JSON."""
    assert "examples" not in run("status").stdout
    assert "uplink" not in run("status").stdout
    plain = json.loads(run("status", "--json").stdout)
    assert (None, None) == (plain["examples"], plain["uplink"])


def test_status_shows_the_update_state_of_each_planned_task(run, daemon):
    """`status` prints one line for each task that the plan names: versions, state, since when and the reason; a task
    without an update has no line."""
    updates = daemon.admin.status.updates
    updates.channel, updates.plan_version = "stable", 12
    assert "stable" not in run("status").stdout  # the plan names no task of this site
    updates.tasks.add(task="quiet")
    made = updates.tasks.add(task="pos-intent", state=8, message="2 of 20 golden inputs are answered otherwise")
    made.active.version, made.previous.version, made.candidate.version = "1.2.0", "1.1.0", "2.0.0"
    made.since_time.FromDatetime(datetime.now(UTC) - timedelta(hours=3))
    updates.problem = "the update in /incoming is no longer valid"
    shown = [" ".join(line.split()) for line in run("status").stdout.splitlines()]
    assert "updates: channel stable, plan 12" in shown
    assert "pos-intent 1.2.0 1.1.0 2.0.0 failed 3 h 2 of 20 golden inputs are answered otherwise" in shown
    assert "updates: the update in /incoming is no longer valid" in shown
    assert not any(line.startswith("quiet") for line in shown)
    plain = json.loads(run("status", "--json").stdout)["updates"]
    assert (12, "FAILED", "2.0.0") == (
        plain["plan_version"],
        plain["tasks"][1]["state"],
        plain["tasks"][1]["candidate"]["version"],
    )
    assert (None, "") == (plain["tasks"][0]["candidate"], plain["tasks"][0]["state"])


@pytest.mark.parametrize("command", ["export", "import"])
def test_media_commands_need_the_daemon(run, tmp_path, command):
    """`media export` and `media import` end with 3 and a remedy without a daemon, because only the daemon has the list
    of waiting segments."""
    result = run("media", command, str(tmp_path))
    assert 3 == result.exit_code
    assert "what to do" in result.stderr
