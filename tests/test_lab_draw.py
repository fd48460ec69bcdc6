"""The laboratory draws what higfa draws, pairs its arms, and resumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from higfa_cli.data.images import fit_square, read_image
from higfa_cli.errors import UserError
from higfa_cli.models.classifier import load_classifier
from higfa_cli.recipe.load import override_recipe
from higfa_cli.stages import synthesize
from higfa_cli.stages.plan import plan
from tests.support.lab_project import CLASSES, write_lab
from tools.pocket.lab import arms, draw
from tools.pocket.lab.arms import Arm
from tools.pocket.lab.draw import draw_arm
from tools.pocket.lab.samples import Samples, photos_of, prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def samples(folder: Path) -> Samples:
    return prepare(str(write_lab(folder)), folder / "workspace", "val", 2)


def test_every_class_has_as_many_pictures_and_the_first_are_of_different_classes(
    samples: Samples,
) -> None:
    assert samples.classes == CLASSES
    assert samples.labels.bincount().tolist() == [2, 2]
    assert {item.cls for item in samples.items[:2]} == set(CLASSES)
    assert all(item.source.startswith("val/") for item in samples.items)


def test_fewer_pictures_are_a_beginning_of_more(folder: Path, samples: Samples) -> None:
    more = prepare(str(folder / "recipe.yaml"), samples.ctx.workspace, "val", 3)
    assert more.items[:4] == samples.items


def test_more_pictures_than_photos_are_of_the_same_photos_warped_otherwise(
    folder: Path, tmp_path: Path
) -> None:
    many = prepare(str(folder / "recipe.yaml"), tmp_path, "val", 5, guide=False)
    assert many.labels.bincount().tolist() == [5, 5]
    assert len({item.source for item in many.items}) == 6
    assert len({item.contour_sha256 for item in many.items}) == 10


def test_pictures_are_those_that_higfa_synthesize_draws(samples: Samples, tmp_path: Path) -> None:
    drawings = draw_arm(samples, arms.HIGFA, tmp_path)
    # One batch, as the laboratory's.
    values = {"run.batch_size": 20, "pictures.gallery": 0}
    ctx = replace(samples.ctx, recipe=override_recipe(samples.ctx.recipe, values))
    synthesize.run(ctx, ["higfa"])
    for item, picture in zip(samples.items, drawings.pictures, strict=True):
        drawn = read_image(ctx.ws.arm("higfa").synthesize.directory / "images" / item.file_name)
        difference = np.abs(drawn.astype(int) - picture.permute(1, 2, 0).numpy().astype(int))
        # The whole plan is one larger batch, which rounds otherwise.
        assert difference.max() <= 1
    assert len(plan(ctx)) == 6


def test_arms_share_contours_and_differ_in_what_they_change(
    samples: Samples, tmp_path: Path
) -> None:
    text, both, higfa = (
        draw_arm(samples, arm, tmp_path) for arm in (arms.TEXT_ONLY, arms.TEXT_CONTOUR, arms.HIGFA)
    )
    assert torch.equal(text.contours, higfa.contours)
    assert not torch.equal(text.pictures, both.pictures)
    assert not torch.equal(both.pictures, higfa.pictures)
    assert all(value is None for trace in both.traces for value in trace["p"])
    assert all(value == 0 for trace in text.traces for value in trace["s_contour"])
    assert higfa.traces[0]["p"][0] is None
    assert higfa.traces[0]["p"][-1] is not None


def test_fixed_strength_and_first_step_are_what_their_names_say(
    samples: Samples, tmp_path: Path
) -> None:
    fixed = draw_arm(samples, arms.FIXED, tmp_path).traces[0]
    assert fixed["s_classifier"] == [0.0, 0.0, 5.0]
    assert fixed["s_text"] == [4.0, 4.0, 4.0]
    first = draw_arm(samples, arms.FIRST_STEP, tmp_path).traces[0]
    assert all(value is not None for value in first["p"])


def test_the_guide_reads_the_finished_picture(samples: Samples, tmp_path: Path) -> None:
    drawings = draw_arm(samples, arms.TEXT_CONTOUR, tmp_path)
    guide = load_classifier(samples.ctx.stage_dir("finetune-guide") / "guide.safetensors")
    p = guide.probabilities(drawings.pictures)
    wanted = [float(p[i, item.class_id]) for i, item in enumerate(samples.items)]
    assert drawings.guide_p.tolist() == pytest.approx(wanted)


def test_without_a_guide_there_is_no_confidence_and_no_guided_arm(
    folder: Path, tmp_path: Path
) -> None:
    bare = prepare(str(folder / "recipe.yaml"), tmp_path / "bare", "val", 1, guide=False)
    drawings = draw_arm(bare, arms.TEXT_CONTOUR, tmp_path)
    assert drawings.guide_p.isnan().all()
    with pytest.raises(UserError, match="guide=True"):
        draw_arm(bare, arms.HIGFA, tmp_path)


def test_a_second_call_draws_only_what_is_missing(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draw, "PART", 1)
    first = draw_arm(samples, arms.TEXT_CONTOUR, tmp_path)
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 2
    times = [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    again = draw_arm(samples, arms.TEXT_CONTOUR, tmp_path)
    assert files[0].stat().st_mtime_ns == times[0]
    assert files[1].stat().st_mtime_ns > times[1]
    assert torch.equal(first.pictures, again.pictures)
    assert first.traces == again.traces


def test_cached_by_what_matters(samples: Samples, tmp_path: Path) -> None:
    draw_arm(samples, arms.TEXT_CONTOUR, tmp_path)
    idle = {**arms.TEXT_CONTOUR.settings, "guidance.classifier.scale": 7.0}
    draw_arm(samples, Arm("the same by another name", idle), tmp_path)
    assert len(list(tmp_path.rglob("*.npz"))) == 1
    draw_arm(samples, Arm("other", {**idle, "guidance.text.scale": 2.0}), tmp_path)
    assert len(list(tmp_path.rglob("*.npz"))) == 2
    draw_arm(samples, arms.HIGFA, tmp_path)
    assert len(list(tmp_path.rglob("*.npz"))) == 3


def test_workers_draw_what_one_process_draws(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draw, "PART", 1)
    alone = draw_arm(samples, arms.TEXT_CONTOUR, tmp_path / "one")
    with draw.worker_pool(2) as workers:
        together = draw_arm(samples, arms.TEXT_CONTOUR, tmp_path / "two", workers)
    assert torch.equal(alone.pictures, together.pictures)


def test_the_size_of_a_batch_is_known(samples: Samples, tmp_path: Path) -> None:
    recipe = override_recipe(samples.ctx.recipe, {"run.batch_size": "auto"})
    auto = replace(samples, ctx=replace(samples.ctx, recipe=recipe))
    with pytest.raises(UserError, match="write a number"):
        draw_arm(auto, arms.HIGFA, tmp_path)


def test_an_arm_is_another_way_to_draw(samples: Samples, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no key of drawing"):
        draw_arm(samples, Arm("more", {"contours.per_image": 16}), tmp_path)


def test_another_guide(samples: Samples, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        draw_arm(samples, Arm("other", guide=tmp_path / "none.safetensors"), tmp_path)


def test_photos_are_those_of_the_items(samples: Samples, folder: Path) -> None:
    photos = photos_of(samples)
    source = folder / "photos" / samples.items[1].source
    assert np.array_equal(photos[1].permute(1, 2, 0).numpy(), fit_square(read_image(source), 32))
