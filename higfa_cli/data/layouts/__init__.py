"""Readers of photos as they lie: one module per public dataset, one for class folders and lists."""

from __future__ import annotations

from importlib import import_module

from higfa_cli.data.layouts.common import Layout

CLASS_FOLDERS = "imagefolder"


def layout_of(name: str) -> Layout | None:
    """The public dataset that `data.layout` names; None for the user's own class folders."""
    if name == CLASS_FOLDERS:
        return None
    module = import_module(f"{__name__}.{name.replace('-', '_')}")
    layout: Layout = module.LAYOUT
    return layout
