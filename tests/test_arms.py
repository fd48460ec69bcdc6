"""Arms: what a recipe may say of them, and what each is drawn, filtered and trained as."""

from __future__ import annotations

from pathlib import Path

import pytest

from higfa_cli.errors import RecipeError
from higfa_cli.recipe.load import load_recipe
from higfa_cli.recipe.schema import Recipe

MINIMAL = """\
name: mine
data: {root: photos}
model: {base: m, controlnet: c}
"""


def load(folder: Path, arms: str = "", *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(MINIMAL + arms, encoding="utf-8")
    return load_recipe(str(path), overrides).recipe


def test_the_default_comparison_has_the_control(tmp_path: Path) -> None:
    recipe = load(tmp_path, "", "guidance.classifier.switch_sigma=0.4")
    assert list(recipe.arms) == ["text+contour", "higfa"]
    assert not recipe.arm("text+contour").guidance.consulted
    assert recipe.arm("higfa").guidance == recipe.guidance
    assert recipe.arm("text+contour").guidance.contour == recipe.guidance.contour


def test_an_arm_changes_its_keys_alone_and_is_a_whole_recipe(tmp_path: Path) -> None:
    recipe = load(tmp_path, "arms: {weak: {guidance.text.scale: 2, sampling.steps: 7}}")
    arm = recipe.arm("weak")
    assert (arm.guidance.text.scale, arm.sampling.steps) == (2, 7)
    assert arm.arms == {"weak": {}}
    assert arm.arm("weak") == arm
    restored = {"guidance": recipe.guidance, "sampling": recipe.sampling, "arms": recipe.arms}
    assert arm.model_copy(update=restored) == recipe


def test_the_gallery_is_of_plain_text_and_no_arm(tmp_path: Path) -> None:
    gallery = load(tmp_path).arm("gallery")
    assert not gallery.guidance.consulted
    assert gallery.guidance.contour.scale == gallery.guidance.contour.floor == 0
    assert list(load(tmp_path, "", "pictures.gallery=0").drawn) == ["text+contour", "higfa"]


@pytest.mark.parametrize(
    ("arms", "part"),
    [
        ("{real: {}}", "arm `real`: `real` has a meaning of its own"),
        ("{gallery: {}}", "arm `gallery`: `gallery` has a meaning of its own"),
        ("{../x: {}}", "arm `../x`: a name is of a-z"),
        ("{Higfa: {}}", "arm `Higfa`: a name is of a-z"),
        ("{}", "`arms`: "),
        ("{b: 3}", "`arms.b`: "),
        ("{b: {model.base: x}}", "arm `b`: `model.base` is the same in all arms; an arm changes"),
        ("{b: {pictures.per_contour: 2}}", "arm `b`: `pictures.per_contour` is the same"),
        ("{b: {guidance.text.scal: 2}}", "arm `b`: unknown key `guidance.text.scal`; did you mean"),
        ("{b: {synthesize.steps: 2}}", "arm `b`: `synthesize.steps` is now `sampling.steps`"),
        ("{b: {sampling: {steps: 2}}}", "arm `b`: `sampling` is a section; set one of its keys"),
        ("{b: {sampling.steps: 0}}", "arm `b`: `sampling.steps`: input should be greater"),
        ("{b: {sampling.steps: '2'}}", "arm `b`: `sampling.steps`: "),
    ],
)
def test_what_an_arm_cannot_be_is_said_in_one_line(tmp_path: Path, arms: str, part: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, f"arms: {arms}\n")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
