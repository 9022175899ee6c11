"""`edge-agent run` and `bundles inspect`: a bundle on disk, without a daemon."""

import json
import tarfile

import pytest
from typer.testing import CliRunner

from edge_agent.cli import app
from tests.support import gated_onnx
from tests.support.bundles import digest_of, echo_bundle


@pytest.mark.slow
def test_run_answers_once_and_leaves_no_files(tmp_path):
    """`run` loads the model in a child process, prints one answer as text or JSON, ends with 0 and leaves no files."""
    folder = echo_bundle(tmp_path / "bundle", weights=b"weights")
    shown = CliRunner().invoke(app, ["run", str(folder), "where is my order"])
    assert (0, True) == (shown.exit_code, "confidence" in shown.stdout), shown.output
    plain = json.loads(CliRunner().invoke(app, ["run", str(folder), "where is my order", "--json"]).stdout)
    assert ["where is my order", "classify", False] == [plain[key] for key in ("input", "kind", "confident")]
    assert plain["scores"][0] == [plain["label"], plain["confidence"]]
    assert ["bundle"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.slow
def test_run_names_every_reason_why_an_answer_is_not_confident(tmp_path):
    """`run` reports both reasons if an input is out of distribution and its confidence is below the threshold."""
    model = gated_onnx.gated("classify")
    confidence = {
        **{
            "policy": "threshold",
            "temperature": 1.0,
            "threshold": 0.99,
            "target_risk": 0.05,
            "delta": 0.1,
            "n": 99,
            "bound": 0.05,
        },
        **{"coverage": 0.5, "gate": {"score": "ood_score", "held_up_max": 0.5, "scores": [-1e9, -1e9, -1e9]}},
    }
    folder = gated_onnx.write(tmp_path / "bundle", "classify", model, confidence)
    shown = CliRunner().invoke(app, ["run", str(folder), "where is my order"])
    assert 0 == shown.exit_code, shown.output
    assert "no: the input is out of distribution, below the threshold 0.99" in " ".join(shown.stdout.split())


@pytest.mark.slow
def test_run_prints_generated_text(tmp_path):
    """`run BUNDLE -` reads the prompt from standard input and prints the generated text."""
    folder = echo_bundle(tmp_path / "bundle", kind="generate")
    written = CliRunner().invoke(app, ["run", str(folder), "-"], input="hello there")
    assert (0, True) == (written.exit_code, "hello" in written.stdout), written.output


def test_run_refuses_a_folder_that_is_not_a_bundle(tmp_path):
    """`run` ends with 5 for a folder that is not a bundle or lacks a file of its manifest, and names the missing
    file."""
    for _ in range(2):
        result = CliRunner().invoke(app, ["run", str(tmp_path), "x"])
        assert (5, True) == (result.exit_code, "is not a bundle directory" in result.stderr)
        (tmp_path / "manifest.json").mkdir(exist_ok=True)
    folder = echo_bundle(tmp_path / "bundle", weights=b"weights")
    (folder / "echo.weights.bin").unlink()
    missing = CliRunner().invoke(app, ["run", str(folder), "x"])
    assert (5, True) == (missing.exit_code, "echo.weights.bin does not exist" in missing.stderr)


@pytest.mark.parametrize("packed", [False, True], ids=["directory", "tar"])
def test_inspect_shows_an_intact_bundle(tmp_path, packed):
    """`bundles inspect` prints the digest of a bundle directory or tar file, the same by which the daemon identifies
    it."""
    folder = path = echo_bundle(tmp_path / "bundle", weights=b"weights")
    if packed:
        path = tmp_path / "bundle.tar"
        with tarfile.open(path, "w") as archive:
            archive.add(folder, ".")
    shown = CliRunner().invoke(app, ["bundles", "inspect", str(path)])
    assert (0, True) == (shown.exit_code, digest_of(folder) in shown.stdout), shown.output
    plain = json.loads(CliRunner().invoke(app, ["bundles", "inspect", str(path), "--json"]).stdout)
    assert (digest_of(folder), "classify") == (plain["digest"], plain["manifest"]["task"]["kind"])


@pytest.mark.parametrize(("delta", "certainty"), [(0.1, "90%"), (0.005, "99.5%"), (0.0001, "99.9%")])
def test_inspect_never_rounds_certainty_to_100_percent(tmp_path, delta, certainty):
    """`bundles inspect` prints the certainty of a risk guarantee rounded down: 99.99% as 99.9%, not as 100%."""
    proved = {"policy": "threshold", "temperature": 1.0, "threshold": 0.8, "target_risk": 0.05, "delta": delta}
    calibrated = {**proved, "n": 5000, "bound": 0.04, "coverage": 0.9}
    folder = echo_bundle(tmp_path / "bundle", confidence=calibrated)
    shown = " ".join(CliRunner().invoke(app, ["bundles", "inspect", str(folder)]).stdout.split())
    assert f"at most 5.0% wrong at or above it, with {certainty} certainty" in shown


def test_inspect_refuses_a_changed_file(tmp_path):
    """`bundles inspect` ends with 5 and names the file whose content differs from the manifest's hash."""
    folder = echo_bundle(tmp_path / "bundle", weights=b"weights")
    weights = folder / "echo.weights.bin"
    weights.write_bytes(b"weightz")
    result = CliRunner().invoke(app, ["bundles", "inspect", str(folder)])
    assert (5, True) == (result.exit_code, "echo.weights.bin is not the file that the manifest names" in result.stderr)
