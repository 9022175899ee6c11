"""Which layer can import which: tests/architecture checks every import against this table."""

from __future__ import annotations

# Small pure modules, and what a process has of memory and descriptors: anything may import them.
GROUND = {
    "edge_agent.backoff",
    "edge_agent.formats.strict_yaml",
    "edge_agent.formatting",
    "edge_agent.process_resources",
}
BASE = GROUND | {"edge_agent.errors", "edge_agent.config", "edge_agent.formats"}
MIDDLE = {
    f"edge_agent.{layer}"
    for layer in ("engine", "engine.protocol", "capture", "capture.redact", "monitoring", "routing", "store", "update")
}
SHARED = {"edge_agent.cli.terminal", "edge_agent.cli.command_group"}  # by both commands: what reaches a terminal
# Layer: the layers it may import. A layer is a package or a module; the most exact one counts.
LAYERS: dict[str, set[str]] = {
    **{module: set() for module in GROUND},
    "edge_agent.formatting": {"edge_agent.statistics"},
    "edge_agent.errors": set(),
    "edge_agent.config": {"edge_agent.errors", "edge_agent.formats.strict_yaml"},
    "edge_agent.formats": {"edge_agent.errors"},
    "edge_agent.durable": {"edge_agent.errors"},
    "edge_agent.v1": set(),
    "edge_agent.client": {"edge_agent.backoff", "edge_agent.v1"},
    "edge_agent.logs": {"edge_agent.config", "edge_agent.errors"},
    # Of the daemon's calls and of the console's.
    "edge_agent.refusal_log": {"edge_agent.errors"},
    # Who owns what runs in the background.
    "edge_agent.supervision": {"edge_agent.backoff"},
    "edge_agent.certificate_authority": {"edge_agent.errors", "edge_agent.formats", "edge_agent.durable"},
    "edge_agent.metrics": set(),
    # What the layers know, as numbers: part of the composition root.
    "edge_agent.metrics.site_metrics": BASE
    | MIDDLE
    | {f"edge_agent.{name}" for name in ("metrics", "server", "supervision", "v1")},
    # Questions of a bundle as a job asks them, too.
    "edge_agent.engine.protocol": {"edge_agent.formats"},
    "edge_agent.engine.memory_need": {"edge_agent.errors", "edge_agent.engine.protocol"},
    "edge_agent.engine.runtimes": {
        "edge_agent.errors",
        "edge_agent.formats",
        "edge_agent.engine.protocol",
        "edge_agent.engine.memory_need",
    },
    # The child's entry point: the only way to a runtime, so that no daemon ever loads a model library.
    "edge_agent.engine.child": {
        "edge_agent.errors",
        "edge_agent.formats",
        "edge_agent.engine.protocol",
        "edge_agent.engine.memory_need",
        "edge_agent.engine.runtimes",
        "edge_agent.engine.confinement",
    },
    "edge_agent.engine.confinement": set(),
    "edge_agent.engine": BASE
    | {
        "edge_agent.engine.protocol",
        "edge_agent.engine.memory_need",
        "edge_agent.supervision",
    },
    "edge_agent.routing": BASE,
    # Arithmetic for site and factory alike.
    "edge_agent.statistics": set(),
    "edge_agent.monitoring": BASE | {"edge_agent.durable", "edge_agent.statistics"},
    "edge_agent.store": BASE | {"edge_agent.durable"},
    # What is kept is counted in the same transaction.
    "edge_agent.capture": BASE
    | {f"edge_agent.{name}" for name in ("durable", "monitoring", "statistics", "capture.redact")},
    # What counts as personal data, for site and factory alike.
    "edge_agent.capture.redact": {"edge_agent.errors"},
    "edge_agent.update": BASE | {"edge_agent.store", "edge_agent.durable"},
    "edge_agent.uplink": BASE | {"edge_agent.durable"},
    "edge_agent.uplink.escalation": BASE
    | {f"edge_agent.{name}" for name in ("durable", "supervision", "uplink", "v1")},
    # The other daemon's root.
    "edge_agent.uplink.uplink_daemon": BASE
    | {f"edge_agent.{name}" for name in ("uplink", "uplink.escalation", "logs", "supervision")},
    # Who may do what, for the console too.
    "edge_agent.server.roles": BASE,
    # The audit log's file is durable.
    "edge_agent.server": BASE
    | MIDDLE
    | {
        f"edge_agent.{name}"
        for name in (
            "durable",
            "metrics",
            "refusal_log",
            "v1",
            "statistics",
            "server.roles",
            "supervision",
        )
    },
    "edge_agent.daemon": BASE
    | MIDDLE
    | {"edge_agent.metrics", "edge_agent.metrics.site_metrics"}
    | {f"edge_agent.{name}" for name in ("refusal_log", "server", "logs", "supervision")},
    "edge_agent.doctor": BASE
    | {"edge_agent.client", "edge_agent.store", "edge_agent.capture"}
    | {"edge_agent.engine.confinement"},
    # Looks at a site through the client, and only reckons.
    "edge_agent.report": {"edge_agent.client", "edge_agent.formatting", "edge_agent.statistics"},
    # A process of its own, and a client like any other.
    "edge_agent.web": BASE
    | {f"edge_agent.{name}" for name in ("client", "refusal_log", "report", "server.roles", "supervision")},
    "edge_agent.support_bundle": BASE | {"edge_agent.doctor", "edge_agent.capture", "edge_agent.capture.redact"},
    # A root of its own, which runs while the daemon need not.
    "edge_agent.enrolment": BASE | {"edge_agent.durable", "edge_agent.update"},
    "edge_agent.cli": BASE
    | {
        "edge_agent.daemon",
        "edge_agent.enrolment",
        "edge_agent.uplink.uplink_daemon",
        "edge_agent.certificate_authority",
        "edge_agent.client",
    }
    | {"edge_agent.statistics", "edge_agent.store", "edge_agent.engine", "edge_agent.engine.protocol"}
    | {f"edge_agent.{name}" for name in ("refusal_log", "durable", "doctor", "logs", "report", "support_bundle", "web")}
    | SHARED,
    "convert": GROUND
    | {f"edge_agent.{name}" for name in ("durable", "errors", "formats", "statistics")}
    | {f"convert.{name}" for name in ("dataset", "decoder", "encoder", "evaluate")},
    # What a site's configuration refuses, an enrolment file should not say.
    "convert.fleet.enrolment_file": {f"edge_agent.{name}" for name in ("config", "errors", "formats")}
    | {"convert", "edge_agent.formats.strict_yaml"},
    # What stands in place of redacted values is held against the rules that found them.
    "convert.dataset": {
        f"edge_agent.{name}" for name in ("durable", "errors", "formats", "formatting", "capture.redact")
    }
    | {"convert", "convert.encoder"},
    # Training sees the tokens that the served model will see, by the same code.
    "convert.decoder": {"edge_agent.formats", "edge_agent.engine.runtimes"},
    "convert.encoder": {"convert", "edge_agent.engine.runtimes", "edge_agent.errors"},
    # Scores come from the code that will serve, and a redaction model is measured with the rules of the site.
    "convert.evaluate": BASE
    | {"convert", "edge_agent.engine", "edge_agent.engine.protocol", "edge_agent.capture.redact"},
    **{layer: {"edge_agent.errors"} for layer in SHARED},
    "edge_agent.cli.command_group": {"edge_agent.errors", "edge_agent.cli.terminal"},
    "convert.__main__": {"convert.cli"},
    "convert.cli": {"convert", "convert.dataset", "convert.evaluate", "edge_agent.errors", "edge_agent.formats"}
    | {"convert.fleet.enrolment_file"}
    | GROUND
    | {"edge_agent.durable"}
    | SHARED,
    "installer": set(),
    # Runs on the target under its Python, before anything else is there.
    "installer.setup": set(),
    # The man pages are written from the commands and the configuration themselves.
    "installer.build": {"installer.setup", "edge_agent.cli", "edge_agent.config"},
    "benchmarks": BASE
    | {f"edge_agent.{name}" for name in ("cli", "capture", "capture.redact", "client", "logs", "v1")}
    | {"convert", "convert.dataset", "convert.evaluate", "tests", "benchmarks.asking.bookkeeping"}
    | {"benchmarks.deciding.open_questions", "benchmarks.deciding.soft_targets"}
    | {"benchmarks.redacting.bundle_model", "benchmarks.redacting.training_value"},
    # What a call costs in the layers that it goes through, without a daemon around them.
    "benchmarks.asking.bookkeeping": BASE
    | MIDDLE
    | {f"edge_agent.{name}" for name in ("server", "uplink.escalation", "v1")}
    | {"benchmarks", "tests"},
    # What the loop of an engine costs beside its model, without a child around it.
    "benchmarks.bare.streams": {"edge_agent.engine.runtimes"},
    "benchmarks.bare.hot_loop": BASE
    | {"benchmarks", "tests", "edge_agent.engine.protocol", "edge_agent.engine.runtimes"},
    # Questions of a call on an engine, without a daemon.
    "benchmarks.deciding.open_questions": BASE
    | {"benchmarks", "tests", "edge_agent.engine", "edge_agent.engine.protocol", "edge_agent.engine.runtimes"},
    # Students and their teacher are linear classifiers on an encoder.
    "benchmarks.deciding.soft_targets": {"benchmarks", "convert", "convert.encoder", "convert.evaluate", "tests"}
    | {"benchmarks.calibration"},
    # What batches would gain, which the runtime does not allow.
    # A redaction bundle is decoded by the agent's own code; heads are trained on what it redacted.
    "benchmarks.redacting.bundle_model": BASE
    | {"benchmarks", "convert.evaluate", "edge_agent.capture.redact", "edge_agent.engine.protocol"}
    | {"edge_agent.engine.runtimes"},
    "benchmarks.redacting.training_value": BASE
    | {"benchmarks", "convert", "convert.dataset", "convert.encoder", "edge_agent.capture.redact"},
    "benchmarks.encoders": {"benchmarks", "convert", "tests", "edge_agent.engine.runtimes"},
    # A recipe beside a linear classifier on the same encoder, shown as the product shows its own.
    "benchmarks.calibration": BASE
    | {"benchmarks", "convert", "convert.encoder", "convert.evaluate", "edge_agent.logs", "tests"},
    "benchmarks.public": {"benchmarks", "convert", "convert.cli", "convert.encoder", "edge_agent.cli.terminal"}
    | {"edge_agent.formats"},
    "benchmarks.label_errors": {"benchmarks", "convert", "convert.cli", "convert.dataset", "convert.encoder", "tests"},
    # It repeats twenty thousand inputs a thousand times, which no daemon does in minutes.
    "benchmarks.drift": {"benchmarks", "edge_agent.monitoring"},
    "tests": set(),
}
