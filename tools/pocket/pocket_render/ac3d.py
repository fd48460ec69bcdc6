"""A reader of AC3D text meshes: the subset that aircraft models use."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

DEFAULT_CREASE_DEG = 61.0
# Lights and their flares are drawn as large glowing shapes by the simulator; ground equipment
# belongs to a parking stand; blurred propeller discs are opaque squares without their shader.
_LEFT_OUT = re.compile(
    r"light|flare|cone|beacon|becon|strobe|jetway|stair|truck|chock|gpu\b|prop_?blur|_blur|"
    r"-blur|gear_?closed",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Surface:
    """One polygon: vertex indices into its part, one (u, v) per corner, its material index."""

    vertices: tuple[int, ...]
    uvs: tuple[tuple[float, float], ...]
    material: int


@dataclass(frozen=True)
class Part:
    """One AC3D object of kind ``poly`` with its vertices in world coordinates [V, 3]."""

    name: str
    texture: str | None
    vertices: np.ndarray
    surfaces: tuple[Surface, ...]
    crease_deg: float


@dataclass(frozen=True)
class Mesh:
    """Material colours [M, 3] in 0..1 and the parts in file order."""

    materials: np.ndarray
    parts: tuple[Part, ...]


@dataclass
class _Frame:
    """What an OBJECT inherits from its parent: p_world = rotation @ p + offset."""

    offset: np.ndarray = field(default_factory=lambda: np.zeros(3))
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))


def is_aircraft_part(name: str) -> bool:
    """False for lights, flares, propeller blurs and ground equipment."""
    return _LEFT_OUT.search(name) is None


def is_gear_part(name: str) -> bool:
    """True for landing gear, which is drawn only when it is down."""
    return "gear" in name.lower()


def parse_ac3d(text: str) -> Mesh:
    """Read AC3D text. Raises ValueError when the text is not AC3D or ends early."""
    lines = iter([line.strip() for line in text.splitlines() if line.strip()])
    if not next(lines, "").startswith("AC3D"):
        raise ValueError("not an AC3D file: the first line must start with AC3D")
    materials: list[list[float]] = []
    parts: list[Part] = []
    for line in lines:
        if line.startswith("MATERIAL"):
            materials.append(_material_rgb(line))
        elif line.startswith("OBJECT"):
            _read_object(lines, _Frame(), parts)
    return Mesh(np.array(materials or [[1.0, 1.0, 1.0]]), tuple(parts))


def _material_rgb(line: str) -> list[float]:
    words = line.split()
    start = words.index("rgb") + 1
    return [float(w) for w in words[start : start + 3]]


def _next(lines: Iterator[str]) -> str:
    try:
        return next(lines)
    except StopIteration:
        raise ValueError("AC3D text ends inside an OBJECT") from None


def _read_object(lines: Iterator[str], parent: _Frame, parts: list[Part]) -> None:
    name, texture, crease = "", None, DEFAULT_CREASE_DEG
    repeat = (1.0, 1.0)
    loc, rot = np.zeros(3), np.eye(3)
    vertices = np.zeros((0, 3))
    surfaces: list[Surface] = []
    while True:
        line = _next(lines)
        key, _, rest = line.partition(" ")
        if key == "name":
            name = _unquote(rest)
        elif key == "texture":
            texture = _unquote(rest)
        elif key == "texrep":
            repeat = (float(rest.split()[0]), float(rest.split()[1]))
        elif key == "crease":
            crease = float(rest)
        elif key == "loc":
            loc = np.array([float(w) for w in rest.split()])
        elif key == "rot":
            # The file lists the matrix by columns: row vectors are multiplied from the left.
            rot = np.array([float(w) for w in rest.split()]).reshape(3, 3).T
        elif key == "data":
            _next(lines)
        elif key == "numvert":
            rows = [_next(lines).split()[:3] for _ in range(int(rest))]
            vertices = np.array(rows, dtype=float).reshape(-1, 3)
        elif key == "numsurf":
            surfaces = [_read_surface(lines, repeat) for _ in range(int(rest))]
        elif key == "kids":
            frame = _Frame(parent.rotation @ loc + parent.offset, parent.rotation @ rot)
            if surfaces:
                world = vertices @ frame.rotation.T + frame.offset
                parts.append(Part(name, texture, world, tuple(surfaces), crease))
            for _ in range(int(rest)):
                # Hand-edited files announce more kids than they hold; the text's end ends them.
                if (child := next(lines, None)) is None:
                    return
                if not child.startswith("OBJECT"):
                    raise ValueError(f"expected an OBJECT among kids, found {child!r}")
                _read_object(lines, frame, parts)
            return


def _read_surface(lines: Iterator[str], repeat: tuple[float, float]) -> Surface:
    material, vertices, uvs = 0, [], []
    while True:
        key, _, rest = _next(lines).partition(" ")
        if key == "mat":
            material = int(rest)
        elif key == "refs":
            for _ in range(int(rest)):
                index, u, v = _next(lines).split()[:3]
                vertices.append(int(index))
                uvs.append((float(u) * repeat[0], float(v) * repeat[1]))
            return Surface(tuple(vertices), tuple(uvs), material)


def _unquote(text: str) -> str:
    words = shlex.split(text) if text.count('"') == 2 else [text.strip('"')]
    return words[0] if words else ""


@dataclass(frozen=True)
class Corners:
    """A part ready for a renderer: each polygon corner is its own point.

    points [C, 3], normals [C, 3] (unit), uvs [C, 2], colours [C, 3] in 0..1; polygons index them.
    """

    points: np.ndarray
    normals: np.ndarray
    uvs: np.ndarray
    colours: np.ndarray
    polygons: tuple[tuple[int, ...], ...]


def corners(part: Part, materials: np.ndarray) -> Corners:
    """Unroll a part to corners, smoothing normals across edges flatter than the crease angle."""
    solid = [s for s in part.surfaces if len(s.vertices) >= 3]
    faces = [_face_normal(part.vertices[list(s.vertices)]) for s in solid]
    around: dict[int, list[int]] = {}
    for f, surface in enumerate(solid):
        for v in surface.vertices:
            around.setdefault(v, []).append(f)
    limit = np.cos(np.radians(part.crease_deg))
    units = [n / max(float(np.linalg.norm(n)), 1e-12) for n in faces]
    points: list[np.ndarray] = []
    normals, uvs, colours, polygons = [], [], [], []
    for f, surface in enumerate(solid):
        start = len(points)
        polygons.append(tuple(range(start, start + len(surface.vertices))))
        for v, uv in zip(surface.vertices, surface.uvs, strict=True):
            near = [faces[g] for g in around[v] if float(units[g] @ units[f]) >= limit]
            total = np.sum(near, axis=0) if near else faces[f]
            points.append(part.vertices[v])
            normals.append(total / max(float(np.linalg.norm(total)), 1e-12))
            uvs.append(uv)
            colours.append(materials[min(surface.material, len(materials) - 1)])
    return Corners(
        np.array(points), np.array(normals), np.array(uvs), np.array(colours), tuple(polygons)
    )


def _face_normal(points: np.ndarray) -> np.ndarray:
    """Newell's normal, whose length is twice the polygon's area."""
    following = np.roll(points, -1, axis=0)
    return np.cross(points, following).sum(axis=0)
