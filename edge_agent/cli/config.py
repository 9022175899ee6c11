"""`edge-agent config`: the configuration that the daemon would run with, whether it is valid, and its files."""

from __future__ import annotations

import typer
from rich.text import Text

from edge_agent.cli.command_group import global_options
from edge_agent.cli.output import AsJson, out, print_done, print_json, print_trimmed, table
from edge_agent.cli.terminal import write_exactly
from edge_agent.config import Overrides, config_paths, load, read_files
from edge_agent.config.config_files import render_sections

app = typer.Typer(no_args_is_help=True, help="Show and check the configuration.")


@app.command("show")
def show_config(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Print every key with its value in force: defaults, files, environment and options together.

    It holds no secrets: those are in files of their own, whose paths are shown. 'config path' lists the files.

    Example: [bold]edge-agent config show --json | jq .engine[/bold]
    """
    given = global_options(ctx)
    config = load(given.config, Overrides(given.state_dir, given.run_dir))
    plain = config.model_dump(mode="json")
    if as_json:
        print_json(plain, indent=2)
    else:
        write_exactly(render_sections(plain, "").decode(), end="")


@app.command("validate")
def validate_config(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Check the configuration as the daemon does when it starts; ends with 3 when it is invalid.

    Example: [bold]edge-agent config validate --config ./agent.yaml && sudo cp agent.yaml /etc/edge-agent/[/bold]
    """
    given = global_options(ctx)
    load(given.config, Overrides(given.state_dir, given.run_dir))
    overruled = read_files(given.config).overruled()
    if as_json:
        print_json({"valid": True, "overruled": overruled}, indent=2)
        return
    print_done(ctx, f"{config_paths(given.config)[0]} is valid.")
    if overruled:
        print_done(ctx, f"agent.yaml overrides the enrolment file in {', '.join(overruled)}.")


@app.command("path")
def list_config_paths(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the files of the configuration, the one that wins first.

    Example: [bold]edge-agent config path[/bold]
    """
    files = [{"path": str(path), "exists": path.exists()} for path in config_paths(global_options(ctx).config)]
    if as_json:
        print_json(files, indent=2)
        return
    made = table("file", "exists", wrap=("file",))
    for file in files:
        made.add_row(str(file["path"]), Text("yes", "green") if file["exists"] else Text("no", "dim"))
    print_trimmed(out(), made)
