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
from higfa_cli.recipe.arms import HIGFA, TEXT_CONTOUR
from higfa_cli.recipe.load import override_recipe
from higfa_cli.stages import synthesize
from higfa_cli.stages.plan import plan
from tests.support.lab_project import CLASSES, write_lab
from tools.pocket.lab.arms import FIRST_STEP, FIXED, TEXT
from tools.pocket.lab.draw import Pictures, draw, read_arm
from tools.pocket.lab.samples import Samples, prepare


def drawn(samples: Samples, arm: str, workers: int = 1) -> Pictures:
    """The arm's pictures."""
    draw(samples, [arm], workers)
    return read_arm(samples, arm)


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
    many = prepare(str(folder / "recipe.yaml"), tmp_path, "val", 5, guide=None)
    assert many.labels.bincount().tolist() == [5, 5]
    assert len({item.source for item in many.items}) == 6
    assert len({item.contour_sha256 for item in many.items}) == 10


def test_pictures_are_those_that_higfa_synthesize_draws(samples: Samples) -> None:
    drawings = drawn(samples, HIGFA)
    # One batch, and all pictures of the plan.
    values = {"run.batch_size": 20, "pictures.gallery": 0}
    recipe = override_recipe(samples.ctx.recipe, values)
    ctx = replace(samples.ctx, recipe=recipe, sample=None)
    synthesize.run(ctx, [HIGFA])
    files = ctx.ws.arm(HIGFA).synthesize
    for item, picture in zip(samples.items, drawings.pictures, strict=True):
        again = read_image(files.images / item.file_name)
        difference = np.abs(again.astype(int) - picture.permute(1, 2, 0).numpy().astype(int))
        # The whole plan is one larger batch, which rounds otherwise.
        assert difference.max() <= 1
    assert len(plan(ctx)) == 6
    # What the laboratory drew was set aside, and comes back.
    record = files.record.read_bytes()
    assert torch.equal(drawn(samples, HIGFA).pictures, drawings.pictures)
    assert files.record.read_bytes() != record and len(files.all_traces()) == 2


def test_arms_share_contours_and_differ_in_what_they_change(samples: Samples) -> None:
    text, both, higfa = (drawn(samples, arm) for arm in (TEXT, TEXT_CONTOUR, HIGFA))
    assert torch.equal(text.contours, higfa.contours)
    assert not torch.equal(text.pictures, both.pictures)
    assert not torch.equal(both.pictures, higfa.pictures)
    assert all(value is None for trace in both.traces for value in trace.p)
    assert all(value == 0 for trace in text.traces for value in trace.s_contour)
    assert higfa.traces[0].p[0] is None
    assert higfa.traces[0].p[-1] is not None


def test_fixed_strength_and_first_step_are_what_their_names_say(samples: Samples) -> None:
    fixed = drawn(samples, FIXED).traces[0]
    assert fixed.s_classifier == (0.0, 0.0, 5.0)
    assert fixed.s_text == (4.0, 4.0, 4.0)
    first = drawn(samples, FIRST_STEP).traces[0]
    assert all(value is not None for value in first.p)


def test_the_guide_reads_the_finished_picture(samples: Samples) -> None:
    drawings = drawn(samples, TEXT_CONTOUR)
    assert samples.guide is not None
    p = load_classifier(samples.guide).probabilities(drawings.pictures)
    wanted = [float(p[i, item.class_id]) for i, item in enumerate(samples.items)]
    assert drawings.guide_p.tolist() == pytest.approx(wanted)


def test_without_a_guide_there_is_no_confidence_and_no_guided_arm(
    folder: Path, tmp_path: Path
) -> None:
    bare = prepare(str(folder / "recipe.yaml"), tmp_path / "bare", "val", 1, guide=None)
    assert drawn(bare, TEXT_CONTOUR).guide_p.isnan().all()
    with pytest.raises(UserError, match="finetune-guide"):
        draw(bare, [HIGFA])


def test_a_second_call_draws_only_what_is_missing(samples: Samples) -> None:
    first = drawn(samples, TEXT_CONTOUR)
    files = samples.ctx.ws.arm(TEXT_CONTOUR).synthesize
    images = sorted(files.images.rglob("*.png"))
    assert len(images) == 4
    times = [file.stat().st_mtime_ns for file in images]
    images[1].unlink()
    again = drawn(samples, TEXT_CONTOUR)
    changed = [file.stat().st_mtime_ns != time for file, time in zip(images, times, strict=True)]
    # A batch of two.
    assert changed[1] and sum(changed) == 2
    assert torch.equal(first.pictures, again.pictures)
    assert first.traces == again.traces


def test_workers_draw_what_one_process_draws(folder: Path, samples: Samples) -> None:
    alone = drawn(samples, TEXT_CONTOUR)
    place = samples.ctx.workspace / "together"
    other = prepare(str(folder / "recipe.yaml"), place, "val", 2, guide=None)
    assert torch.equal(alone.pictures, drawn(other, TEXT_CONTOUR, workers=2).pictures)


def test_an_arm_is_another_way_to_draw(folder: Path, tmp_path: Path) -> None:
    arms = {"more": {"contours.per_image": 16}}
    with pytest.raises(UserError, match="the same in all arms"):
        prepare(str(folder / "recipe.yaml"), tmp_path, "val", 2, arms=arms)


def test_the_pictures_of_a_guide_trained_otherwise_are_of_the_same_noise(
    folder: Path, samples: Samples
) -> None:
    place = samples.ctx.workspace / "guides" / "other"
    other = prepare(str(folder / "recipe.yaml"), place, "val", 2, guide={"seed": 5})
    assert other.items == samples.items
    plain, guided = drawn(other, TEXT_CONTOUR), drawn(other, HIGFA)
    assert torch.equal(plain.pictures, drawn(samples, TEXT_CONTOUR).pictures)
    assert not torch.equal(guided.pictures, drawn(samples, HIGFA).pictures)


def test_photos_are_those_of_the_items(samples: Samples, folder: Path) -> None:
    photos = samples.photos()
    source = folder / "photos" / samples.items[1].source
    assert np.array_equal(photos[1].permute(1, 2, 0).numpy(), fit_square(read_image(source), 32))
