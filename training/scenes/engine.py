"""MuJoCo, found and made to render without a display: EGL where it works, else OSMesa."""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from flowclas_ros.errors import FlowclasError

_LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}
_HOW = "sudo apt install libegl1 libgl1-mesa-dri (EGL) or libosmesa6 (OSMesa)"


def load() -> ModuleType:
    """The module `mujoco`, with MUJOCO_GL chosen when it is unset and there is no display.

    Raises FlowclasError when MuJoCo is not installed, or when neither EGL nor OSMesa is on this machine.
    """
    if "mujoco" not in sys.modules and not os.environ.get("MUJOCO_GL") and _headless():
        found = [name for name, library in _LIBRARIES.items() if ctypes.util.find_library(library)]
        if not found:
            raise FlowclasError(f"rendering needs EGL or OSMesa, and neither is on this machine: {_HOW}")
        os.environ["MUJOCO_GL"] = found[0]
    if "mujoco" not in sys.modules:
        _keep_triton_apart()
    try:
        return importlib.import_module("mujoco")
    except ModuleNotFoundError as error:
        if error.name != "mujoco":
            raise
        raise FlowclasError("rendered scenes need MuJoCo: pip install 'flowclas_ros[sim]'") from None
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise FlowclasError(_trouble(error)) from error


def _keep_triton_apart() -> None:
    """Load torch's compiler, if it is here, before Mesa makes its own LLVM known to the whole process.

    Triton has another LLVM inside, and whoever imported torch after the first picture crashed in it.
    """
    found = None if "triton" in sys.modules else importlib.util.find_spec("triton")
    for folder in (found and found.submodule_search_locations) or ():
        for library in Path(folder, "_C").glob("libtriton*.so"):
            with contextlib.suppress(OSError):  # then torch cannot load it either
                ctypes.CDLL(str(library))


def _headless() -> bool:
    return sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _trouble(error: Exception) -> str:
    kind = os.environ.get("MUJOCO_GL", "")  # empty where mujoco was imported before `load` could choose
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"MuJoCo cannot render with MUJOCO_GL='{kind}' ({reason}): set it to egl or osmesa; {_HOW}"


class Renderer:
    """Colour, depth and segmentation of one model from any camera pose.

    A context of its own, so that several renderers may live beside one another; use each from one thread at a time.
    """

    def __init__(self, model: Any, width: int, height: int, fovy: float, near: float, far: float):
        """fovy: vertical field of view in degrees. near, far: clipping distances in metres."""
        mj = self._mj = load()
        self._size, self._near, self._far = (width, height), near, far
        self._half = near * np.tan(np.deg2rad(fovy) / 2)  # of the image's height, on the near plane
        self._context: Any = None
        try:
            self._gl = mj.GLContext(width, height)
            self._gl.make_current()
            self._context = mj.MjrContext(model, mj.mjtFontScale.mjFONTSCALE_100.value)
        except Exception as error:  # PyOpenGL and MuJoCo raise what they stumble over
            raise FlowclasError(_trouble(error)) from error
        mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._context.readDepthMap = mj.mjtDepthMap.mjDEPTH_ZEROFAR
        self._model = model
        self._scene = mj.MjvScene(model, maxgeom=model.ngeom + 50)
        self._option, self._camera = mj.MjvOption(), mj.MjvCamera()
        self._rect = mj.MjrRect(0, 0, width, height)
        self._rgb = np.empty((height, width, 3), np.uint8)
        self._raw_depth = np.empty((height, width), np.float32)

    def update(self, data: Any, pose: np.ndarray, shift: tuple[float, float] = (0.0, 0.0)) -> None:
        """Take the bodies' places from `data`, and look from `pose`, (4, 4) world_from_optical.

        shift: of the picture in pixels to the right and down, for anti-aliasing.
        """
        mj, scene = self._mj, self._scene
        mj.mjv_updateScene(self._model, data, self._option, None, self._camera, mj.mjtCatBit.mjCAT_ALL.value, scene)
        width, height = self._size
        pixel = 2 * self._half / height
        for camera in scene.camera:  # both eyes of a stereo pair that is not used
            camera.pos[:] = pose[:3, 3]
            camera.forward[:] = pose[:3, 2]
            camera.up[:] = -pose[:3, 1]
            camera.frustum_near, camera.frustum_far = self._near, self._far
            camera.frustum_center = -shift[0] * pixel
            camera.frustum_width = self._half * width / height
            camera.frustum_bottom = -self._half + shift[1] * pixel
            camera.frustum_top = self._half + shift[1] * pixel
        for light in scene.lights[: scene.nlight]:
            if light.headlight:  # MuJoCo's shines from its own camera, which is not this one
                light.dir[:] = pose[:3, 2]

    def move_lights(self, offset: np.ndarray) -> None:
        """Carry the lights along by `offset` (3,) metres after `update`: the shadow's reach goes with them."""
        for light in self._scene.lights[: self._scene.nlight]:
            light.pos[:] += offset

    def aim_light(self, number: int, direction: np.ndarray, target: np.ndarray, reach: float) -> None:
        """Let a light shine along `direction` (3,) on `target` (3,), its shadow's camera `reach` metres before it."""
        light = self._scene.lights[number]
        light.dir[:] = direction / np.linalg.norm(direction)
        light.pos[:] = target - light.dir * reach

    def colour(self) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8, black where there is nothing, and (H, W) bool, where there is something."""
        self._draw(segment=False)
        return self._rgb[::-1].copy(), self._raw_depth[::-1] > 0

    def truth(self) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) int32 geom ids, -1 for none; (H, W) float32 depth along the optical axis in metres, inf for none."""
        self._draw(segment=True)
        coded = self._rgb[::-1].astype(np.int32)
        index = coded[..., 0] + (coded[..., 1] << 8) + (coded[..., 2] << 16)
        ids = np.full(self._scene.ngeom + 1, -1, np.int32)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.segid >= 0:
                ids[geom.segid + 1] = geom.objid
        raw = self._raw_depth[::-1].astype(np.float64)
        near, far = self._near, self._far
        with np.errstate(divide="ignore"):
            depth = near * far / (near + raw * (far - near))  # reversed: 1 at the near plane, 0 at the far one
        return ids[index], np.where(raw > 0, depth, np.inf).astype(np.float32)

    def _draw(self, segment: bool) -> None:
        mj, scene = self._mj, self._scene
        scene.flags[mj.mjtRndFlag.mjRND_SEGMENT] = segment
        scene.flags[mj.mjtRndFlag.mjRND_IDCOLOR] = segment
        scene.flags[mj.mjtRndFlag.mjRND_SKYBOX] = 0
        scene.flags[mj.mjtRndFlag.mjRND_HAZE] = 0
        self._gl.make_current()
        mj.mjr_render(self._rect, scene, self._context)
        mj.mjr_readPixels(self._rgb, self._raw_depth, self._rect, self._context)

    def close(self) -> None:
        """Give the context back."""
        if self._context is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._context = None
