"""The architecture of the repository: who imports whom, sizes, habits of tests, and contents of documents.

The tables are the rules; CONTRIBUTING.md has the reasons. The rules, with tests of their own, are in
tests/architecture/.
"""

import itertools
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edge_agent.cli import COMMANDS
from edge_agent.errors import BY_REASON
from tests.architecture import habits, imports, shape
from tests.architecture.layers import LAYERS
from tests.architecture.source import below, load

ROOT = Path(__file__).parents[2]

# --- layers ----------------------------------------------------------------------------------------------------------
RUNTIMES = "edge_agent.engine.runtimes"
EDGE = ("edge_agent.server", "edge_agent.client", "edge_agent.v1", "edge_agent.uplink.escalation")
SCREEN = ("edge_agent.cli", "convert.cli", "installer.build.man_pages")
# Library: the layers that may import it. A library that is not here may be imported nowhere.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "llama_cpp": (f"{RUNTIMES}.llama", "convert.probe"),
    "llguidance": (f"{RUNTIMES}.llama",),
    "jinja2": (f"{RUNTIMES}.llama", "edge_agent.web.rendering", "edge_agent.report.report_page"),
    "starlette": ("edge_agent.web",),
    "uvicorn": ("edge_agent.web",),
    "onnxruntime": (RUNTIMES, "convert.probe", "convert.quantize"),
    "tokenizers": (RUNTIMES, "convert"),
    "numpy": (RUNTIMES, "convert"),
    "torch": ("convert",),
    "transformers": ("convert",),
    "peft": ("convert",),
    "openai": ("convert.data.synthesis", "edge_agent.uplink.escalation"),
    "httpx2": ("edge_agent.uplink.escalation",),
    "safetensors": ("convert",),
    "gguf": ("convert",),
    "onnx": ("convert.encoder", "convert.export", "convert.prepare", "convert.quantize"),
    "optimum": ("convert.export",),
    "scipy": ("convert",),
    "msgspec": ("edge_agent.engine",),
    "sqlite3": ("edge_agent.durable",),
    "grpc": EDGE,
    "grpc_health": EDGE,
    "grpc_reflection": EDGE,
    "grpc_status": EDGE,
    "google": (*EDGE, "convert.prepare"),
    "duckdb": ("convert.collect", "convert.dataset", "convert.dataset.assessment"),
    "faker": ("convert.dataset",),
    "tuf": ("edge_agent.update", "convert.publish"),
    "securesystemslib": ("edge_agent.update", "convert.publish"),
    "obstore": ("edge_agent.uplink", "convert.collect", "convert.publish"),
    "pyarrow": ("convert.collect",),
    "pyrage": ("edge_agent.formats", "convert"),
    "zstandard": ("edge_agent.formats", "convert"),
    "cryptography": ("edge_agent.formats", "edge_agent.certificate_authority", "edge_agent.capture", "convert"),
    "re2": ("edge_agent.capture", "edge_agent.routing"),
    "stdnum": ("edge_agent.capture",),
    "phonenumbers": ("edge_agent.capture",),
    "jsonschema": ("edge_agent.routing",),
    "pydantic": ("edge_agent.config", "edge_agent.formats", "edge_agent.uplink.escalation", "convert"),
    "yaml": (
        "edge_agent.cli.certs",
        "edge_agent.config",
        "edge_agent.formats.strict_yaml",
        "edge_agent.uplink",
        "convert",
    ),
    "structlog": (
        *(f"edge_agent.{name}" for name in ("uplink", "logs", "daemon", "server", "engine", "capture")),
        *("edge_agent.metrics", "edge_agent.update", "edge_agent.supervision", "convert.cli"),
        *("edge_agent.refusal_log", "edge_agent.process_resources"),
    ),
    "uvloop": ("edge_agent.daemon",),
    "typer": SCREEN,
    "click": SCREEN,
    "rich": SCREEN,
    "segno": ("edge_agent.cli.site_code",),
    "matplotlib": ("convert.report",),
}

