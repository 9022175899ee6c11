"""`edge-convert assemble`: makes a bundle from task.yaml and model files."""

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import get_args

import gguf
import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from convert.cli import app
from convert.package.bundle_assembly import AssembleRequest, assemble
from convert.quantize.gguf_files import chat_template
from edge_agent.errors import BundleUnreadable, FileMissing, InvalidRequest, ManifestInvalid
from edge_agent.formats.manifest import EngineSettings, Manifest, TaskLimits, digest_of, parse

ROOT = Path(__file__).parents[4]
RECIPE = """
version: 1.0.0
runtime: onnx
task:
  name: pos-intent
  kind: classify
  labels: [refund, price]
  limits: {input_tokens_max: 64}
confidence: {policy: always_escalate}
provenance: {base: a test}
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A task directory with model files next to it."""
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "task.yaml").write_text(RECIPE)
    (tmp_path / "model.onnx").write_bytes(b"weights")
    (tmp_path / "tokenizer.json").write_text("{}")
    return folder


def request(task: Path, out: str = "out", **more) -> AssembleRequest:
    base = task.parent
    files = {"weights": base / "model.onnx", "tokenizer": base / "tokenizer.json"}
    return AssembleRequest(task, more.pop("files", files), base / out, **more)


def test_bundle_directory_has_files_named_by_role(task):
    """Files of a bundle are named by role, and its digest is that of the stored manifest."""
    made = assemble(request(task))
    stored = (made.path / "manifest.json").read_bytes()
    assert {"weights.onnx", "tokenizer.json", "manifest.json"} == {path.name for path in made.path.iterdir()}
    assert (digest_of(stored), made.manifest) == (made.digest, parse(stored))
    assert "edge-convert" in made.manifest.provenance.converter
    assert b"weights" == (made.path / "weights.onnx").read_bytes()


def test_files_are_hard_linked_where_the_disk_allows_it(task):
    """The weights of a bundle directory are a hard link to the model file, so they take no extra disk space."""
    made = assemble(request(task))
    assert (made.path / "weights.onnx").samefile(task.parent / "model.onnx")


def test_samples_become_the_golden_file(task):
    """Each line of samples.txt that is not a comment or empty becomes a JSON object of the golden file; a byte order
    mark is removed."""
    (task / "samples.txt").write_text("# a comment\ncafé \n\nhow much?\n", encoding="utf-8-sig")
    made = assemble(request(task))
    (golden,) = made.manifest.by_role("golden")
    lines = (made.path / golden.path).read_text(encoding="utf-8").splitlines()
    assert [{"input": "café"}, {"input": "how much?"}] == [json.loads(line) for line in lines]


def test_same_input_gives_an_identical_tar(task):
    """The bytes of a tar do not depend on the clock or on times, modes and names of the input files."""
    first = assemble(request(task, "first.tar"))
    model = task.parent / "renamed.onnx"
    (task.parent / "model.onnx").rename(model)
    os.utime(model, (1, 1))
    model.chmod(0o600)
    files = {"tokenizer": task.parent / "tokenizer.json", "weights": model}
    second = assemble(request(task, "second.tar", files=files))
    assert first.path.read_bytes() == second.path.read_bytes()


def test_tar_starts_with_the_manifest(task):
    """The manifest is the first entry of a tar, so that a reader can refuse the bundle before it reads the weights."""
    made = assemble(request(task, "bundle.tar"))
    with tarfile.open(made.path, "r:") as tar:
        entries = tar.getmembers()
    assert ["manifest.json", "tokenizer.json", "weights.onnx"] == [entry.name for entry in entries]
    assert {(0, 0, 0, "")} == {(entry.mtime, entry.uid, entry.gid, entry.uname) for entry in entries}


def chat_bundle(task: Path, template: str | None) -> AssembleRequest:
    """Request a bundle with `chat: true` whose GGUF file has this chat template, or none."""
    recipe = "version: 1.0.0\nruntime: llama\ntask: {name: talk, kind: generate, prompt: {chat: true}}\n"
    (task / "task.yaml").write_text(f"{recipe}engine: {{context_tokens: 2048}}\n")
    weights = weights_with(template, task.parent / "model.gguf")
    return request(task, files={"weights": weights})


