"""Off-screen drawing with VTK: one scene per mesh, liveries swapped, camera and light moved."""

from __future__ import annotations

import os
from pathlib import Path

# Software rendering on one thread: pictures are then the same on every machine, and two
# processes do not fight for the same cores.
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkOSOpenGLRenderWindow")
os.environ.setdefault("LP_NUM_THREADS", "1")

import numpy as np
import vtk
from PIL import Image
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from tools.pocket.pocket_render.ac3d import (
    Corners,
    corners,
    is_aircraft_part,
    is_gear_part,
    parse_ac3d,
)
from tools.pocket.pocket_render.sky import background
from tools.pocket.pocket_render.views import SEALED_SKIES, SKIES, View

SUPERSAMPLING = 3


def _polydata(shape: Corners) -> vtk.vtkPolyData:
    data = vtk.vtkPolyData()
    points = vtk.vtkPoints()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(shape.points, np.float32), deep=True))
    cells = vtk.vtkCellArray()
    for polygon in shape.polygons:
        cells.InsertNextCell(len(polygon), polygon)
    data.SetPoints(points)
    data.SetPolys(cells)
    attributes = data.GetPointData()
    attributes.SetNormals(numpy_to_vtk(np.ascontiguousarray(shape.normals, np.float32), deep=True))
    attributes.SetTCoords(numpy_to_vtk(np.ascontiguousarray(shape.uvs, np.float32), deep=True))
    triangles = vtk.vtkTriangleFilter()
    triangles.SetInputData(data)
    triangles.Update()
    return triangles.GetOutput()


def _texture(path: Path) -> vtk.vtkTexture:
    with Image.open(path) as image:
        # Palette pictures and alpha channels (windows cut out) become plain opaque colour.
        pixels = np.asarray(image.convert("RGBA").convert("RGB"))
    height, width = pixels.shape[:2]
    data = vtk.vtkImageData()
    data.SetDimensions(width, height, 1)
    flipped = np.ascontiguousarray(pixels[::-1].reshape(-1, 3))
    data.GetPointData().SetScalars(numpy_to_vtk(flipped, deep=True))
    texture = vtk.vtkTexture()
    texture.SetInputData(data)
    texture.InterpolateOn()
    texture.MipmapOn()
    texture.SetMaximumAnisotropicFiltering(8)
    texture.RepeatOn()
    return texture


def rotation(view: View) -> np.ndarray:
    """Turns a mesh (nose at -x, y up) into camera axes: x right, y up, z towards the viewer."""
    turn = view.yaw if view.facing == "left" else 180.0 + view.yaw
    roll, pitch, yaw, tilt = np.radians([view.roll, -view.pitch, turn, view.elevation])
    rx = _axis_rotation(0, roll)
    rz = _axis_rotation(2, pitch)
    ry = _axis_rotation(1, yaw)
    return _axis_rotation(0, tilt) @ ry @ rz @ rx


