"""A run in one zip: complete, the same bytes every time, nothing of its owner's machine in it, and it runs where it is
unpacked. The run is a real one, by the store and the worker, exported by the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core import cli
from core.cli.stored import OWNER
from core.config import RunConfig, TrainConfig, resolved
from core.errors import BadInput, Refused
from core.export import link
from core.export.bundle import PARTS, Export, commands, export, write_folder, write_zip
from core.runs.store import Run, Store
from core.runs.worker import execute
from tests.core.export_support import ROOT, code_of, losses, run_all
from tests.core.runs_support import quick_train

LOOP = {"steps": 4, "batch_size": 8, "train_examples": 40, "eval_items": 4, "skill_items": 4, "precision": "float32"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    home = tmp_path_factory.mktemp("home")
    before = os.environ.get("DELTALAB_HOME")
    os.environ["DELTALAB_HOME"] = str(home)
    made = Store()
    yield made
    made.close()
    os.environ.pop("DELTALAB_HOME") if before is None else os.environ.update(DELTALAB_HOME=before)


def finished(store: Store, config: RunConfig, key: str, **more: Any) -> Run:
    run = store.create(OWNER, config, key=key, direct=True, title=more.pop("title", None))
    assert execute(store, run.id, signals=False, **more) == "finished"
    return store.get(run.id, OWNER)


def told(store: Store, run: Run) -> list[dict[str, Any]]:
    return [e for _, e in store.events(run.id, OWNER, limit=100_000)]


@pytest.fixture(scope="module")
def run(store: Store) -> Run:
    """A run of a method without random numbers, so that the exported script has nothing to differ by."""
    return finished(store, RunConfig(method="bitfit", train=TrainConfig(**LOOP)), "real", title="My first “run”")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def own(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on a person's own file (by the quick trainer: nothing here reads its weights)."""
    file = tmp_path_factory.mktemp("ada") / "my diary.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Say {i}", "completion": f"It is {i}."}) + "\n" for i in range(30)))
    config = RunConfig(task=None, data=str(file), train=TrainConfig(steps=3, batch_size=4, checkpoint_every=5))
    return finished(store, config, "own", train=quick_train)


@pytest.fixture(scope="module")
def unpacked(run: Run, tmp_path_factory: pytest.TempPathFactory, capsys: Any = None) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    assert cli.main(["export", run.id[:6], "--out", str(folder / "run.zip"), "--json"]) == 0
    with zipfile.ZipFile(folder / "run.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(folder)
    (root,) = (p for p in folder.iterdir() if p.is_dir())
    assert root.name == f"deltalab-{run.id[:8]}"
    return root


def test_everything_is_in_it(unpacked: Path) -> None:
    assert sorted(p.relative_to(unpacked).as_posix() for p in unpacked.rglob("*") if p.is_file()) == [
        "README.md", "SHA256SUMS", "adapter/README.md", "adapter/bitfit.safetensors", "adapter/deltalab.json",
        "base/config.json", "base/generation_config.json", "base/model.safetensors", "base/tokenizer.json",
        "base/tokenizer_config.json", "config.json", "data.jsonl", "environment.json", "metrics.csv",
        "requirements-trl.txt", "requirements.txt",
        *(p.relative_to(unpacked).as_posix() for p in sorted((unpacked / "tensorboard").iterdir())),
        "train.ipynb", "train.py", "train_trl.py",
    ]  # fmt: skip


def test_the_checksums_verify_and_notice_a_change(unpacked: Path, tmp_path: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("needs sha256sum")
    copy = shutil.copytree(unpacked, tmp_path / "copy")
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": OK") == len([p for p in copy.rglob("*") if p.is_file()]) - 1
    (copy / "config.json").write_text("{}")
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=copy, capture_output=True).returncode == 1


def test_the_script_and_the_notebook_run_where_they_are_unpacked(unpacked: Path, run: Run, store: Store) -> None:
    """From the unpacked folder alone, offline: the run's own losses, and answers before and after."""
    commands = [[str(unpacked / "train.py"), "--log", "log"], [str(unpacked / "train.ipynb")]]
    assert run_all(commands, unpacked.parent) == {c[0]: "" for c in commands}
    ran = [e["loss"] for e in told(store, run) if e["kind"] == "step"]
    # float32 sums in another order; see test_export_script.py.
    assert losses(unpacked / "log") == pytest.approx(ran, abs=1e-5)
    assert (unpacked / "out" / "bitfit.safetensors").is_file()
    before, after = json.loads((unpacked / "asked.json").read_text())
    assert len(before) == len(after) == 3
    assert all(before)


