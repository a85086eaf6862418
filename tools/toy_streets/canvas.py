"""A picture, its label ids and its depth, painted together by one pinhole camera.

World coordinates in metres: x to the right, y up from the road, z ahead; the camera is at (0, eye, 0) and looks along
z. Things are painted far to near, each over what is behind it.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from labels.table import LABEL_ID

SUPERSAMPLING = 2
NEAR, FAR = 1.0, 200.0  # metres; nothing is painted nearer or farther
_SHIFT = 4  # fractional bits of cv2's polygon vertices
_TURN = np.linspace(0, 2 * np.pi, 18, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)

Colour = np.ndarray  # (3,) RGB, 0..255


class Canvas:
    """Paints faces given in metres.

    Args:
        size: width and height of the finished picture; painting is done at twice that.
        palette: name of a material -> (K, 3) RGB colours.
        horizon: height of the horizon from the top, as a share of the picture.
        eye: height of the camera in metres.
    """

    def __init__(self, size: tuple[int, int], palette: dict[str, np.ndarray], horizon: float, eye: float) -> None:
        width, height = (SUPERSAMPLING * side for side in size)
        self.image = np.zeros((height, width, 3), np.uint8)
        self.label = np.zeros((height, width), np.uint8)
        self.palette, self.eye = palette, eye
        self.focal, self.centre, self.horizon = 0.72 * width, width / 2, horizon * height
        below = np.maximum(np.arange(height) + 0.5 - self.horizon, 1e-3)  # rows below the horizon show the ground
        ground = np.minimum(self.focal * eye / below, FAR).astype(np.float32)
        self.depth = np.repeat(ground[:, None], width, axis=1)

    def colour(self, material: str, pick: float = 0.0, shade: float = 1.0) -> Colour:
        """One of the colours of a material; pick in [0, 1) chooses, shade brightens or darkens."""
        colours = self.palette[material]
        return colours[int(pick * len(colours))] * shade

    def project(self, points: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
        """(N, 3) world points -> (N, 2) pixels."""
        world = np.asarray(points, np.float64)
        scale = self.focal / np.maximum(world[:, 2:], NEAR)
        return (world[:, :2] - (0, self.eye)) * (1, -1) * scale + (self.centre, self.horizon)

    def fill(self, pixels: np.ndarray, colour: Colour | None, label: str | None, depth: float | None) -> None:
        """Fill a polygon of pixels; None leaves that layer as it is."""
        corners = [np.round(np.clip(pixels, -30000, 30000) * (1 << _SHIFT)).astype(np.int32)]
        if colour is not None:
            cv2.fillPoly(self.image, corners, np.clip(colour, 0, 255).tolist(), cv2.LINE_8, _SHIFT)
        if label is not None:
            cv2.fillPoly(self.label, corners, LABEL_ID[label], cv2.LINE_8, _SHIFT)
        if depth is not None:
            cv2.fillPoly(self.depth, corners, float(depth), cv2.LINE_8, _SHIFT)

    def face(self, points: Sequence[Sequence[float]], colour: Colour, label: str | None = None) -> None:
        """A flat face with (x, y, z) corners; without a label it is paint on the face behind."""
        depth = None if label is None else max(sum(z for _, _, z in points) / len(points), NEAR)
        self.fill(self.project(points), colour, label, depth)

    def side(
        self, x: float, z: tuple[float, float], y: tuple[float, float], colour: Colour, label: str | None = None
    ) -> None:
        """A rectangle in a plane along the street: a facade, a window in it, the flank of a vehicle."""
        self.face([(x, y[0], z[0]), (x, y[0], z[1]), (x, y[1], z[1]), (x, y[1], z[0])], colour, label)

    def ground(
        self, x0: float, x1: float, z0: float, z1: float, colour: Colour, label: str | None, y: float = 0
    ) -> None:
        """A rectangle on the ground (or y metres above it)."""
        pixels = self.project([(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)])
        self.fill(pixels, colour, label, None)

    def shadow(self, points: Sequence[Sequence[float]], strength: float) -> None:
        """Darken the inside of a polygon; labels stay unchanged."""
        corners = np.round(self.project(points)).astype(np.int64)
        low = np.clip(corners.min(axis=0), 0, self.label.shape[::-1])
        high = np.clip(corners.max(axis=0) + 1, 0, self.label.shape[::-1])
        if (high <= low).any():
            return
        mask = np.zeros(tuple((high - low)[::-1]), np.uint8)
        cv2.fillPoly(mask, [np.clip(corners - low, -30000, 30000).astype(np.int32)], 1)
        region = self.image[low[1] : high[1], low[0] : high[0]]
        inside = mask.astype(bool)
        region[inside] = region[inside] * (1 - strength)

    def upright(self, z: float, outline: Sequence[Sequence[float]], colour: Colour, label: str | None) -> None:
        """An upright polygon with (x, y) corners that faces the camera at distance z."""
        self.face([(x, y, z) for x, y in outline], colour, label)

    def rect(self, z: float, x: float, y: float, half: float, top: float, colour: Colour, label: str | None) -> None:
        """An upright rectangle from y to top, half wide on each side of x."""
        self.upright(z, [(x - half, y), (x + half, y), (x + half, top), (x - half, top)], colour, label)

    def disc(self, z: float, x: float, y: float, rx: float, ry: float, colour: Colour, label: str | None) -> None:
        """An upright ellipse that faces the camera."""
        scale = self.focal / max(z, NEAR)
        centre = (self.centre + scale * x, self.horizon + scale * (self.eye - y))
        self.fill(_CIRCLE * (scale * rx, scale * ry) + centre, colour, label, None if label is None else z)

    def bar(
        self, z: float, start: tuple[float, float], end: tuple[float, float], width: float, colour: Colour, label: str
    ) -> None:
        """A thick stroke between two (x, y) points at distance z; at least one pixel wide."""
        a, b = np.asarray(start), np.asarray(end)
        along = (b - a) / max(float(np.hypot(*(b - a))), 1e-6)
        side = np.array([-along[1], along[0]]) * max(width, SUPERSAMPLING * z / self.focal) / 2
        self.upright(z, [a + side, b + side, b - side, a - side], colour, label)

    def wheel(self, x: float, z: float, radius: float, colour: Colour, label: str) -> None:
        """A wheel in the plane of a vehicle's side."""
        for share, shade in ((1.0, 1.0), (0.55, 3.2), (0.2, 1.0)):
            self.face(
                [(x, radius + share * radius * s, z + share * radius * c) for c, s in _CIRCLE], colour * shade, label
            )

    def prism(
        self, outline: Sequence[tuple[float, float]], x0: float, x1: float, colour: Colour, label: str, lit: float = 0.9
    ) -> None:
        """Extrude a convex outline of (z, y) corners, counter-clockwise with z to the right, from x0 to x1.

        Only faces turned to the camera are painted; lit shades the long side.
        """
        for (za, ya), (zb, yb) in zip(outline, [*outline[1:], outline[0]], strict=True):
            nz, ny = yb - ya, za - zb
            if nz * -za + ny * (self.eye - ya) > 0:
                shade = 0.74 + 0.36 * max(ny, 0) / max(float(np.hypot(nz, ny)), 1e-6)
                self.face([(x0, ya, za), (x1, ya, za), (x1, yb, zb), (x0, yb, zb)], colour * shade, label)
        if x0 > 0 or x1 < 0:
            x = x0 if x0 > 0 else x1
            self.face([(x, y, z) for z, y in outline], colour * lit, label)

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The picture (H, W, 3) uint8 RGB, label ids (H, W) uint8 and depth (H, W) float32 in metres."""
        size = tuple(side // SUPERSAMPLING for side in self.label.shape[::-1])
        image = cv2.resize(self.image, size, interpolation=cv2.INTER_AREA)
        step = slice(SUPERSAMPLING // 2, None, SUPERSAMPLING)
        return image, self.label[step, step].copy(), self.depth[step, step].copy()
