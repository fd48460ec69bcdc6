"""The ablation, the bars and the checkpoints, on a laboratory in small."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from higfa_cli.artifacts.atomic import read_json, write_json
from higfa_cli.errors import UserError
from higfa_cli.recipe.arms import HIGFA
from higfa_cli.recipe.load import load_recipe, override_recipe
from tests.support.lab_project import write_judges, write_lab
from tools.pocket.lab import axes, bars, checkpoints
from tools.pocket.lab.ablation import ablate
from tools.pocket.lab.axes import SWEEPS, axes_around
from tools.pocket.lab.bars import compare
from tools.pocket.lab.options import RECIPE, Options
from tools.pocket.lab.thresholds import verdicts


def tiny_features(pictures: Tensor) -> Tensor:
    """Colours of 4 x 4 cells, of unit length."""
    cells = torch.nn.functional.adaptive_avg_pool2d(pictures.float(), 4).flatten(1)
    return torch.nn.functional.normalize(cells - cells.mean(dim=1, keepdim=True), dim=1)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    folder = tmp_path_factory.mktemp("lab")
    recipe = write_lab(folder)
    return Options(
        recipe=str(recipe),
        judges=write_judges(folder / "judges"),
        workspace=folder / "workspace",
        out=folder / "out",
        per_class=2,
        workers=1,
    )


def test_every_axis_holds_the_recipe_once() -> None:
    recipe = load_recipe(str(RECIPE)).recipe
    for axis in axes_around(recipe):
        same = [override_recipe(recipe, value.changes) == recipe for value in axis.values]
        assert [value.arm == HIGFA for value in axis.values] == same
        assert sum(same) == 1, axis.name
        assert len({value.label for value in axis.values}) == len(axis.values)


def test_every_value_is_an_arm_of_its_own() -> None:
    recipe = load_recipe(str(RECIPE)).recipe
    values = [value for axis in axes_around(recipe) for value in axis.values]
    arms = {value.arm: value.changes for value in values}
    assert len(arms) == len({(value.arm, str(value.changes)) for value in values})
    assert override_recipe(recipe, {"arms": arms}).arms.keys() == arms.keys()
    points = [bars.guided(recipe), *bars.swept(recipe).values()]
    named = [(name, changes) for curve in points for _, name, changes in curve]
    assert override_recipe(recipe, {"arms": dict(named)}).arms == dict(named)
    assert all(dict(named)[name] == changes for name, changes in named)


def test_the_recipes_own_value_is_added_to_an_axis() -> None:
    recipe = override_recipe(load_recipe(str(RECIPE)).recipe, {"guidance.text.scale": 3.5})
    around = {axis.name: axis for axis in axes_around(recipe)}
    labels = [value.label for value in around["text-scale"].values]
    assert labels == ["3", "3.5", "6", "10", "14"]


def test_one_strength_alone_follows_the_confidence() -> None:
    recipe = load_recipe(str(RECIPE)).recipe
    around = {axis.name: axis for axis in axes_around(recipe)}
    alone = {value.label: value for value in around["modulation-text"].values}
    for label in ("rising", "falling"):
        own = override_recipe(recipe, alone[label].changes).guidance
        assert own.classifier.modulation == label
        assert own.contour.floor == own.contour.scale
        assert own.text.floor == recipe.guidance.text.floor


def test_an_ablation_writes_its_table_and_resumes(options: Options) -> None:
    ablate(options, ["gamma"], tiny_features)
    drawn = {
        file: file.stat().st_mtime_ns for file in options.workspace.glob("synthesize/*/run.json")
    }
    # The pairs of gamma and S_K, and the recipe itself.
    assert len(drawn) == 13
    results = ablate(options, ["conditions"], tiny_features)
    assert set(results["parts"]) == {"gamma", "conditions"}
    assert read_json(options.data("ablation")) == results
    assert all(file.stat().st_mtime_ns == time for file, time in drawn.items())
    rows = results["parts"]["gamma"]["rows"]
    assert [row["value"] for row in rows[:2]] == ["gamma 0, S_K 0.25", "gamma 0, S_K 0.5"]
    assert [row["is_recipe"] for row in rows] == [False] * 12 + [True]
    assert rows[12]["against_recipe"] is None
    assert rows[0]["pictures"] == 4
    text = (options.out / "ablation.md").read_text(encoding="utf-8")
    assert "| **recipe** |" in text
    assert text.index("| conditions |") < text.index("| gamma |")
    assert (options.out / "pictures" / "ablation-conditions.png").is_file()
    with Image.open(options.workspace / "strips" / "ablation-gamma.png") as sheet:
        # Contours, photos and thirteen values of four pictures.
        assert sheet.height == 12 + 15 * 34


def test_another_number_of_pictures_begins_a_new_table(options: Options) -> None:
    ablate(options, ["read"], tiny_features)
    results = ablate(replace(options, per_class=3), ["confidence"], tiny_features)
    assert set(results["parts"]) == {"confidence"}


def test_a_value_of_tau_has_a_guide_of_its_own(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"tau": ((0.0,),), "together": ((0.0, 1.0, 2.0), (0.5, 1.0, 2.0), (0.5, 2.0, 5.0))}
    few = {name: replace(SWEEPS[name], points=points[name]) for name in points}
    monkeypatch.setattr(axes, "SWEEPS", SWEEPS | few)
    parts = ablate(options, ["together", "tau"], tiny_features)["parts"]
    assert [row["value"] for row in parts["tau"]["rows"]] == ["0", "0.5"]
    guides = options.workspace / "guides"
    assert [path.name for path in guides.iterdir() if path.name.startswith("tau")] == ["tau-0"]
    calibration = read_json(guides / "tau-0" / "finetune-guide" / "calibration.json")
    assert len(calibration["levels"]) == 3
    together = parts["together"]["rows"]
    assert [row["value"] for row in together[:2]] == [
        "tau 0, S_C 1, S_K 2",
        "tau 0.5, S_C 1, S_K 2",
    ]
    assert [row["is_recipe"] for row in together] == [False, False, False, True]


def test_judges_are_checked_before_any_long_work(options: Options, tmp_path: Path) -> None:
    other = write_judges(tmp_path / "other", classes=("blue disc", "green disc"))
    elsewhere = replace(options, judges=other, workspace=tmp_path / "workspace")
    with pytest.raises(UserError, match="green disc"):
        ablate(elsewhere, ["gamma"], tiny_features)
    with pytest.raises(UserError, match="no judge"):
        ablate(replace(elsewhere, judges=tmp_path), ["gamma"], tiny_features)
    broken = write_judges(tmp_path / "broken") / "resnet10t.safetensors"
    broken.write_bytes(b"nothing")
    with pytest.raises(UserError, match="no judge's file"):
        ablate(replace(elsewhere, judges=broken.parent), ["gamma"], tiny_features)
    assert not elsewhere.workspace.exists()


def test_an_unknown_axis_is_refused(options: Options) -> None:
    with pytest.raises(UserError, match="no such axis"):
        ablate(options, ["size"], tiny_features)


def test_the_method_is_held_against_its_bars(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bars, "HIGFA_MULTIPLES", (1.0,))
    monkeypatch.setattr(bars, "FIXED_MULTIPLES", (1.0,))
    monkeypatch.setattr(bars, "FIXED_OF_NORM", {"none": (1.0,), "rms": (0.5,)})
    monkeypatch.setattr(bars, "GUIDE_MULTIPLES", (0.5, 1.0))
    monkeypatch.setattr(bars, "TRAININGS", 2)
    first = compare(options, ["gain"], tiny_features)
    results = compare(options, [name for name in bars.PARTS if name != "gain"], tiny_features)
    assert results["parts"]["gain"] == first["parts"]["gain"]
    assert read_json(options.data("bars")) == results
    arms = first["parts"]["gain"]["arms"]
    difference = arms["HiGFA"]["agreement"][0] - arms["text + contour"]["agreement"][0]
    assert first["parts"]["gain"]["difference"][0] == pytest.approx(difference)
    ece = read_json(options.workspace / "finetune-guide" / "calibration.json")["overall"]
    told = {row.figure: row for row in verdicts(results["parts"])}
    calibrated = next(row for figure, row in told.items() if figure.startswith("ECE"))
    assert f"{ece['ece_after']:.3f}" in calibrated.measured
    sweep = results["parts"]["sweep"]["curves"]
    # The recipe's own norm: multiples of its S_K; the other's scales are as they stand.
    assert [row["scale"] for row in sweep["fixed strength, grad_norm rms"]] == [0.0, 5.0]
    assert [row["scale"] for row in sweep["fixed strength, grad_norm none"]] == [0.0, 1.0]
    assert len(results["parts"]["worst"]["worst"]) == 4
    clean = options.workspace / "guides" / "clean" / "finetune-guide" / "history.jsonl"
    assert clean.is_file()
    along = results["parts"]["guide"]["guides"]
    assert [row["scale"] for row in along] == [2.5, 5.0]
    assert along[1]["noised"] == arms["HiGFA"]
    again = results["parts"]["trainings"]
    assert [row["seed"] for row in again["trainings"]] == [0, 1]
    assert again["trainings"][0]["clean"] == along[1]["clean"]
    assert (clean.parents[2] / "noised-seed-1" / "finetune-guide" / "history.jsonl").is_file()
    for row in [*along, *again["trainings"]]:
        means = [row[name]["agreement"][0] for name in ("noised", "clean")]
        assert row["difference"][0] == pytest.approx(means[0] - means[1], abs=1e-3)
    mean = sum(row["difference"][0] for row in again["trainings"]) / 2
    assert again["difference"][0] == pytest.approx(mean, abs=1e-3)
    text = (options.out / "bars.md").read_text(encoding="utf-8")
    words = ("reached", "MISSED", "no evidence", "not comparable")
    assert sum(text.count(f"| {word} |") for word in words) == len(told) == 6
    assert (options.out / "pictures" / "worst.png").is_file()


def test_checkpoints_are_compared_on_the_same_noise(options: Options, tmp_path: Path) -> None:
    model = Path(load_recipe(options.recipe).recipe.model.base)
    packages = []
    for name, step in (("old", 10), ("new", 2000)):
        package = tmp_path / name / "weights"
        shutil.copytree(model, package / "sd")
        shutil.copytree(model.parent / "controlnet", package / "controlnet")
        write_json(package.parent / "training.json", {"denoiser": {"step": step}})
        packages.append(str(package))
    elsewhere = replace(options, workspace=tmp_path / "workspace")
    results = checkpoints.compare(elsewhere, packages, tiny_features)
    first, second = results["rows"]
    # The same weights under two names draw the same pictures.
    assert [one["agreement"] for one in first["arms"]] == [o["agreement"] for o in second["arms"]]
    assert first["against_first"] == [None, None] and second["against_first"][0] == [0, 0, 0]
    assert not (tmp_path / "workspace" / "finetune-guide").exists()
    text = (options.out / "checkpoints.md").read_text(encoding="utf-8")
    assert "| 2,000 | text + contour |" in text and "| 10 | text only |" in text
    with pytest.raises(UserError, match="at least two"):
        checkpoints.compare(elsewhere, packages[:1], tiny_features)
    shutil.rmtree(Path(packages[1]) / "controlnet")
    with pytest.raises(UserError, match="no folder `controlnet`"):
        checkpoints.compare(elsewhere, packages, tiny_features)
    (Path(packages[0]).parent / "training.json").unlink()
    with pytest.raises(UserError, match=r"training\.json is missing"):
        checkpoints.compare(elsewhere, packages, tiny_features)


def test_an_unknown_part_is_refused(options: Options) -> None:
    with pytest.raises(UserError, match="no such part; choose from gain"):
        compare(options, ["size"], tiny_features)
