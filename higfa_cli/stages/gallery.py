"""Pictures of the same seeds without contour, without guide, and with everything: side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from higfa_cli.artifacts.artifact import write_rows
from higfa_cli.artifacts.atomic import write_bytes
from higfa_cli.artifacts.rows import GalleryRow, PlanItem
from higfa_cli.artifacts.run_record import StageRun
from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.data.images import encode_png, fit_square, read_image
from higfa_cli.method.guidance import ContourStrength, Guidance
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.stages.context import Context
from higfa_cli.stages.drawing import contour_path, draw_items
from higfa_cli.stages.photos import load_photos


def text_only(guidance: Guidance) -> Guidance:
    """Plain text guidance at S_T, without contour or guide."""
    without = replace(guidance, composition="three_term", contour=ContourStrength(0.0, 0.0))
    return without.switched(1.0)


def text_contour(guidance: Guidance) -> Guidance:
    """Text and contour at S_T and S_C over the whole run, without the guide."""
    return guidance.switched(1.0)


def choose(items: Sequence[PlanItem], count: int, seed: int) -> list[PlanItem]:
    """`count` items spread over the classes: every class once before any class twice."""
    ranked: dict[str, list[PlanItem]] = {}
    for item in sorted(items, key=lambda item: seed_for(seed, "gallery", item.id)):
        ranked.setdefault(item.cls, []).append(item)
    rounds = max((len(group) for group in ranked.values()), default=0)
    order = [group[i] for i in range(rounds) for group in ranked.values() if i < len(group)]
    return order[:count]


def write_gallery(
    ctx: Context, record: StageRun, model: DiffusionModel, items: Sequence[PlanItem]
) -> None:
    """Draw and register the gallery; pictures that failed in any arm are left out of it."""
    files = ctx.ws.synthesize
    finished = [item for item in items if (files.images / item.file_name).is_file()]
    chosen = choose(finished, ctx.recipe.pictures.gallery, ctx.recipe.seed)
    if not chosen:
        return
    guidance = ctx.recipe.guidance
    arms = {
        "text": draw_items(ctx, model, None, text_only(guidance), chosen),
        "text_contour": draw_items(ctx, model, None, text_contour(guidance), chosen),
    }
    photos = {sample.key: sample for sample in load_photos(ctx).samples}
    rows = []
    for index, item in enumerate(chosen):
        drawn = {name: pictures[index].pixels for name, pictures in arms.items()}
        pictures = {name: pixels for name, pixels in drawn.items() if pixels is not None}
        if len(pictures) < len(arms):
            continue
        pictures["source"] = fit_square(photos[item.source].read(), model.size)
        pictures["contour"] = read_image(contour_path(ctx, item))
        ways = {"higfa": files.name(files.images / item.file_name)}
        for way, pixels in pictures.items():
            path = files.gallery_image(item.id, way)
            write_bytes(path, encode_png(pixels))
            record.output(path)
            ways[way] = files.name(path)
        rows.append(GalleryRow(id=item.id, cls=item.cls, seed=item.seed, **ways))
    write_rows(files.gallery, rows)
    record.output(files.gallery)
