"""Where the pocket's files lie: sd/, controlnet/ and data/ under `ROOT`."""

from pathlib import Path

ROOT = Path(__file__).parent