# Modules that only decide: no clock, no waiting, no file. Time is an argument.
PURE = (
    *(f"edge_agent.{name}" for name in ("backoff", "errors")),
    *(f"edge_agent.engine.{name}" for name in ("job_queue", "protocol", "restart_policy")),
    *(f"edge_agent.{name}" for name in ("formats.certificates", "routing.policy", "statistics")),
    *(f"edge_agent.{name}" for name in ("formats.status_object",)),
    *(f"edge_agent.{name}" for name in ("uplink.connectivity",)),
    *(f"edge_agent.{name}" for name in ("uplink.object_store",)),
    *(
        f"edge_agent.{name}"
        for name in ("formats.enrolment_file", "formats.plan", "formats.repository_metadata", "formats.state_code")
    ),
    *(f"edge_agent.{name}" for name in ("update.update_state_machine", "update.probation")),
    *(f"{RUNTIMES}.llama.{name}" for name in ("step_costs", "step_scheduler")),
    "edge_agent.config.folder_access",
    "edge_agent.doctor.findings",
    "edge_agent.formatting",
    *(f"edge_agent.monitoring.{name}" for name in ("answer_observations", "risk_and_drift")),
    *(f"edge_agent.report.{name}" for name in ("charts", "judgement", "mode_recommendation")),
    *(f"edge_agent.web.gateway.{name}" for name in ("request_json",)),
    *(f"edge_agent.web.gateway.{name}" for name in ("chat_request", "openai_responses")),
    "edge_agent.client.task_description",
    *(f"edge_agent.report.{name}" for name in ("readiness", "suitability")),
)

# Definitions that only decide, in modules that also act on what was decided.
PURE_DEFINITIONS = {
    "edge_agent.client.daemon_connection": ("Retry", "RetryBudget", "CallAttempts"),
    "edge_agent.engine.machine_limits": ("AcceleratorPolicy", "candidate_devices", "allowed_cores"),
    "edge_agent.enrolment.site_enrolment": ("classify_enrolment",),
    "edge_agent.routing.large_model_questions": ("LargeModelTypedQuestion", "read_distribution", "broken_rule"),
    "edge_agent.report.task_figures": ("TaskFigures", "LabelFigures", "ConfidenceBand", "TaskAlarm", "sum_comparisons"),
    "edge_agent.server.roles": ("METHODS", "role_missing", "call_treatment", "certificate_roles"),
    "edge_agent.support_bundle": ("redact_text", "redact_value", "redact_settings", "redact_line"),
    "edge_agent.uplink.transfer_schedule": ("next_action", "transfer_cost_seconds", "unsent_segments", "Bandwidth"),
    "edge_agent.uplink.escalation.spend_ledger": ("TokenPrices", "SpendCaps", "SpendByDay", "encode", "parse"),
    "edge_agent.web.request_guard": (
        *("Principal", "session_principal", "token_principal", "certificate_principal", "required_role", "is_public"),
        *("SessionSigner", "allowed_hosts", "is_same_origin"),
    ),
    "edge_agent.web.overview_page": (
        *("summarize_health", "list_hidden_sections", "task_rows", "daemon_totals"),
        *("confidence_chart", "band_answers"),
    ),
}