def test_the_notebook_is_a_valid_one(unpacked: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    found = nbformat.read(unpacked / "train.ipynb", as_version=4)
    nbformat.validate(found)
    assert (found.nbformat, found.nbformat_minor) == (4, 5)
    kinds = [c.cell_type for c in found.cells]
    assert kinds[:3] == ["markdown", "markdown", "code"]
    assert len({c.id for c in found.cells}) == len(kinds)
    for number, code in enumerate(code_of(unpacked / "train.ipynb")):
        compile(code, str(number), "exec")


def test_the_metrics_are_the_runs(unpacked: Path, run: Run, store: Store) -> None:
    rows = list(csv.DictReader(io.StringIO((unpacked / "metrics.csv").read_text())))
    assert [r["step"] for r in rows] == ["0", "1", "2", "3", "4"]
    events = told(store, run)
    assert [float(r["loss"]) for r in rows[1:]] == [e["loss"] for e in events if e["kind"] == "step"]
    assert rows[0]["loss"] == ""
    scores = {e["step"]: e for e in events if e["kind"] == "evaluated"}
    assert {int(r["step"]): float(r["exact_match"]) for r in rows if r["exact_match"]} == {
        step: e["exact_match"] for step, e in scores.items()
    }
    assert float(rows[-1]["skill_recall"] if "skill_recall" in rows[-1] else next(
        v for k, v in rows[-1].items() if k.startswith("skill_")
    )) == next(iter(scores[4]["skills"].values()))  # fmt: skip


def test_the_environment_and_the_settings_are_the_runs(unpacked: Path, run: Run) -> None:
    found = json.loads((unpacked / "environment.json").read_text())
    assert found["precision"] == "float32"
    assert found["base"]["fingerprint"]
    assert {"python", "torch", "transformers"} <= set(found["versions"])
    assert f"torch=={found['versions']['torch'].partition('+')[0]}\n" in (unpacked / "requirements.txt").read_text()
    assert RunConfig.from_dict(json.loads((unpacked / "config.json").read_text())) == RunConfig.from_dict(run.config)
    linked = next(line for line in (unpacked / "README.md").read_text().splitlines() if line.startswith("?v="))
    assert link.decode(linked) == resolved(RunConfig.from_dict(run.config))


def test_the_same_run_gives_the_same_bytes(run: Run, store: Store, tmp_path: Path) -> None:
    for name in "ab":
        write_zip(export(run, told(store, run)), tmp_path / f"{name}.zip", root="r")
        os.utime(run.folder / "adapter" / "bitfit.safetensors")  # the dates of files do not count
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_tensorboard_reads_the_bundles_curves(unpacked: Path, run: Run, store: Store) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(unpacked / "tensorboard"))
    reader.Reload()
    found = [e.value for e in reader.Scalars("train/loss")]
    assert found == pytest.approx([e["loss"] for e in told(store, run) if e["kind"] == "step"])


# --- an own file, other parts, other places -------------------------------------------------------------------------


def test_an_own_file_and_its_place_stay_at_home(own: Run, store: Store, tmp_path: Path) -> None:
    made = export(own, told(store, own))
    target = write_folder(made, tmp_path / "out")
    assert "data.jsonl" not in made.files
    assert any("--data" in note for note in made.notes)
    home, secret = str(own.folder).encode(), b"It is 7."
    for path in target.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert home not in content, path
            assert secret not in content, path
    assert json.loads((target / "config.json").read_text())["data"] == "my_diary.jsonl"
    assert "required=True" in (target / "train.py").read_text()


def test_an_own_file_goes_along_when_asked(own: Run, store: Store) -> None:
    made = export(own, told(store, own), part="script", with_data=True)
    rows = [json.loads(line) for line in made.files["data.jsonl"].splitlines()]  # type: ignore[union-attr]
    assert len(rows) == 3 * 4
    assert all(row["completion"] == f"It is {row['prompt'].removeprefix('Say ')}." for row in rows)
    assert "required=True" not in made.files["train.py"].decode()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("part", "trainer", "names"),
    [
        ("script", "transformers", {"train.py", "requirements.txt"}),
        ("script", "sft", {"train_trl.py", "requirements.txt", "requirements-trl.txt"}),
        ("notebook", "sft", {"train.ipynb", "requirements.txt", "requirements-trl.txt"}),
        ("tensorboard", "transformers", set()),
        ("adapter", "transformers", set()),
    ],
)
def test_a_part_brings_what_it_needs(part: str, trainer: str, names: set[str], run: Run, store: Store) -> None:
    found = set(export(run, told(store, run), part=part, trainer=trainer).files) - {"SHA256SUMS"}
    if part in ("tensorboard", "adapter"):
        assert found
        assert {n.partition("/")[0] for n in found} == {part}
        return
    assert {n for n in found if "/" not in n} == names | {"data.jsonl"}
    assert {n.partition("/")[0] for n in found if "/" in n} == {"base"}


