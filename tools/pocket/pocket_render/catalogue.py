"""Which classes exist, which meshes and liveries draw them, and who an airline is."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

AIRCRAFT_ROOT = Path("/usr/share/games/flightgear/AI/Aircraft")
CLASSES_FILE = Path(__file__).parents[1] / "classes.json"
DROPPED_FILE = Path(__file__).parents[1] / "dropped_variants.json"

# The white aircraft that a painter starts from: no airline flies it.
UNPAINTED = "unpainted"
_NOT_AIRLINES = {"paintkit"}
# Subsidiaries in the parent's colours, spellings and typing errors -> one name, lower case.
_SAME_AIRLINE = {
    "default": UNPAINTED,
    "aeromexicoconnect": "aeromexico",
    "airasiaindia": "airasia",
    "airasiax": "airasia",
    "aircanadaexpress": "aircanada",
    "aircanadarouge": "aircanada",
    "aireuropaexpress": "aireuropa",
    "americanairlines": "american",
    "americaneagle": "american",
    "austrianairlines": "austrian",
    "azoresairlines": "sata",
    "cathay": "cathaypacific",
    "deltaconnection": "delta",
    "etihadairways": "etihad",
    "etihadregional": "etihad",
    "garudaindonesia": "garuda",
    "iberiaexpress": "iberia",
    "iberiaregional": "iberia",
    "icelandaircargo": "icelandair",
    "klmbxa": "klm",
    "kuwait": "kuwaitairways",
    "lotnordica": "lot",
    "lufthansacargo": "lufthansa",
    "lufthansacityline": "lufthansa",
    "malaysiaairlines": "malaysia",
    "montenegroairlines": "montenegro",
    "nordica": "lot",
    "qantaslink": "qantas",
    "qatarairways": "qatar",
    "qatarairwayscargo": "qatar",
    "sas": "scandinavian",
    "scandinavianairlines": "scandinavian",
    "smartwings": "travelservice",
    "southafricanairways": "southafrican",
    "swissair": "swiss",
    "tunisairexpress": "tunisair",
    "turkishairlines": "turkish",
    "ukraine": "ukraineintl",
    "unitedairlines": "united",
    "up": "elal",
    "windroseairlines": "windrose",
    "wizz": "wizzair",
}


@dataclass(frozen=True)
class AircraftClass:
    """One variant with FGVC-Aircraft's names; ``models`` are mesh paths under the root."""

    variant: str
    family: str
    manufacturer: str
    words: str
    models: tuple[str, ...]


@dataclass(frozen=True)
class Livery:
    """One painted aircraft: mesh and texture are paths under the aircraft root."""

    variant: str
    airline: str
    model: str
    texture: str


def airline_name(folder: str) -> str | None:
    """The normalised airline of a livery folder, or None for a painter's template."""
    name = re.sub(r"[^a-z0-9]", "", folder.lower())
    if name in _NOT_AIRLINES:
        return None
    return _SAME_AIRLINE.get(name, name)


def load_catalogue(path: Path = CLASSES_FILE) -> dict[str, AircraftClass]:
    """Read the table of all variants that can be drawn, in alphabetical order."""
    table = json.loads(path.read_text(encoding="utf-8"))
    return {
        variant: AircraftClass(
            variant, row["family"], row["manufacturer"], row["words"], tuple(row["models"])
        )
        for variant, row in sorted(table.items())
    }


def load_classes() -> dict[str, AircraftClass]:
    """The pocket's classes: the catalogue without the variants that were dropped, with reasons."""
    dropped = json.loads(DROPPED_FILE.read_text(encoding="utf-8"))
    return {name: row for name, row in load_catalogue().items() if name not in dropped}


def texture_name(model: Path) -> str:
    """The file name of the one texture that a mesh uses. Raises ValueError if not exactly one."""
    text = model.read_text(encoding="latin-1")
    names = {Path(t.strip()).name for t in re.findall(r'^texture\s+"?([^"\r\n]+)', text, re.M)}
    if len(names) != 1:
        raise ValueError(f"{model}: expected one texture, found {sorted(names)}")
    return names.pop()


def find_liveries(
    aircraft: AircraftClass, dropped: frozenset[str], root: Path = AIRCRAFT_ROOT
) -> list[Livery]:
    """Liveries of a class whose folder holds the very texture its mesh names.

    ``dropped`` holds texture paths that were looked at and found broken.
    """
    found = []
    for model in aircraft.models:
        name = texture_name(root / model)
        textures = root / Path(model).parts[0] / "Textures"
        for texture in sorted(textures.glob(f"*/{name}")):
            relative = texture.relative_to(root).as_posix()
            airline = airline_name(texture.parent.name)
            if airline is not None and relative not in dropped:
                found.append(Livery(aircraft.variant, airline, model, relative))
    return found
