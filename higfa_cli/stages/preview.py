"""Looking before the long run: a contact sheet, and a strip of the same seeds over values."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from higfa_cli.artifacts.artifact import write_model
from higfa_cli.artifacts.atomic import write_bytes, write_json
from higfa_cli.artifacts.fingerprint import hash_bytes, hash_file
from higfa_cli.artifacts.plan import sample
from higfa_cli.artifacts.records import Pace
from higfa_cli.artifacts.rows import PlanItem
from higfa_cli.artifacts.safe_paths import contained
from higfa_cli.data.images import encode_png, read_image
from higfa_cli.data.sheet import sheet, tile
from higfa_cli.errors import UserError
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.draw import Drawn
from higfa_cli.recipe.load import override_recipe
from higfa_cli.stages.context import ArmContext, Context
from higfa_cli.stages.drawing import Models, batch_size, contour_path, costliest_step, draw_items
from higfa_cli.stages.inputs import synthesize_inputs
from higfa_cli.stages.pipeline import check_upstream
from higfa_cli.stages.plan import plan

# Sections of which a value changes the pictures, but not which they are.
SWEPT = ("model", "guidance", "sampling", "prompts")
STRIP = 8


def preview(ctx: Context, count: int, arms: Sequence[str]) -> dict[str, object]:
    """Draw `count` pictures of each arm's plan, spread over the classes, as one contact sheet.

    They are the very pictures that the full run would draw, up to rounding from other batches.
    """
    check_upstream(ctx, "synthesize", arms=arms)
    contexts = [ctx.arm(name) for name in arms]
    plans = [(arm, sample(plan(arm), count, ctx.recipe.seed)) for arm in contexts]
    models = Models(plans)
    rows, summaries = [], {}
    for arm, items in plans:
        drawn = _previewed(arm, models, items)
        tiles = [
            tile(_label(item.cls, picture), picture.pixels)
            for item, picture in zip(items, drawn, strict=True)
        ]
        for start in range(0, len(tiles), STRIP):
            caption = tile(arm.name if start == 0 else "")
            rows.append([caption, *tiles[start : start + STRIP]])
        summaries[arm.name] = {"images": len(items), **_summary(drawn)}
    path = _place(ctx, f"preview-{count}.png")
    write_sheet(path, rows)
    return {"sheet": str(path), "arms": summaries}


def _previewed(ctx: ArmContext, models: Models, items: Sequence[PlanItem]) -> list[Drawn]:
    model, guide = models.of(ctx)
    size = batch_size(ctx, model, costliest_step(ctx, model, guide, items[0]))
    groups = [items[start : start + size] for start in range(0, len(items), size)]
    started = time.perf_counter()
    drawn = [
        picture
        for group in ctx.progress.track(groups, f"preview {ctx.name}")
        for picture in draw_items(ctx, model, guide, ctx.recipe.guidance, group)
    ]
    _keep_pace(ctx, model, (time.perf_counter() - started) / len(items))
    return drawn


def sweep(ctx: Context, key: str, values: Sequence[Any], arms: Sequence[str]) -> dict[str, object]:
    """Draw the same few seeds of one arm for every value of one key: one row per value.

    Raises:
        UserError: a key that changes no picture, or a value that the recipe refuses.
    """
    if key.split(".")[0] not in SWEPT:
        raise UserError(
            f"--sweep {key}: only keys of {', '.join(f'`{name}`' for name in SWEPT)} can be swept; "
            "try guidance.classifier.scale=0,1,2",
            exit_code=2,
        )
    if len(arms) > 1:
        raise UserError("--sweep draws one arm; give --arm once", exit_code=2)
    check_upstream(ctx, "synthesize", arms=arms)
    arm = ctx.arm(arms[0])
    chosen = sample(plan(arm), STRIP, ctx.recipe.seed)
    contours = [tile(item.cls, read_image(contour_path(ctx, item))) for item in chosen]
    rows, table = [[tile("contour"), *contours]], []
    for value, drawn in _swept(arm, key, values, chosen):
        tiles = [tile("failed" if p.pixels is None else "", p.pixels) for p in drawn]
        rows.append([tile(f"{key.rsplit('.', 1)[-1]} = {value}"), *tiles])
        table.append({"value": value, **_summary(drawn)})
    path = _place(ctx, f"sweep-{key}.png")
    write_sheet(path, rows)
    write_json(path.with_suffix(".json"), {"arm": arm.name, "key": key, "rows": table})
    return {"sheet": str(path), "arm": arm.name, "key": key, "rows": table}


def _keep_pace(ctx: ArmContext, model: DiffusionModel, seconds: float) -> None:
    """For `doctor` and `--dry-run`, which then know the time."""
    parameters = synthesize_inputs(ctx).recorded.parameters
    pace = Pace(parameters=parameters, seconds=seconds, device=str(model.device))
    write_model(ctx.ws.preview_pace, pace)


def _swept(
    ctx: ArmContext, key: str, values: Sequence[Any], chosen: Sequence[PlanItem]
) -> Iterator[tuple[Any, list[Drawn]]]:
    """The chosen pictures under every value; the model is loaded once where the value allows."""
    variants = [replace(ctx, recipe=override_recipe(ctx.recipe, {key: value})) for value in values]
    plans = [(variant, _same_pictures(plan(variant), chosen)) for variant in variants]
    shared = None if key.startswith("model.") else Models(plans)
    jobs = list(zip(values, plans, strict=True))
    for value, (variant, items) in ctx.progress.track(jobs, f"sweep {key}"):
        model, guide = (shared or Models([(variant, items)])).of(variant)
        yield value, draw_items(variant, model, guide, variant.recipe.guidance, items)


def _place(ctx: Context, name: str) -> Path:
    """Where a sheet goes; UserError where a link would lead it out of the workspace."""
    path = ctx.ws.previews / name
    return contained(ctx.workspace, ctx.ws.name(path), ctx.workspace)


def write_sheet(path: Path, rows: Sequence[Sequence[Image.Image]]) -> None:
    """Write a sheet; another one of that name took minutes too, and stays under its fingerprint."""
    data = encode_png(sheet(rows))
    if path.is_file() and (before := hash_file(path)) != hash_bytes(data):
        for old in (path, path.with_suffix(".json")):
            if old.is_file():
                old.replace(old.with_stem(f"{old.stem}-{before[:8]}"))
    write_bytes(path, data)


def _same_pictures(items: Sequence[PlanItem], chosen: Sequence[PlanItem]) -> list[PlanItem]:
    """The chosen pictures as another plan has them: same seeds, perhaps other prompts."""
    by_id = {item.id: item for item in items}
    return [by_id[item.id] for item in chosen]


def _summary(drawn: Sequence[Drawn]) -> dict[str, object]:
    """Mean final confidence of the guide (None where it was off) and failures."""
    final = [p.trace["p"][-1] for p in drawn if p.error is None]
    guided = [value for value in final if value is not None]
    mean = round(sum(guided) / len(guided), 4) if guided else None
    return {"confidence": mean, "failed": sum(p.error is not None for p in drawn)}


def _label(cls: str, picture: Drawn) -> str:
    final = picture.trace["p"][-1] if picture.trace else None
    if picture.error is not None:
        return f"{cls} failed"
    return cls if final is None else f"{cls} p={final:.2f}"