# --- exceptions, each with its reason ---------------------------------------------------------------------------------
ENTRIES = {
    "convert.package.assemble_stage": "a stage: see convert/pipeline/execution.py",
    "convert.data.splits": "the scripts in examples/ that make data use it",
    "convert.training.finetune_stage": "a stage: see convert/pipeline/execution.py",
    "convert.package.question_calibration": "loaded by the command that uses it",
    "convert.data.synthesis": "loaded by the command that uses it",
    "convert.encoder.sentence_embeddings": "loaded by the command that uses it",
    "convert.collect.collection": "loaded by the command that uses it",
    "convert.prepare.prepare_stage": "a stage: see convert/pipeline/execution.py",
    "convert.export.export_stage": "a stage: see convert/pipeline/execution.py",
    "convert.verify.verify_stage": "a stage: see convert/pipeline/execution.py",
    "convert.quantize.quantize_stage": "a stage: see convert/pipeline/execution.py",
    "convert.probe.llama_probe": "started with python -m",
    "convert.probe.onnx_probe": "started with python -m",
    "convert.probe.llama_quantizer": "started with python -m",
    "convert.dataset.assessment": "imported by its command when it runs",
    "convert.dataset.label_review": "likewise",
    "convert.dataset.dataset_files": "likewise",
    "convert.report.report_files": "imported by the pipeline when there is something to report, since it draws",
    "convert.cli.__main__": "started with python -m",
    "convert.encoder.head": "started with python -m",
    "edge_agent.cli.__main__": "started with python -m",
    "installer.build.__main__": "started by scripts/build-installer",
    "installer.build.man_pages": "started with python -m, in the build's own environment",
    "edge_agent.engine.child": "started with python -m",
    "edge_agent.engine.runtimes.echo": "chosen by the table of runtimes",
    "edge_agent.engine.runtimes.onnx_runtime": "chosen by the table of runtimes",
    "edge_agent.engine.runtimes.llama.llama_runtime": "chosen by the table of runtimes",
}
LATE_IMPORTS: dict[str, str] = {
    "convert.__main__": "Ctrl-C is heard before the libraries are imported, which takes seconds",
    "convert.package.bundle_assembly": "only a prompt with 'chat: true' loads what reads a model file",
    "edge_agent.cli": "help needs nothing that a command leads to",
    "edge_agent.cli.command_group": "the screen libraries are loaded only when there is an error to print",
    "edge_agent.cli.config": "the configuration is shown without what writes units",
    "edge_agent.cli.doctor": "only a support bundle loads the rules of redaction",
    "edge_agent.cli.exits": "the screen libraries are loaded only when there is an error to print",
    "edge_agent.cli.daemon_target": "only a daemon over the network is shown certificates",
    "edge_agent.cli.privacy": "only a text from standard input loads what reads and shows inputs",
    "edge_agent.cli.status": "drawing over and over takes more than printing once",
    "edge_agent.client.call_failed": "only a failed call is read; and Windows has no modules of Unix sockets",
    "edge_agent.client.daemon_connection": "few programs ask for the health of the daemon",
    "edge_agent.client.admin_client": "status and installs read no report of the field, of privacy or of redaction",
    "edge_agent.daemon": "a site without a root of trust does not load the libraries that verify",
    "edge_agent.capture.example_capture": "a site that collects nothing loads no spool; only an erasure what searches",
    "edge_agent.capture.redact.redactor": "only a site with patterns of its own loads what runs them",
    "edge_agent.capture.text_redaction": "rules load with the first text, and detectors where a site has any",
    "edge_agent.capture.spool_worker": "a site that sends no examples loads no outbox",
    "edge_agent.capture.capture_values": "a site that collects nothing writes no status document",
    "edge_agent.capture.spool_writer": "a site that collects nothing does not load the spool",
    "edge_agent.server.admin_service": "a site without a redaction model does not load its audit",
    "edge_agent.formats.certificates": "roles are decided without certificates, too, and without the library then",
    "edge_agent.formats.signed_document": "most who load the module read no signature, and do without the library",
    "edge_agent.routing.large_model_questions": "only a site with a large model loads the library that checks answers",
    "edge_agent.server.grpc_servers": "a daemon without certificates does not load the library that reads them",
    "edge_agent.uplink.uplink_daemon": "a site without a large model does not load the library that asks it",
    "edge_agent.cli.services": "each process loads its own server alone, and the daemon nothing that reaches a network",
}
BROAD_EXCEPTS = {
    "benchmarks.remedies": "whatever a row of the sweep ends with is its result, and the others are played",
    "convert.publish.keyring": "signers of other libraries: whatever one raises becomes a sentence that names the key",
    "edge_agent.engine.child": "the child's loop: whatever a runtime raises becomes one failed job",
    "edge_agent.engine.runtimes.onnx_runtime": "tokenizers raises plain exceptions: each becomes a failure",
    "edge_agent.engine.child_supervisor": "its own fault is logged, and the child is started again",
    "edge_agent.capture.spool_writer": "the spool's thread: what one example raises drops that example, and is counted",
    "edge_agent.server.model_router": "rules of a site may raise anything, which must not cost the local answer",
    "edge_agent.supervision": "whatever ends what runs in the background is logged, shown and followed up",
    "edge_agent.server.interceptor": "the gRPC edge: what is not our error becomes INTERNAL, its text stays in the log",
}
BACKGROUND = {
    "edge_agent.supervision": "the owner of what runs for ever",
    "edge_agent.durable.disk_thread": "owns the thread that uses a disk; it tells how long the disk has stood",
    "edge_agent.metrics.metrics_listener": "owns its thread; `run` ends with it, and is a component",
    "edge_agent.metrics.site_metrics": "a look on the daemon's loop, awaited by the thread of the page",
    "edge_agent.update.activation": "a change runs to its end, or is given up when its caller leaves; `stop` awaits it",
    "edge_agent.update.selftest": "a self-test, awaited where it begins; a task so that `stop` can end it alone",
    "edge_agent.server.audit_log": "owns the thread that writes it; `close` awaits what waits, a failure is logged",
    "edge_agent.server.detached_calls": "a call that outlives its callers; `ended` tells its owner",
    "edge_agent.server.request_deduplication": "at the end of the daemon, awaits the calls that it cancels",
    "edge_agent.engine.job_dispatch": "a probe of a second; what it raises is logged",
    "edge_agent.engine.child_process": "waits for the end of a child; `wait_until_gone` awaits it",
    "edge_agent.engine.runtimes": "in the child, which ends with its threads",
    "edge_agent.uplink.transfer_loop": "a step and the wish to stop, both awaited where they begin",
    "edge_agent.uplink.escalation.question_broker": "owns the spend ledger's thread; each piece of work is awaited",
    "edge_agent.web.gateway.http_calls": "the work and the caller who may leave, both awaited where they begin",
    "edge_agent.client": "in a caller's program; awaited by the call that they belong to",
    "convert": "commands that end; no daemon",
}
SLEEPING_TESTS = {
    "tests.support.eventually": "polls with a deadline, so that no test has to sleep",
    "tests.support.daemon": "polls until a real daemon serves; shows its log when it does not",
}