def _axis_rotation(axis: int, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    out = np.eye(3)
    out[i, i], out[i, j], out[j, i], out[j, j] = c, -s, s, c
    return out


class AircraftScene:
    """One mesh in one render window of ``size`` pixels (drawn larger and averaged down)."""

    def __init__(self, mesh_file: Path, size: int) -> None:
        mesh = parse_ac3d(mesh_file.read_text(encoding="latin-1"))
        parts = [p for p in mesh.parts if is_aircraft_part(p.name)]
        self.size = size
        self._renderer = vtk.vtkRenderer()
        self._renderer.SetBackgroundAlpha(0.0)
        self._renderer.RemoveAllLights()
        self._renderer.AutomaticLightCreationOff()
        self._body: list[vtk.vtkActor] = []
        self._gear: list[vtk.vtkActor] = []
        for part in parts:
            group = self._gear if is_gear_part(part.name) else self._body
            group.append(self._actor(corners(part, mesh.materials)))
        solid = [p.vertices for p in parts if not is_gear_part(p.name)]
        points = np.concatenate(solid)
        self._middle = (points.min(0) + points.max(0)) / 2
        self._points = points - self._middle
        self._length = float(np.ptp(points[:, 0]))
        self._light = vtk.vtkLight()
        self._light.SetLightTypeToSceneLight()
        self._light.PositionalOff()
        self._renderer.AddLight(self._light)
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetAlphaBitPlanes(1)
        self._window.SetMultiSamples(0)
        self._window.SetSize(size * SUPERSAMPLING, size * SUPERSAMPLING)
        self._window.AddRenderer(self._renderer)

    def _actor(self, shape: Corners) -> vtk.vtkActor:
        mapper = vtk.vtkPolyDataMapper()
        mapper.SetInputData(_polydata(shape))
        actor = vtk.vtkActor()
        actor.SetMapper(mapper)
        actor.GetProperty().SetInterpolationToPhong()
        self._renderer.AddActor(actor)
        return actor

    def close(self) -> None:
        """Free the window's memory."""
        self._window.Finalize()

    def set_livery(self, texture_file: Path) -> None:
        """Paint the whole aircraft with one texture file."""
        texture = _texture(texture_file)
        for actor in self._body + self._gear:
            actor.SetTexture(texture)

    def render(self, view: View) -> np.ndarray:
        """Draw one picture: uint8 RGB, [size, size, 3]."""
        turn = rotation(view)
        self._place(view, turn)
        self._set_light(view)
        for actor in self._gear:
            actor.SetVisibility(view.gear_down)
        self._window.Render()
        layer, alpha = self._read()
        sky = background(view, self.size)
        picture = (layer * 255.0 + sky * (1 - alpha)) * view.exposure
        return np.clip(np.rint(picture), 0, 255).astype(np.uint8)

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        """Premultiplied RGB in 0..1 [S, S, 3] and coverage [S, S, 1], averaged down."""
        full = self.size * SUPERSAMPLING
        pixels = vtk.vtkUnsignedCharArray()
        self._window.GetRGBACharPixelData(0, 0, full - 1, full - 1, 1, pixels)
        rgba = vtk_to_numpy(pixels).reshape(full, full, 4)[::-1].astype(np.float32) / 255.0
        alpha = (rgba[..., 3:] > 0).astype(np.float32)
        layers = np.concatenate([rgba[..., :3] * alpha, alpha], axis=-1)
        blocks = layers.reshape(self.size, SUPERSAMPLING, self.size, SUPERSAMPLING, 4)
        small = blocks.mean(axis=(1, 3))
        return small[..., :3], small[..., 3:]

    def _place(self, view: View, turn: np.ndarray) -> None:
        matrix = np.eye(4)
        matrix[:3, :3] = turn
        matrix[:3, 3] = -turn @ self._middle
        vtk_matrix = vtk.vtkMatrix4x4()
        vtk_matrix.DeepCopy(matrix.ravel())
        for actor in self._body + self._gear:
            actor.SetUserMatrix(vtk_matrix)
        distance = view.distance * self._length
        points = self._points @ turn.T
        seen = points[:, :2] / (distance - points[:, 2:])
        low, high = seen.min(0), seen.max(0)
        half = max(high[0] - low[0], (high[1] - low[1]) * 1.05) / (2 * view.fill)
        middle = (low + high) / 2 / half
        camera = self._renderer.GetActiveCamera()
        camera.SetPosition(0, 0, distance)
        camera.SetFocalPoint(0, 0, 0)
        camera.SetViewUp(0, 1, 0)
        camera.SetViewAngle(float(np.degrees(2 * np.arctan(half))))
        camera.SetWindowCenter(middle[0] - 2 * view.centre[0], middle[1] - 2 * view.centre[1])
        camera.SetClippingRange(distance - 1.5 * self._length, distance + 1.5 * self._length)

    def _set_light(self, view: View) -> None:
        sky = {**SKIES, **SEALED_SKIES}[view.sky]
        azimuth, elevation = np.radians([view.sun_azimuth, view.sun_elevation])
        flat = np.cos(elevation)
        self._light.SetPosition(flat * np.sin(azimuth), np.sin(elevation), flat * np.cos(azimuth))
        self._light.SetFocalPoint(0, 0, 0)
        self._light.SetDiffuseColor(*sky.sun)
        self._light.SetAmbientColor(*sky.sun)
        for actor in self._body + self._gear:
            paint = actor.GetProperty()
            paint.SetColor(1, 1, 1)
            paint.SetAmbient(sky.ambient)
            paint.SetDiffuse(1.2 - sky.ambient)
            paint.SetSpecular(0.08)
            paint.SetSpecularPower(20)