def test_more_files_can_be_added_and_nothing_leads_elsewhere(run: Run, store: Store, tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    picture.write_bytes(b"picture")
    made = export(run, told(store, run), extra={"README.md": b"# card", "figures/p.png": picture})
    assert made.files["README.md"] == b"# card"
    assert b"sha256sum -c" in made.files["CONTENTS.md"]  # type: ignore[operator]
    assert made.files["SHA256SUMS"].count(b"figures/p.png") == 1  # type: ignore[union-attr]
    for name in ("../x", "/x", "a\\b", ""):
        with pytest.raises(BadInput):
            export(run, told(store, run), extra={name: b""})


def test_a_run_without_an_adapter_is_refused_but_has_a_script(store: Store) -> None:
    waiting = store.create(OWNER, RunConfig(), key="waits")
    for part in PARTS:
        if part in ("script", "notebook"):
            assert export(waiting, [], part=part).files
        else:
            with pytest.raises(Refused):
                export(waiting, [], part=part)
    store.cancel(waiting.id, OWNER)


def test_a_classifier_that_never_began_has_no_order_of_labels(run: Run, store: Store) -> None:
    events = [e | {"base": {"task": "classification"}} if e["kind"] == "started" else e for e in told(store, run)]
    with pytest.raises(Refused, match="its labels have no order"):
        export(run, events, part="script")


def test_what_has_no_script_says_so_and_the_rest_is_there(run: Run, store: Store) -> None:
    """BitFit beside weights in few bits: transformers' Trainer does not train it. A classifier: TRL does not."""
    few = [e | {"base": {**e["base"], "few_bits": True}} if e["kind"] == "started" else e for e in told(store, run)]
    made = export(run, few)
    assert {"adapter/bitfit.safetensors", "config.json", "metrics.csv", "README.md"} <= set(made.files)
    assert not {"train.py", "train_trl.py", "train.ipynb", "requirements.txt", "data.jsonl"} & set(made.files)
    assert "There is no script and no notebook: transformers' Trainer" in " ".join(made.notes)
    assert "pip install -r" not in commands(made, "a.zip", "a")
    for part in ("script", "notebook"):
        with pytest.raises(BadInput, match="which BitFit is not"):
            export(run, few, part=part)
    labelled = {"task": "classification", "labels": ["a", "b"]}
    events = [e | {"base": e["base"] | labelled} if e["kind"] == "started" else e for e in told(store, run)]
    made = export(run, events)
    assert "train.py" in made.files
    assert "train_trl.py" not in made.files
    assert "There is no script with TRL" in " ".join(made.notes)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    made = Export({"a.txt": b"new"})
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="not an empty folder"):
        write_folder(made, kept)
    with pytest.raises(BadInput, match="is a folder"):
        write_zip(made, kept, root="r")
    with pytest.raises(BadInput, match="cannot be written"):
        write_zip(made, kept / "mine.txt" / "x.zip", root="r")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["kept", "mine.txt"]
    (empty := tmp_path / "empty").mkdir()
    assert (write_folder(made, empty) / "a.txt").read_bytes() == b"new"


def test_a_broken_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "run.zip").write_bytes(b"old")
    broken = Export({"a.txt": b"new", "b.txt": tmp_path / "gone"})
    for write in (
        lambda: write_zip(broken, tmp_path / "run.zip", root="r"),
        lambda: write_folder(broken, tmp_path / "f"),
    ):
        with pytest.raises(BadInput, match="cannot be written"):
            write()
    assert [p.name for p in tmp_path.iterdir()] == ["run.zip"]
    assert (tmp_path / "run.zip").read_bytes() == b"old"


def test_the_command_says_what_is_wrong(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    for arguments, part in (
        (["nonsense", "--out", out], "There is no run 'nonsense'"),
        ([run.id, "--out", out, "--what", "all"], "There is no part 'all'"),
        ([run.id, "--out", out, "--trainer", "keras"], "There is no trainer 'keras'"),
        ([run.id], "--out"),
    ):
        assert cli.main(["export", *arguments]) == 2
        assert part in capsys.readouterr().err
    assert not Path(out).exists()
    assert cli.main(["export", run.id, "--out", out, "--what", "tensorboard", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["out"] == out
    assert {p.relative_to(out).as_posix() for p in Path(out).rglob("*") if p.is_file()} == set(said["files"])


def test_exporting_imports_no_torch(run: Run, tmp_path: Path) -> None:
    code = (
        "import sys; from core import cli; "
        f"assert cli.main(['export', {run.id!r}, '--out', {str(tmp_path / 'o.zip')!r}, '--json']) == 0; "
        "assert 'torch' not in sys.modules, 'torch'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
