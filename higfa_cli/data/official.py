"""Sizes of the public datasets as their authors publish them, for plans made without the data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Official:
    """A dataset's home page, number of classes and images per split (0: no such split)."""

    title: str
    page: str
    classes: int
    train: int
    val: int
    test: int


_SIZES = {
    "fgvc-aircraft": Official(
        title="FGVC-Aircraft (variants)",
        page="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        classes=100,
        train=3334,
        val=3333,
        test=3333,
    ),
    "cub": Official(
        title="CUB-200-2011",
        page="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        classes=200,
        train=5994,
        val=0,
        test=5794,
    ),
    # The original page is gone; copies of the archive are offered elsewhere.
    "stanford-cars": Official(
        title="Stanford Cars",
        page="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        classes=196,
        train=8144,
        val=0,
        test=8041,
    ),
    "stanford-dogs": Official(
        title="Stanford Dogs",
        page="http://vision.stanford.edu/aditya86/ImageNetDogs/main.html",
        classes=120,
        train=12000,
        val=0,
        test=8580,
    ),
    "flowers102": Official(
        title="Oxford 102 Flowers",
        page="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        classes=102,
        train=1020,
        val=1020,
        test=6149,
    ),
    "oxford-pets": Official(
        title="Oxford-IIIT Pet",
        page="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        classes=37,
        train=3680,
        val=0,
        test=3669,
    ),
    "dtd": Official(
        title="Describable Textures (split 1)",
        page="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        classes=47,
        train=1880,
        val=1880,
        test=1880,
    ),
}


def official(layout: str) -> Official | None:
    """Published sizes of a layout's dataset; None for class folders, which have none."""
    return _SIZES.get(layout)