# --- limits -----------------------------------------------------------------------------------------------------------
# There is no limit on a median or a mean: those split one behaviour over many small files.
FILE_LINES_MAX = 500
FUNCTION_MAX = {"lines": 70, "complexity": 12, "parameters": 8}
TEST_LINES_PER_SOURCE_LINE = (0.9, 1.7)

CODE = load(ROOT, ["edge_agent", "convert", "benchmarks", "installer"])
OURS = [source for source in CODE if not source.path.startswith("edge_agent/v1/")]
SHIPPED = [source for source in OURS if not source.path.startswith("benchmarks/")]
TESTS = load(ROOT, ["tests"])
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def require_none(violations: list[str], remedy: str) -> None:
    """Fail with every violation and its remedy."""
    if violations:
        pytest.fail("\n".join([*violations, f"=> {remedy}"]), pytrace=False)


def require_at_most(limit: float, measured: float, remedy: str) -> None:
    """Fail if a figure of the whole tree is over its limit."""
    require_none([f"measured {measured:.2f}, the limit is {limit}"] if measured > limit else [], remedy)


def document(name: str) -> str:
    """Read a document of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_file_has_a_layer():
    """Every module is in a layer of the table."""
    inside = [source for source in CODE if source.module != "edge_agent"]
    require_none(
        imports.without_layer(inside, LAYERS),
        "Put it into a layer, or give the new layer a line in LAYERS and in the README.",
    )


def test_layers_import_only_listed_layers():
    """A layer imports only the layers that its line in the table names."""
    remedy = "Hand it over from daemon.py as a callable or a small object, or move the code to the layer that owns it."
    require_none(imports.forbidden_edges(CODE, LAYERS), remedy)


def test_libraries_have_one_importer():
    """Each foreign library is imported in one shipped layer, and every imported library is in the table."""
    remedy = (
        "Use it through the layer that owns it. A new one needs a line in LIBRARIES, pyproject.toml, ARCHITECTURE.md."
    )
    require_none(imports.foreign_edges(SHIPPED, LIBRARIES), remedy)


def test_no_import_cycle():
    """The imports of modules contain no cycle."""
    require_none(imports.cycles(CODE), "Move what both need into a module below them.")


def test_no_late_import():
    """Imports are at the top of the file."""
    require_none(
        imports.late_imports(OURS, LATE_IMPORTS),
        "Move it to the top, or list the module in LATE_IMPORTS with the reason.",
    )


def test_examples_use_what_exists():
    """The scripts in examples/, which mypy does not check, import names that exist, and name parameters that exist."""
    require_none(imports.broken_uses(load(ROOT, ["examples"]), CODE), "Follow the name in the package.")


def test_no_dead_module():
    """Every module is imported by another, or is an entry point."""
    entries = ENTRIES | {entry.module: "a command" for entry in COMMANDS.values()}
    entries |= {entry.partition(":")[0]: "console script" for entry in PYPROJECT["project"]["scripts"].values()}
    require_none(imports.unused(SHIPPED, entries), "Delete it, or list it in ENTRIES with the reason.")


def test_deciding_modules_are_pure():
    """Modules that only decide have no clock, do not wait and open no file."""
    require_none(imports.impure(CODE, PURE), "Pass the time or the content in, and let the caller wait or read.")
    named = {*PURE, *PURE_DEFINITIONS}
    require_none(sorted(named - imports.modules(CODE)), "PURE or PURE_DEFINITIONS names a module that is not there.")


def test_deciding_definitions_are_pure():
    """Listed definitions that only decide, in modules that also act, reach no clock and no file, and do not wait."""
    violations = imports.impure_definitions(CODE, PURE_DEFINITIONS)
    require_none(violations, "Pass the time or the content in, and let the caller wait or read.")


def test_rules_of_doctor_are_pure():
    """A rule of `edge-agent doctor` judges facts that its probe collected: it reads no clock, no file and no
    process."""
    doctor = [source for source in CODE if below(source.module, ["edge_agent.doctor"])]
    remedy = "Let the probe look, and pass what it saw in the facts."
    require_none(imports.impure_rules(doctor, "Iterator[Finding]", PURE), remedy)


def test_daemon_loads_no_model_library():
    """Importing the daemon loads no library that only the child process can have."""
    script = "import sys, edge_agent.daemon; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"llama_cpp", "llguidance", "onnxruntime", "tokenizers", "numpy", "jinja2", "edge_agent.engine.runtimes"}
    require_none(
        sorted(heavy & set(loaded)),
        "Only edge_agent.engine.child may lead to these; find the import with python -X importtime.",
    )


def test_edge_convert_starts_without_heavy_libraries():
    """Importing the commands of `edge-convert` loads no library that only its stages need."""
    script = "import sys, convert.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "transformers", "optimum", "peft", "llama_cpp", "scipy", "matplotlib", "duckdb", "pyarrow"} | {
        "faker"
    }
    require_none(
        sorted(heavy & set(loaded)), "Import it through convert.pipeline.stage.load_module, when the command runs."
    )


def test_files_are_short():
    """No file is longer than the limit."""
    require_none(shape.long_files(OURS + TESTS, FILE_LINES_MAX), "Split it where the idea changes.")


@pytest.mark.slow
def test_functions_are_short_and_simple():
    """No function is over a hard limit."""
    remedy = "Take a step out and name it; pass what belongs together as one frozen dataclass."
    require_none(shape.oversized(shape.functions(OURS + TESTS), FUNCTION_MAX), remedy)


@pytest.mark.slow
def test_class_names_are_unique():
    """A class name exists once in the shipped code."""
    require_none(shape.repeated_classes(SHIPPED), "Put its domain into the name.")


def test_no_class_is_named_by_a_participle():
    """The name of a class is a noun and not a bare participle."""
    require_none(shape.bare_participles([*OURS, *TESTS]), "Name the thing: HumanLabel, not Said.")


@pytest.mark.slow
def test_names_describe_the_content():
    """No module or class has a name that fits any content."""
    require_none(shape.banned_names(CODE + TESTS), "Name it after what it knows or does.")


def test_interfaces_have_two_implementations():
    """Each protocol and abstract class has two implementations in the tree; a shipped fake counts."""
    require_none(shape.lonely_interfaces(OURS), "Use the class itself, or take a Callable.")


def test_only_process_boundaries_catch_every_exception():
    """Only the listed process boundaries catch every exception."""
    require_none(habits.broad_excepts(OURS, BROAD_EXCEPTS), "Catch what can be raised, by name.")


def test_background_work_has_an_owner():
    """Tasks and threads start only where the table names an owner that awaits them and logs their exceptions."""
    remedy = (
        "Register it with the Supervisor, use an asyncio.TaskGroup, or list the module in BACKGROUND with who owns it."
    )
    require_none(habits.unowned(SHIPPED, BACKGROUND), remedy)
    gone = [module for module in BACKGROUND if not any(below(each.module, [module]) for each in SHIPPED)]
    require_none(gone, "BACKGROUND names a module that is not there.")


def test_no_modules_are_imported_from_the_working_directory():
    """A program that starts Python with -m imports nothing from its working directory, such as a bundle's folder."""
    require_none(habits.borrowed_modules(SHIPPED), "Write -P before -m.")


