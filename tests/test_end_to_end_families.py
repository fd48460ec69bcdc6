"""Every family through every stage, as a user runs them, on tiny models of the real classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from higfa_cli.artifacts.atomic import read_jsonl
from higfa_cli.artifacts.plan import in_batches
from higfa_cli.method import schedule
from higfa_cli.recipe.load import load_recipe
from higfa_cli.recipe.strict_yaml import dump_yaml
from higfa_cli.stages.context import Context, make_context
from higfa_cli.stages.drawing import Models, batch_size, costliest_step, draw_items
from higfa_cli.stages.plan import plan
from tests.support import tiny
from tests.support.photo_project import CLASSES, higfa, write_photos
from tests.support.recipes import drawing_keys, write_recipe

#: Family, prediction type, and recipe keys that only this one sets: each is driven once.
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sd-v": ("sd", "v_prediction", {"scheduler": "euler", "batch_size": "auto"}),
    "sdxl": (
        "sdxl",
        "epsilon",
        {"scheduler": "dpm++2m", "dtype": "bfloat16", "prompts": {"bank": "mine.yaml"}},
    ),
    "sdxl-tiny": (
        "sdxl",
        "v_prediction",
        {
            "gradient_autoencoder": "model/tiny-vae",
            "conditioning_interval": [0.0, 0.75],
            "memory": {"gradient_checkpointing": True, "slicing": True, "channels_last": True},
            "prompts": {"bank": "birds"},
        },
    ),
    "sd3": ("sd3", "flow", {"scheduler": "flow-euler", "batch_size": "auto"}),
    "pocket-like": ("pocket-like", "epsilon", {"classifier": {"switch": 0.5, "gradient": "x_t"}}),
}


@pytest.fixture(scope="module", params=list(RUNS))
def recipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, prediction_type, changes = RUNS[request.param]
    root = tmp_path_factory.mktemp("project")
    tiny.make_model(root / "model", prediction_type, family)
    tiny.make_tiny_autoencoder(root / "model")
    write_photos(root / "photos", 3, 2, 2)
    bank = {"templates": ["a {words} on sand", "a {words} at night"], "negative": "blur"}
    (root / "mine.yaml").write_text(dump_yaml(bank), encoding="utf-8")
    drawing = {"steps": 4, "batch_size": 4, "gallery": 1, "classifier": {"switch": 0.5}}
    training = {"epochs": 1, "batch_size": 8}
    path = write_recipe(
        root / "recipe.yaml",
        ("model/sd", "model/controlnet"),
        name=request.param,
        guide=training,
        downstream=training | {"seeds": [0]},
        **drawing_keys(**drawing | changes),
    )
    higfa("run", str(path), "--workspace", str(root / "out"), "--quiet")
    return path


def context(recipe: Path) -> Context:
    return make_context(load_recipe(str(recipe), ()), recipe.parent / "out")


def test_every_stage_is_done_and_every_picture_there(recipe: Path) -> None:
    out = recipe.parent / "out"
    for stage in ("contours", "synthesize/higfa", "synthesize/gallery", "filter/higfa", "report"):
        assert json.loads((out / stage / "run.json").read_text())["status"] == "done"
    rows = read_jsonl(out / "synthesize" / "higfa" / "images" / "metadata.jsonl")
    assert len(rows) == 9
    assert all(row["status"] == "ok" and 0 <= row["confidence"] <= 1 for row in rows)
    assert (out / "report" / "report.html").is_file()


def test_plan_holds_the_settled_batch_size(recipe: Path) -> None:
    out = recipe.parent / "out" / "synthesize" / "higfa"
    settled = json.loads((out / "plan.json").read_text())
    asked = context(recipe).recipe.run.batch_size
    assert settled["probed"] == (asked == "auto")
    assert settled["batch_size"] == (32 if asked == "auto" else asked)
    rows = read_jsonl(out / "plan.jsonl")
    assert [row["batch"] for row in rows] == [i // settled["batch_size"] for i in range(9)]
    drawn = read_jsonl(out / "images" / "metadata.jsonl")
    sizes = [row["effective_batch"] for row in drawn]
    assert sizes == [9] * 9 if asked == "auto" else sizes == [4] * 8 + [1]


def test_prompts_come_from_the_bank(recipe: Path) -> None:
    settings = context(recipe).recipe
    rows = read_jsonl(recipe.parent / "out" / "synthesize" / "higfa" / "plan.jsonl")
    prompts = {row["prompt"] for row in rows}
    if settings.prompts.bank == "mine.yaml":
        assert prompts <= {f"a {c} {p}" for c in CLASSES for p in ("on sand", "at night")}
        assert {row["negative"] for row in rows} == {"blur"}
    elif settings.prompts.bank == "birds":
        assert len(prompts) == 9 and all("bird" in prompt for prompt in prompts)
    else:
        assert prompts == {f"a photo of a {c}" for c in CLASSES}


def test_out_of_memory_halves_the_batch_and_is_recorded(recipe: Path) -> None:
    """The real UNet refuses more than two pictures at a time: same pictures, smaller parts."""
    ctx = context(recipe)
    items = in_batches(plan(ctx), 4)[:4]
    model, guide = Models([(ctx.arm("higfa"), items)]).of(ctx.arm("higfa"))
    guidance = ctx.recipe.guidance
    whole = draw_items(ctx, model, guide, guidance, items)
    assert [one.effective_batch for one in whole] == [4] * 4

    most = 2 * len(schedule.branches(guidance, True))

    def room_for_two(_module: Any, arguments: Any) -> None:
        if len(arguments[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model.network.register_forward_pre_hook(room_for_two)
    parts = draw_items(ctx, model, guide, guidance, items)
    assert [one.effective_batch for one in parts] == [2] * 4
    for a, b in zip(whole, parts, strict=True):
        assert a.pixels is not None and b.pixels is not None
        assert np.abs(a.pixels.astype(int) - b.pixels.astype(int)).mean() < 2

    model.network.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    ))  # fmt: skip
    failed = draw_items(ctx, model, guide, guidance, items[:2])
    assert [(one.pixels, one.error) for one in failed] == [(None, "out of memory")] * 2


def test_the_costliest_step_is_one_guided_step(recipe: Path) -> None:
    ctx = context(recipe)
    items = plan(ctx)
    model, guide = Models([(ctx.arm("higfa"), items)]).of(ctx.arm("higfa"))
    assert guide is not None
    seen: list[tuple[str, int]] = []
    model.network.register_forward_pre_hook(lambda _m, a: seen.append(("unet", len(a[0]))))
    guide.network.register_forward_pre_hook(lambda _m, a: seen.append(("guide", len(a[0]))))
    costliest_step(ctx, model, guide, items[0])(3)
    assert ("guide", 3) in seen
    # A flow takes two: its first step, from pure noise, is not guided.
    steps = 2 if model.solver(1).levels[0].alpha == 0 else 1
    assert sum(size for name, size in seen if name == "unet") == steps * 3 * 3
    asked = ctx.recipe.run.batch_size
    size = batch_size(ctx, model, costliest_step(ctx, model, guide, items[0]))
    assert size == (32 if asked == "auto" else asked)


def test_sweep_over_a_model_key_and_over_prompts(recipe: Path) -> None:
    out = str(recipe.parent / "out")
    flags = (str(recipe), "--workspace", out, "--json", "--quiet")
    values = "prompts.negative=blur,ugly"
    result = json.loads(higfa("synthesize", *flags, "--sweep", values).stdout)
    assert [row["value"] for row in result["rows"]] == ["blur", "ugly"]
    strip = np.asarray(Image.open(result["sheet"]))
    blur, ugly = (strip[k * 142 : k * 142 + 128, 128:] for k in (1, 2))
    assert (blur != ugly).any()
    values = "model.dtype=float32,bfloat16"
    rows = json.loads(higfa("synthesize", *flags, "--sweep", values).stdout)["rows"]
    assert [row["failed"] for row in rows] == [0, 0]