def weights_with(template: str | None, weights: Path) -> Path:
    """Write the head of a GGUF file with this chat template, or none."""
    writer = gguf.GGUFWriter(weights, "llama")
    writer.add_token_list(["<s>", "</s>", "a"])
    writer.add_bos_token_id(0)
    if template is not None:
        writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return weights


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "model.gguf: the prompt has 'chat: true', but the weights file has no chat template"),
        ("{{ messages", "model.gguf: the chat template of the weights file does not render"),
        ("{{ 1 + messages }}", "model.gguf: the chat template of the weights file does not render"),
        ("always this", "model.gguf: the chat template of the weights file writes the user's message 0 times"),
    ],
    ids=["none", "broken", "of another type", "without the message"],
)
def test_chat_prompt_needs_a_usable_chat_template(task, template, said):
    """A bundle with `chat: true` is refused if an agent could not use the chat template of its weights, and no output
    remains."""
    asked = chat_bundle(task, template)
    with pytest.raises(ManifestInvalid, match=said) as caught:
        assemble(asked)
    assert "Leave 'chat' out" in caught.value.remedy
    assert not asked.out.exists()


def test_chat_prompt_with_template_is_assembled(task):
    """A bundle with `chat: true` is made if its weights have a chat template, and the template's begin token is that of
    the file."""
    made = assemble(chat_bundle(task, "{{ bos_token }}{% for each in messages %}{{ each.content }}{% endfor %}"))
    assert made.manifest.task.prompt.chat
    assert {"bos_token": "<s>"} == chat_template(made.path / "weights.gguf")[1]


def test_invalid_golden_file_is_refused(task):
    """A golden file that is not JSON lines is refused with the line number and the expected format."""
    golden = task.parent / "golden.jsonl"
    golden.write_bytes(os.urandom(100))
    files = {"weights": task.parent / "model.onnx", "tokenizer": task.parent / "tokenizer.json", "golden": golden}
    with pytest.raises(
        BundleUnreadable, match="each line of the golden file must hold a JSON object with 'input'; line 1"
    ):
        assemble(request(task, files=files))


def test_progress_counts_every_byte(task):
    """The last progress callback of each file has its full size."""
    seen = {}
    assemble(request(task), lambda name, done, size: seen.update({name: (done, size)}))
    assert {"weights.onnx": (7, 7), "tokenizer.json": (2, 2)} == seen


def test_version_option_overrides_the_task(task):
    """--version replaces the version in task.yaml."""
    assert "2.0.0" == assemble(request(task, version="2.0.0")).manifest.version


@pytest.mark.parametrize(
    ("line", "key", "remedy"),
    [
        ("runtme: onnx", "runtme", "Did you mean 'runtime'?"),
        ("task: {labls: [a, b]}", "labls", "Did you mean 'labels'?"),
        ("task: {prompt: {tempalte: x}}", "tempalte", "Did you mean 'template'?"),
        ("confidence: {treshold: 0.5}", "treshold", "Did you mean 'threshold'?"),
        ("question_confidence: {urgent: {treshold: 0.5}}", "treshold", "Did you mean 'threshold'?"),
        ("artifacts: []", "artifacts", "Known keys there: task, version"),
    ],
)
def test_unknown_key_suggests_the_nearest(task, line, key, remedy):
    """An unknown key in task.yaml is refused at every depth, and the remedy suggests the nearest key."""
    (task / "task.yaml").write_text(line)
    with pytest.raises(ManifestInvalid, match=f"unknown key '{key}'") as caught:
        assemble(request(task))
    assert caught.value.remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[refund, price]", "[refund, refund]", "task.labels: duplicate labels: refund"),
        ("version: 1.0.0", "version: 1.0", "version: 1.0 is not a semantic version such as 1.2.0"),
        ("runtime: onnx", "runtime: llama", "input and output limits need 4096 tokens"),
        (RECIPE, "[1, 2]", "must contain keys and values"),
        (RECIPE, "{", "is not valid YAML"),
        ("{base: a test}", "[1]", "'provenance' and 'provenance.converter' must contain"),
    ],
)
def test_broken_manifest_rule_is_reported_for_task_yaml(task, old, new, said):
    """A task.yaml that breaks a rule of the manifest is refused with the rule and the file, and no output remains."""
    text = RECIPE.replace(old, new).replace("input_tokens_max: 64", "input_tokens_max: 4096")
    (task / "task.yaml").write_text(text)
    with pytest.raises(ManifestInvalid, match=said) as caught:
        assemble(request(task))
    assert "task.yaml" in caught.value.message
    assert not (task.parent / "out").exists()


