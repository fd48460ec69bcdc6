"""Paths from strangers: nothing outside the data or the stage's folder is read or touched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from higfa_cli.artifacts.artifact import write_rows
from higfa_cli.artifacts.atomic import read_jsonl, write_json, write_jsonl, write_text
from higfa_cli.artifacts.fingerprint import hash_file
from higfa_cli.artifacts.lock import folder_lock
from higfa_cli.artifacts.run_record import StageInputs, stage_run
from higfa_cli.artifacts.safe_paths import why_outside
from higfa_cli.artifacts.stage_state import recorded_outputs, stage_state
from higfa_cli.data.dataset import load_dataset
from higfa_cli.errors import UserError
from higfa_cli.forecast import estimate
from higfa_cli.recipe.data import Data
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages import drawing, pipeline, preview, report
from higfa_cli.stages.context import Context, make_context
from higfa_cli.stages.plan import plan
from higfa_cli.stages.table import stage_of
from higfa_cli.training.trainer import load_checkpoint
from tests.support.hostile import PATHS, Canary, assert_inert, higfa, hostile_root, path_of, photo
from tests.support.layouts import car_annotations, cells, dog_list, lines, mat
from tests.support.shapes import picture_row
from tests.support.stage_folder import RECIPE

INPUTS = StageInputs({"version": 1}, {"data/train": "aa"})


def write_csv(root: Path, path: str) -> None:
    (root.parent / "s.csv").write_text(
        f"path,class,split\nok/0.png,ok,train\n{path},ok,train\n", encoding="utf-8"
    )


def fgvc(root: Path, path: str) -> None:
    (root / "images").mkdir()
    photo(root / "images/0.png")
    (root / "images/link.png").symlink_to(root.parent / "secret.png")
    lines(root / "variants.txt", "A320")
    lines(root / "images_variant_train.txt", "0 A320", f"{path.removesuffix('.png')} A320")


def cub(root: Path, path: str) -> None:
    photo(root / "images/ok/0.png")
    (root / "images/link").symlink_to(root.parent)
    lines(root / "classes.txt", "1 ok")
    lines(root / "images.txt", "1 ok/0.png", f"2 {path}")
    lines(root / "image_class_labels.txt", "1 1", "2 1")
    lines(root / "train_test_split.txt", "1 1", "2 1")


def pets(root: Path, path: str) -> None:
    (root / "images").mkdir()
    photo(root / "images/ok_1.jpg")
    (root / "images/link").symlink_to(root.parent)
    photo(root.parent / "secret_1.jpg")
    stem = path.replace("secret.png", "secret_1").removesuffix(".png")
    lines(root / "annotations/trainval.txt", "ok_1 1 1 1", f"{stem} 1 1 1")
    lines(root / "annotations/test.txt", "ok_1 1 1 1")


def dtd(root: Path, path: str) -> None:
    photo(root / "images/ok/0.png")
    (root / "images/ok/link").symlink_to(root.parent)
    for split in ("train", "val", "test"):
        lines(root / f"labels/{split}1.txt", f"ok/{path}" if split == "train" else "ok/0.png")


def cars(root: Path, path: str) -> None:
    for folder in ("cars_train", "cars_test"):
        photo(root / folder / "0.png")
    (root / "cars_train/link").symlink_to(root.parent)
    mat(root / "devkit/cars_meta.mat", class_names=cells("ok"))
    car_annotations(root / "devkit/cars_train_annos.mat", ("0.png", 1), (path, 1))
    car_annotations(root / "devkit/cars_test_annos_withlabels.mat", ("0.png", 1))


def dogs(root: Path, path: str) -> None:
    photo(root / "Images/n1-ok/0.png")
    (root / "Images/n1-ok/link").symlink_to(root.parent)
    dog_list(root / "train_list.mat", ("n1-ok/0.png", 1.0), (f"n1-ok/{path}", 1.0))
    dog_list(root / "test_list.mat", ("n1-ok/0.png", 1.0))


LISTS: dict[str, Callable[[Path, str], None]] = {
    "imagefolder": write_csv,
    "fgvc-aircraft": fgvc,
    "cub": cub,
    "oxford-pets": pets,
    "dtd": dtd,
    "stanford-cars": cars,
    "stanford-dogs": dogs,
}


@pytest.mark.fault("hostile", "paths that lead out: `..`, absolute, links, NUL", "refused")
@pytest.mark.parametrize("layout", LISTS)
@pytest.mark.parametrize("name", PATHS)
def test_listed_photos_lie_in_the_data_folder(tmp_path: Path, layout: str, name: str) -> None:
    root = hostile_root(tmp_path)
    photo(root / "ok" / "0.png")
    LISTS[layout](root, path_of(name, tmp_path))
    data = Data(layout=layout, root="data", split_file="s.csv" if layout == "imagefolder" else None)  # type: ignore[arg-type]
    if layout == "imagefolder" and "link" in name:
        # The user's own folders may be made of links.
        assert len(load_dataset(data, tmp_path, 0).samples) == 2
        return
    with pytest.raises(UserError) as caught:
        load_dataset(data, tmp_path, 0)
    message = str(caught.value)
    assert "\n" not in message
    # Which line or element of which file.
    assert any(word in message for word in ("line", ".mat"))


@pytest.mark.fault("hostile", "paths that lead out: `..`, absolute, links, NUL")
@pytest.mark.parametrize("name", PATHS)
def test_the_rule_itself(tmp_path: Path, name: str) -> None:
    root = hostile_root(tmp_path)
    photo(root / "train/a b/ü.png")
    assert why_outside(root, "train/a b/ü.png") is None
    if name in ("home", "no-such-user"):
        # No shell is at work: a folder may be called so.
        assert why_outside(root, path_of(name, tmp_path)) is None
    else:
        assert why_outside(root, path_of(name, tmp_path)) is not None


# --- a workspace from a stranger --------------------------------------------------------------


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    """Contours of four photos, made for real; the guide is off."""
    for cls in ("A320", "A321"):
        for index in range(2):
            photo(tmp_path / "photos/train" / cls / f"{index}.png", index)
    (tmp_path / "recipe.yaml").write_text(
        "name: small\ndata: {root: photos}\nsize: 32\n"
        "model: {base: a/b, controlnet: a/c}\n"
        "guidance: {classifier: {switch: 1.0}}\n"
    )
    made = make_context(load_recipe(str(tmp_path / "recipe.yaml")), tmp_path / "runs")
    list(pipeline.iter_stages(made, last="contours"))
    photo(tmp_path / "runs" / "secret.png")
    return made


def with_links(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "link").symlink_to(folder.parent)
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    return folder


@pytest.mark.parametrize("name", PATHS)
def test_contours_are_read_from_their_stage(ctx: Context, name: str) -> None:
    manifest = with_links(ctx.stage_dir("contours")) / "manifest.jsonl"
    rows = read_jsonl(manifest)
    rows[0]["file_name"] = path_of(name, ctx.workspace)
    rows[0]["sha256"] = hash_file(ctx.workspace / "secret.png")
    write_jsonl(manifest, rows)
    item = next(one for one in plan(ctx) if one.contour == rows[0]["file_name"])
    with pytest.raises(UserError, match="contours"):
        drawing.read_contour(ctx, item)
    # Before any model is loaded: there is none.
    with pytest.raises(UserError, match="contours"):
        preview.sweep(ctx, "guidance.text.scale", [1.0], ["higfa"])


@pytest.mark.parametrize("name", PATHS)
def test_pictures_are_read_from_their_stage(ctx: Context, name: str) -> None:
    images = ctx.ws.arm("higfa").synthesize.directory / "images"
    with_links(images)
    photo(images.parent / "secret.png")
    row = picture_row(file_name=path_of(name, images.parent), cls="A320", source="train/A320/0.png")
    write_rows(images / "metadata.jsonl", [row])
    with pytest.raises(UserError, match=r"names a file in|cannot read image"):
        stage_of("filter").run(ctx, ["higfa"])


@pytest.mark.parametrize("name", PATHS)
def test_the_gallery_is_read_from_its_stage(ctx: Context, name: str) -> None:
    files = ctx.ws.arm("gallery").synthesize
    with_links(files.images)
    photo(files.source("1"))
    photo(ctx.ws.contours.directory / "1.png")
    right = {"id": "1", "contour": "1.png", "file_name": "1.png"}
    for key in right:
        row = picture_row(**right | {key: path_of(name, ctx.workspace)})
        write_rows(files.metadata, [row])
        with pytest.raises(UserError, match=r"names a file in|cannot read image"):
            report._gallery(ctx)


def finish(directory: Path, **files: str) -> None:
    with stage_run(directory, INPUTS, RECIPE) as run:
        for name, text in files.items():
            write_text(run.directory / "images" / name, text)
            run.output(run.directory / "images" / name)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.fault("hostile", "records and results of a stranger")
@pytest.mark.parametrize("resume", [False, True], ids=["anew", "resumed"])
@pytest.mark.parametrize("source", ["record", "journal"])
@pytest.mark.parametrize("name", PATHS)
def test_only_the_stage_s_own_files_are_removed(
    tmp_path: Path, name: str, source: str, resume: bool
) -> None:
    outside = hostile_root(tmp_path / "other")
    stage = tmp_path / "other" / "stage"
    finish(stage, a="1")
    (stage / "link.png").symlink_to(outside.parent / "secret.png")
    secret = outside.parent / "secret.png"
    before = tree(outside) | {"secret": secret.read_bytes()}
    listed = path_of(name, outside.parent)
    record = json.loads((stage / "run.json").read_text())
    if source == "record":
        record["outputs"] |= {listed: "0" * 64}
    else:
        record["status"] = "running"
        row = {"file_name": listed, "sha256": "0" * 64}
        (stage / ".outputs.jsonl").write_text(json.dumps(row) + "\n")
    write_json(stage / "run.json", record)
    # There may be folders called so in the stage's own.
    assert (listed in recorded_outputs(stage)) == (name in ("home", "no-such-user", "folder-link"))
    with stage_run(stage, INPUTS, RECIPE, resume=resume):
        pass
    assert tree(outside) | {"secret": secret.read_bytes()} == before


def outside_of(stage: Path) -> Path:
    folder = stage.parent.parent / "precious"
    write_text(folder / "thesis.tex", "ten years")
    return folder


def moved_away(stage: Path, out: Path) -> None:
    stage.rename(out / "stage")
    stage.symlink_to(out / "stage")


LINKS: dict[str, Callable[[Path, Path], None]] = {
    "folder-inside": lambda stage, out: (stage / "images").symlink_to(out),
    "folder-deep-inside": lambda stage, out: (
        (stage / "images").mkdir() or (stage / "images/A320").symlink_to(out)
    ),
    "stage-folder": moved_away,
    "lock": lambda stage, out: (stage.parent / ".s.lock").symlink_to(out / "thesis.tex"),
    "scratch": lambda stage, out: (stage / ".scratch").symlink_to(out),
}
REPLACED: dict[str, str] = {
    "lock-note": "../.s.lock.json",
    "journal": ".outputs.jsonl",
    "recipe": "recipe.resolved.yaml",
    "picture": "images/b",
}


@pytest.mark.fault("hostile", "paths that lead out: `..`, absolute, links, NUL")
@pytest.mark.parametrize("case", LINKS)
def test_links_that_lead_out_stop_the_stage(tmp_path: Path, case: str) -> None:
    stage = tmp_path / "runs" / "s"
    with stage_run(stage, INPUTS, RECIPE):
        pass
    out = outside_of(stage)
    for lock in stage.parent.glob(".s.lock*"):
        lock.unlink()
    LINKS[case](stage, out)
    with pytest.raises(UserError, match="is a link"):
        finish(stage, a="1")
    assert [p.name for p in out.iterdir() if p.name != "stage"] == ["thesis.tex"]
    assert (out / "thesis.tex").read_text() == "ten years"


@pytest.mark.parametrize("case", REPLACED)
def test_links_to_files_are_replaced_not_followed(tmp_path: Path, case: str) -> None:
    stage = tmp_path / "runs" / "s"
    finish(stage, a="1")
    out = outside_of(stage)
    link = stage / REPLACED[case]
    link.unlink(missing_ok=True)
    link.symlink_to(out / "thesis.tex")
    finish(stage, b="2")
    assert (out / "thesis.tex").read_text() == "ten years"
    assert (stage / "images/b").read_text() == "2" and not (stage / "images/b").is_symlink()


def test_a_note_that_is_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".s.lock.json")
    with folder_lock(tmp_path / "s"):
        assert json.loads((tmp_path / ".s.lock.json").read_text())["pid"] == os.getpid()


def test_sheets_stay_in_the_workspace(ctx: Context) -> None:
    (ctx.workspace / "previews").symlink_to(ctx.base)
    with pytest.raises(UserError, match="leaves it through a link"):
        preview._place(ctx, "preview-8.png")


RECORDS: dict[str, Any] = {
    "a-list": [],
    "a-text": "done",
    "inputs-a-list": {"status": "done", "inputs": [], "outputs": {}},
    "parameters-a-list": {"inputs": {"parameters": [1], "files": {}, "key": ""}, "outputs": {}},
    "files-a-text": {"inputs": {"parameters": {}, "files": "x", "key": ""}, "outputs": {}},
    "key-a-list": {"inputs": {"parameters": {}, "files": {}, "key": []}, "outputs": {}},
    "outputs-a-list": {"inputs": {"parameters": {}, "files": {}, "key": ""}, "outputs": ["../x"]},
    "digests-numbers": {"inputs": {"parameters": {}, "files": {}, "key": ""}, "outputs": {"a": 1}},
    "seconds-a-text": {
        "inputs": {"parameters": {}, "files": {}, "key": ""},
        "outputs": {},
        "output_seconds": "x",
        "argv": {"a": [1]},
        "libraries": 7,
        "counts": [],
        "status": "done",
    },
    "nested": None,
}


@pytest.mark.fault(
    "hostile",
    "records and results of a stranger",
    "replaced or refused; nothing outside is removed",
)
@pytest.mark.parametrize("stage", ["contours", "synthesize/higfa", "train-downstream"])
@pytest.mark.parametrize("case", RECORDS)
def test_hostile_records_are_replaced_or_refused(ctx: Context, case: str, stage: str) -> None:
    text = json.dumps(RECORDS[case]) if RECORDS[case] is not None else "[" * 100_000
    write_text(ctx.stage_dir(stage) / "run.json", text)
    known = stage_state(ctx.stage_dir(stage), INPUTS)
    assert known.kind in ("partial", "stale")
    for command in ("status", "contours"):
        code, printed = higfa(command, ctx.base / "recipe.yaml", "--workspace", ctx.workspace)
        assert code == 0, printed
        assert_inert(printed)
    if case != "nested":
        assert estimate.seconds_per_picture(ctx.arm("higfa")) is None
    write_json(ctx.ws.downstream.results, {"arms": [{"name": "real", "runs": []}]})
    with pytest.raises(UserError):
        report.run(ctx)


RESULTS: dict[str, Any] = {
    "a-list": [],
    "no-arms": {"arms": []},
    "arms-a-text": {"arms": "real", "counts": {"test": 1}},
    "seed-a-path": {
        "arms": [{"name": "real", "synthetic_images": 0, "runs": [{"seed": "0/../../../x"}]}],
        "counts": {"test": 1},
    },
    "name-a-list": {"arms": [{"name": ["x"], "synthetic_images": 0, "runs": []}], "counts": {}},
    "name-half-a-pair": {
        "arms": [{"name": "\ud800", "synthetic_images": 0, "runs": [{"seed": 0}]}],
        "counts": {"test": 1},
    },
}


@pytest.mark.fault("hostile", "records and results of a stranger")
@pytest.mark.parametrize("case", RESULTS)
def test_hostile_results_are_one_line(ctx: Context, case: str) -> None:
    path = ctx.ws.downstream.results
    write_text(path, json.dumps(RESULTS[case]))
    for arguments in (["report"], ["predict", str(ctx.workspace / "secret.png")]):
        command, *photos = arguments
        recipe = ctx.base / "recipe.yaml"
        code, printed = higfa(command, recipe, *photos, "--workspace", ctx.workspace)
        assert (code, printed.count(b"\n")) == (1, 1), printed
        assert_inert(printed)
    assert not (ctx.workspace / "report" / "report.html").exists()


@pytest.mark.parametrize("kind", ["plain", "torch"])
def test_checkpoints_of_a_training_are_not_run(tmp_path: Path, kind: str) -> None:
    canary = Canary(tmp_path)
    (tmp_path / "state.pt").write_bytes(canary.pickled(kind))
    with pytest.raises(UserError, match=r"state\.pt is broken"):
        load_checkpoint(tmp_path / "state.pt")
    assert not canary.dead