@pytest.mark.slow
def test_tests_do_not_sleep():
    """No test waits by sleeping."""
    remedy = "Wait for the event, or poll with a deadline through tests/support/eventually.py."
    require_none(habits.sleeping(TESTS, SLEEPING_TESTS), remedy)


@pytest.mark.slow
def test_tests_do_not_patch():
    """No test replaces a part of the project's code."""
    require_none(
        habits.patching(TESTS), "Pass the fake in at the seam (the echo runtime, a callable, a clock argument)."
    )


@pytest.mark.slow
def test_docstrings_describe_existing_parameters():
    """The `Args:` of a docstring name only parameters that the function has."""
    require_none(habits.unknown_arguments(CODE + TESTS), "Name the parameter as the function does.")


@pytest.mark.slow
def test_tests_have_a_docstring():
    """Every test states the behaviour in its docstring."""
    require_none(habits.without_fact(TESTS), "Write the behaviour as one sentence.")


def test_size_of_the_tests_is_in_its_range():
    """The number of test lines per source line is in the allowed range."""
    low, high = TEST_LINES_PER_SOURCE_LINE
    ratio = sum(source.lines for source in TESTS) / sum(source.lines for source in SHIPPED)
    require_at_most(high, ratio, "Put cases that differ in data only into one table.")
    require_at_most(-low, -ratio, "Test what the change does.")