def test_missing_files_are_named(task):
    """A missing model file or task.yaml is an error with its path."""
    with pytest.raises(FileMissing, match=r"weights file .*nowhere.gguf does not exist"):
        assemble(request(task, files={"weights": task.parent / "nowhere.gguf"}))
    with pytest.raises(FileMissing, match=r"nowhere/task.yaml|nowhere does not exist"):
        assemble(request(task.parent / "nowhere"))


def test_existing_output_is_replaced_only_with_force(task):
    """Without --force an existing bundle stays unchanged; with it the bundle is replaced as a whole."""
    first = assemble(request(task))
    (first.path / "stray").write_text("")
    with pytest.raises(InvalidRequest, match="exists"):
        assemble(request(task, version="2.0.0"))
    assert "1.0.0" == parse((first.path / "manifest.json").read_bytes()).version
    second = assemble(request(task, version="2.0.0", force=True))
    assert ("2.0.0", False) == (second.manifest.version, (second.path / "stray").exists())


def test_force_does_not_replace_a_folder_that_is_not_a_bundle(task):
    """--force refuses to replace a folder that is not a bundle, and its files stay."""
    (task.parent / "out").mkdir()
    (task.parent / "out" / "letter.txt").write_text("dear")
    with pytest.raises(InvalidRequest, match="is not a bundle"):
        assemble(request(task, force=True))
    assert "dear" == (task.parent / "out" / "letter.txt").read_text()


def test_failure_removes_the_staging_directory(task):
    """After a failure, the staging directory next to the output is removed."""
    (task / "samples.txt").write_bytes(b"\xff\xfe")
    before = set(task.parent.iterdir())
    with pytest.raises(InvalidRequest, match="is not UTF-8"):
        assemble(request(task))
    assert before == set(task.parent.iterdir())


def test_compressed_output_is_refused(task):
    """An output named .tar.gz is refused, because a bundle is a directory or an uncompressed tar."""
    with pytest.raises(InvalidRequest, match="never compressed"):
        assemble(request(task, "bundle.tar.gz"))


def test_unknown_value_suggests_the_nearest(task):
    """An unknown value of a fixed set, such as `kind: clasify`, is refused, and the remedy suggests the nearest
    value."""
    (task / "task.yaml").write_text(RECIPE.replace("kind: classify", "kind: clasify"))
    with pytest.raises(ManifestInvalid, match=r"task\.kind") as caught:
        assemble(request(task))
    assert "Did you mean 'classify'?" == caught.value.remedy


def test_echo_example_needs_no_weights(tmp_path):
    """The echo example is assembled from task.yaml alone."""
    made = assemble(AssembleRequest(ROOT / "examples" / "echo", {}, tmp_path / "echo"))
    assert ("echo", ()) == (made.manifest.runtime, made.manifest.artifacts)


def keys(model):
    """Yield the names of each field of a section and of its subsections."""
    for name, field in model.model_fields.items():
        yield field.alias or name
        pending = [field.annotation]
        while pending:
            annotation = pending.pop()
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield from keys(annotation)
            pending += get_args(annotation)


def test_task_yaml_page_explains_every_key():
    """docs/task-yaml.md names each field of the manifest, and the defaults that are numbers."""
    text = (ROOT / "docs" / "task-yaml.md").read_text(encoding="utf-8")
    assert [] == sorted({key for key in keys(Manifest) if f"`{key}`" not in text and f".{key}`" not in text})
    rows = dict(re.findall(r"^\| `([\w.]+)` .*\| ([^|]*) \|$", text, re.MULTILINE))
    numbers = {**TaskLimits().model_dump(), "engine.context_tokens": EngineSettings().context_tokens}
    assert {key: str(value) for key, value in numbers.items()} == {key: rows[key] for key in numbers}


