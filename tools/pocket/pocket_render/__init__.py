"""Renders the pocket's aircraft pictures from GPL aircraft meshes and liveries.

Rooms, lowest first: ``ac3d`` (mesh text -> arrays), ``catalogue`` (classes, liveries, airlines),
``pools`` (airline -> pool), ``views`` (camera and scene draws), ``sky`` (backgrounds),
``scene`` (VTK), ``captions``, ``export`` (FGVC-Aircraft's layout). Only ``scene`` imports VTK.
"""