def test_dependencies_are_explained():
    """ARCHITECTURE.md gives the reason for every dependency."""
    project = PYPROJECT["project"]
    every = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    named = [f"`{name}`" for name in habits.dependency_names(every)]
    require_none(habits.unnamed(named, document("ARCHITECTURE.md")), "Give it a line in the dependency table.")


def test_errors_are_listed():
    """docs/errors.md contains the stable reason of every error."""
    require_none(
        habits.unnamed([f"`{reason}`" for reason in BY_REASON], document("docs/errors.md")), "Give it a row there."
    )


def test_contributing_shows_the_tree():
    """The tree in CONTRIBUTING.md contains every package and every top-level module of a program."""
    inside = [path for folder in ("edge_agent", "convert") for path in sorted((ROOT / folder).iterdir())]
    folders = {f"{path.name}/" for path in inside if path.is_dir() and any(path.glob("*.py"))}
    files = {path.name for path in inside if path.suffix == ".py" and path.name != "__init__.py"}
    require_none(habits.unnamed(folders | files, document("CONTRIBUTING.md")), "Give it a line in the tree.")


def test_packages_list_their_files():
    """A package docstring that lists files lists all files of the package and no other."""
    require_none(habits.unlisted_modules(OURS), "Give it a line there, or remove the line.")


def test_scripts_are_explained():
    """CONTRIBUTING.md explains every script."""
    names = {f"scripts/{path.name}" for path in (ROOT / "scripts").iterdir() if path.is_file()}
    require_none(habits.unnamed(names, document("CONTRIBUTING.md")), "Say there what it does.")


def test_decision_numbers_are_unique():
    """No two pages of docs/decisions share a number."""
    numbers = sorted(path.name.partition("-")[0] for path in (ROOT / "docs" / "decisions").glob("*.md"))
    require_none(
        sorted({one for one, next_one in itertools.pairwise(numbers) if one == next_one}), "Take the next one."
    )


def test_modules_with_exceptions_exist():
    """Every module that has an exception to a rule exists, so an exception does not outlive its reason."""
    there = imports.modules(CODE + TESTS)
    named = {*ENTRIES, *LATE_IMPORTS, *BROAD_EXCEPTS, *SLEEPING_TESTS}
    require_none(sorted(named - there), "Remove the line.")