@pytest.mark.parametrize("name", ["pos-intent", "assistant"])
def test_llama_examples_share_an_engine(tmp_path, name):
    """The llama examples are assembled with golden cases, and bundles over the same weights have the same engine
    key."""
    weights = weights_with("{{ messages[-1].content }}", tmp_path / "model.gguf")
    made = assemble(AssembleRequest(ROOT / "examples" / name, {"weights": weights}, tmp_path / name))
    other = assemble(AssembleRequest(ROOT / "examples" / "assistant", {"weights": weights}, tmp_path / "other"))
    assert made.manifest.engine_key() == other.manifest.engine_key()
    assert made.manifest.by_role("golden")


def by_hand(task: Path, *more: str) -> list[str]:
    """Return the command that makes a bundle from a task's files."""
    base = task.parent
    options = ["--weights", base / "model.onnx", "--tokenizer", base / "tokenizer.json", "--out", base / "made"]
    return ["assemble", *map(str, [task, *options, *more])]


def golden_file(folder: Path, binding: int, report_only: int = 0) -> Path:
    """Write a golden file with binding cases, and with report-only cases that another processor may answer
    differently."""
    lines = [{"input": f"{number}", "answer": "refund", "scores": [0.9, 0.1]} for number in range(binding)]
    near = {"answer": "refund", "scores": [0.51, 0.49], "report_only": True}
    lines += [{"input": f"near {number}", **near} for number in range(report_only)]
    path = folder / "expected.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.mark.parametrize(
    ("golden", "asked", "said"),
    [
        (None, [], "0 of 2 golden cases are binding, and 8 are required"),
        ((7, 5), [], "7 of 12 golden cases are binding, and 8 are required"),
        ((8, 5), ["--golden-cases-min", "9"], "8 of 13 golden cases are binding, and 9 are required"),
        ((8, 5), [], None),
        ((7, 5), ["--golden-cases-min", "7"], None),
    ],
)
def test_bundle_needs_enough_binding_golden_cases(task, golden, asked, said):
    """A bundle from files needs eight binding golden cases unless --golden-cases-min is lower; samples without answers
    do not count."""
    (task / "samples.txt").write_text("Can I return this?\nHow much is it?\n")
    given = ["--golden", str(golden_file(task.parent, *golden))] if golden else []
    result = CliRunner().invoke(app, by_hand(task, *given, *asked))
    if said is None:
        assert (0, "") == (result.exit_code, result.stderr)
        assert "It has no golden cases" not in result.stdout
        assert parse((task.parent / "made" / "manifest.json").read_bytes()).by_role("golden")
    else:
        assert 0 != result.exit_code
        assert said in result.stderr
        assert "--golden-cases-min" in result.stderr
        assert not (task.parent / "made").exists()


def test_assemble_prints_the_bundle_and_its_limits(task):
    """`edge-convert assemble` prints path, task, size and files of the bundle, and warns if it has no golden cases."""
    base = task.parent
    result = CliRunner().invoke(app, by_hand(task, "--golden-cases-min", "0"))
    assert (0, "") == (result.exit_code, result.stderr)
    assert f"Made {base / 'made'}: pos-intent 1.0.0, onnx, 2 files, 9 bytes" in result.stdout
    assert "It has no golden cases: a site can load it, but cannot check" in result.stdout


def test_assemble_reports_bad_input_with_a_remedy(task):
    """Bad input exits with code 2, one sentence and a remedy."""
    result = CliRunner().invoke(app, ["assemble", str(task), "--out", str(task.parent / "made")])
    assert 2 == result.exit_code
    assert "needs an artifact of role 'weights'" in result.stderr
    assert "  what to do: Give the file: --weights FILE." in result.stderr
    (task / "task.yaml").write_text("runtme: onnx")
    result = CliRunner().invoke(app, ["assemble", str(task), "--out", str(task.parent / "made")])
    assert "  what to do: Did you mean 'runtime'?" in result.stderr


@pytest.mark.slow
def test_help_names_exit_codes_and_an_example():
    """`edge-convert --help` names the exit codes, and `assemble --help` has an example."""
    command = [sys.executable, "-c", "from convert.cli import main; main()", "--help"]
    assert "Exit codes" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Example: edge-convert assemble" in CliRunner().invoke(app, ["assemble", "--help"]).stdout
