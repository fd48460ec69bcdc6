"""Random views: camera, light and background of one picture, as plain numbers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Sky:
    """Colours in 0..255 at the top and the horizon, cloud colour and cover, and the light."""

    words: str
    top: Colour
    horizon: Colour
    cloud: Colour
    cover: tuple[float, float]
    sun: Colour
    ambient: float


@dataclass(frozen=True)
class Ground:
    """What lies below the horizon; ``grain`` is its texture's strength in grey levels."""

    words: str
    colour: Colour
    grain: float


SKIES = {
    "blue": Sky(
        "against a blue sky", (62, 116, 190), (176, 208, 236), (246, 248, 250), (0, 0.25),
        (1.0, 0.98, 0.94), 0.42,
    ),
    "cloudy": Sky(
        "against a cloudy sky", (84, 134, 196), (190, 212, 232), (240, 243, 247), (0.45, 0.8),
        (1.0, 0.97, 0.94), 0.5,
    ),
    "grey": Sky(
        "against a grey sky", (150, 156, 164), (198, 202, 206), (222, 224, 227), (0.3, 0.7),
        (0.86, 0.88, 0.9), 0.66,
    ),
    "sunset": Sky(
        "at sunset", (120, 126, 162), (244, 184, 128), (250, 214, 180), (0.2, 0.55),
        (1.0, 0.82, 0.62), 0.42,
    ),
}  # fmt: skip
SEALED_SKIES = {
    "dusk": Sky(
        "at dusk", (66, 62, 104), (206, 150, 164), (150, 120, 150), (0.2, 0.6),
        (0.92, 0.78, 0.8), 0.46,
    ),
    "storm": Sky(
        "against a dark storm sky", (70, 78, 88), (138, 146, 150), (104, 110, 118), (0.5, 0.9),
        (0.9, 0.92, 0.92), 0.6,
    ),
    "haze": Sky(
        "against a hazy yellow sky", (196, 188, 156), (232, 222, 186), (240, 234, 210), (0, 0.3),
        (1.0, 0.95, 0.82), 0.56,
    ),
}  # fmt: skip
GROUNDS = {
    "field": Ground("over a green field", (92, 116, 66), 16.0),
    "runway": Ground("over a grey runway", (118, 118, 120), 12.0),
    "sea": Ground("over the sea", (60, 96, 122), 12.0),
}
SEALED_GROUNDS = {
    "desert": Ground("over a desert", (188, 156, 112), 14.0),
    "snow": Ground("over snow", (224, 230, 236), 8.0),
}


@dataclass(frozen=True)
class View:
    """One picture's settings. Angles in degrees; fill, centre and horizon as frame fractions.

    yaw: turn from the exact side view; pitch: nose up; roll: bank; elevation: camera above (+).
    """

    facing: str
    yaw: float
    pitch: float
    roll: float
    elevation: float
    distance: float
    fill: float
    centre: tuple[float, float]
    sky: str
    ground: str | None
    horizon: float
    cover: float
    sun_azimuth: float
    sun_elevation: float
    exposure: float
    gear_down: bool
    noise_seed: int

    @property
    def scene(self) -> str:
        """The caption fragment, such as "against a blue sky" or "over the sea"."""
        if self.ground is not None:
            return {**GROUNDS, **SEALED_GROUNDS}[self.ground].words
        return {**SKIES, **SEALED_SKIES}[self.sky].words


def picture_rng(seed: int, pool: str, variant: str, index: int) -> np.random.Generator:
    """A generator that depends on the picture alone, never on how many others are drawn."""
    digest = hashlib.sha256(f"{seed}/{pool}/{variant}/{index}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def draw_view(rng: np.random.Generator, sealed: bool) -> View:
    """Draw a spotter's view; the sealed pool has wider turns and skies of its own."""
    skies = SEALED_SKIES if sealed else SKIES
    grounds = SEALED_GROUNDS if sealed else GROUNDS
    weights = [1 / len(skies)] * len(skies) if sealed else [0.4, 0.25, 0.2, 0.15]
    sky = str(rng.choice(list(skies), p=weights))
    ground = str(rng.choice(list(grounds))) if rng.random() < 0.3 else None
    low = ground is not None
    yaw_size = rng.uniform(22, 38) if sealed else abs(rng.normal(0, 11))
    yaw = float(min(yaw_size, 38 if sealed else 25) * rng.choice([-1, 1]))
    pitch = float(np.clip(rng.normal(4 if sealed else 2, 3.5), -5, 12))
    return View(
        facing=str(rng.choice(["left", "right"])),
        yaw=yaw,
        pitch=pitch * (0.6 if low else 1.0),
        roll=float(np.clip(rng.normal(0, 6 if sealed else 2.5), -15, 15)),
        elevation=float(rng.uniform(6, 16) if sealed else np.clip(rng.normal(-3, 5), -12, 9)),
        distance=float(rng.uniform(2.6, 5.5)),
        fill=float(rng.uniform(0.85, 0.95)),
        centre=(float(rng.uniform(-0.02, 0.02)), float(rng.uniform(-0.08, 0.06))),
        sky=sky,
        ground=ground,
        horizon=float(rng.uniform(0.7, 0.9)),
        cover=float(rng.uniform(*skies[sky].cover)),
        sun_azimuth=float(rng.uniform(-60, 60)),
        sun_elevation=float(rng.uniform(10, 30) if sky == "sunset" else rng.uniform(25, 65)),
        exposure=float(rng.uniform(0.9, 1.1)),
        gear_down=bool(rng.random() < (0.85 if low else 0.45)),
        noise_seed=int(rng.integers(2**31)),
    )
