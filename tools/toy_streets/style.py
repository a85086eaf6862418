"""The two styles of the toy streets, and everything between and beyond: colours, texture, light, haze, blur, noise.

A style never moves an edge: it determines the colours of the materials and how the camera renders the picture.
"""

from dataclasses import dataclass, fields

import cv2
import numpy as np
from labels.table import LABEL_ID
from toy_streets.canvas import Canvas

Rng = np.random.Generator

# material: colours in the game, colours in the real-ish domain (as many)
MATERIALS: dict[str, tuple[list[str], list[str]]] = {
    'road': (['6a6a70', '74747a', '616168'], ['615f60', '6b6967', '555457']),
    'pavement': (['b9aea2', 'a8a4a4', 'c0b8b0'], ['9c9389', '8d8a89', 'a69d92']),
    'marking': (['f2f2ee'], ['d9d7d1']),
    'rail': (['b4b4ba'], ['9e9c9c']),
    'grass': (['7fae4c', '93b658', '86a648'], ['7a8b44', '8a9556', '758345']),
    'sky': (['3f86d8', 'a9d2f4'], ['86a9ce', 'd0e0e9']),
    'cloud': (['f4f6fa', 'e2e8f0'], ['e4e6e6', 'ccd2d6']),
    'facade': (
        ['c86b4a', 'e0b878', 'd9d2c4', 'b88a6a', '9aa6b4', 'd08a78'],
        ['a46a53', 'c2a97f', 'bbb5aa', '987a63', '889097', 'b08476'],
    ),
    'trim': (['f0e8d8', 'e4e0dc', '7a5a48'], ['cbc5b7', 'bbb8b3', '695448']),
    'glass': (['3a5470'], ['3b4854']),
    'awning': (['d03030', '2f7fc0', '3a9a50', 'e8b030', '7a3f9a'], ['a53a35', '3a6c95', '457c50', 'c09841', '67467a']),
    'wall': (['a6a2b4', 'b8a08c', '9a9a9e'], ['8b8789', '998776', '7d7c7b']),
    'fence': (['f0ece4', '8a5a3a', '4a7a5a', '50545c'], ['cbc6bc', '745440', '4b6754', '494b51']),
    'pole': (['8c9096', '6a7076', '5a6a60'], ['7b7c7c', '5f6163', '535c56']),
    'signal': (['20242a'], ['27292a']),
    'sign': (['dc1e28', '1e5ad2'], ['bc3434', '315aa7']),
    'leaf': (['3c8a34', '56a03c', '2f7440', '7aa83a'], ['426931', '597a38', '365a39', '72833b']),
    'bark': (['6e4a30'], ['5a4636']),
    'car': (
        ['d82a2a', '2a5ad8', 'f0f0f2', '202226', 'f0c020', '9aa0a8', '28a06a'],
        ['a53431', '304f95', 'd2d2d0', '262729', 'c2a136', '8d9095', '397c59'],
    ),
    'truck': (['e8e4dc', 'e08a28', '4a7ac0', 'b03838'], ['cbc6bc', 'b8803e', '54719b', '91433f']),
    'bus': (['e8c428', 'd83c30', '38a0d8'], ['c5aa3e', 'ae4339', '4d8cad']),
    'train': (['f4f0e4', '2f9a4a', 'e04a3a'], ['d6d0bf', '427c4e', 'b05044']),
    'cream': (['f8ecc0'], ['d3c9a6']),
    'cloth': (
        ['e03a3a', '3060d0', 'f0f0f0', '30a060', 'e8b828', '282830', '9a50b0'],
        ['a24340', '3e5b99', 'cbcac6', '417d59', 'b89a41', '2c2c31', '7a5386'],
    ),
    'trousers': (['2a3a66', '202024', '6a6458', '8a7a60'], ['313b55', '252528', '5f5a51', '796e5c']),
    'skin': (['f0c4a0', 'c08a60', '8a5a3c'], ['cdaa8f', 'a2795b', '74513c']),
    'frame': (['d83030', '2a70d0', '20a060', 'e8e8e8', '282828'], ['a33c39', '3a619b', '397c56', 'c2c0be', '2c2c2c']),
    'motorcycle': (['c82828', '2848c0', '30a040', 'e89020'], ['983633', '364990', '407b45', 'b57c33']),
}


@dataclass(frozen=True)
class Style:
    """Parameters of the camera; each image draws its own values around these."""

    saturation: float
    contrast: float
    gamma: float
    red: float
    green: float
    blue: float
    haze: float  # per metre
    air: float  # brightness of the haze
    texture: float
    vignette: float
    blur: float  # pixels at a width of 512
    noise: float  # standard deviation, 0..1


GAME = Style(1.12, 1.08, 0.95, 1.03, 1.0, 0.97, 0.0015, 0.86, 0.35, 0.0, 0.0, 0.006)
REAL = Style(0.88, 0.92, 0.86, 0.98, 1.01, 0.95, 0.0043, 0.87, 0.63, 0.15, 0.34, 0.015)


def style_at(gap: float) -> tuple[Style, dict[str, np.ndarray]]:
    """Style and colours at a distance from the game's: 0 is the game, 1 the real-ish domain, and more extrapolates."""
    mixed = {f.name: (1 - gap) * getattr(GAME, f.name) + gap * getattr(REAL, f.name) for f in fields(Style)}
    floors = {'saturation': 0.05, 'contrast': 0.15, 'red': 0.3, 'blue': 0.3}
    style = Style(**{name: max(value, floors.get(name, 0.0)) for name, value in mixed.items()})
    palette = {}
    for material, (game, real) in MATERIALS.items():
        near, far = (np.array([list(bytes.fromhex(colour)) for colour in colours], float) for colours in (game, real))
        palette[material] = np.clip(near + gap * (far - near), 0, 255)
    return style, palette


def photograph(canvas: Canvas, style: Style, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Render a canvas in a style: RGB (H, W, 3) uint8 and label ids (H, W) uint8."""
    picture, label, depth = canvas.finish()
    image = picture.astype(np.float32) / 255
    image *= 1 + style.texture * _texture(canvas, label, depth, rng)[..., None]
    air = style.air * np.array([0.97, 1.0, 1.03], np.float32) * rng.uniform(0.92, 1.05)
    seen = np.exp(-style.haze * rng.uniform(0.6, 1.4) * np.where(label == LABEL_ID['sky'], 25, depth))[..., None]
    image = image * seen + air * (1 - seen)
    image = _develop(image, style, rng)
    sigma = style.blur * rng.uniform(0.7, 1.3) * image.shape[1] / 512
    if sigma > 0.1:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    image += style.noise * rng.standard_normal(image.shape, np.float32)
    return (image.clip(0, 1) * 255).round().astype(np.uint8), label


def _develop(image: np.ndarray, style: Style, rng: Rng) -> np.ndarray:
    """Saturation, contrast, gamma, colour cast, exposure and vignette."""
    grey = image.mean(axis=2, keepdims=True)
    image = grey + style.saturation * rng.uniform(0.92, 1.08) * (image - grey)
    image = 0.45 + style.contrast * rng.uniform(0.93, 1.07) * (image - 0.45)
    image = image.clip(0, 1) ** np.float32(style.gamma * rng.uniform(0.92, 1.08))
    cast = np.array([style.red, style.green, style.blue]) * rng.uniform(0.97, 1.03, 3) * rng.uniform(0.92, 1.06)
    height, width = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    falloff = 1 - style.vignette * (0.5 * x**2 + 0.35 * y**2)
    return (image * cast * falloff[..., None]).astype(np.float32)


_ROUGHNESS = {
    'road': 0.10,
    'sidewalk': 0.12,
    'building': 0.10,
    'wall': 0.2,
    'vegetation': 0.3,
    'terrain': 0.26,
    'sky': 0.025,
}
_TABLE = np.full(256, 0.06, np.float32)
_TABLE[[LABEL_ID[name] for name in _ROUGHNESS]] = list(_ROUGHNESS.values())


def _texture(canvas: Canvas, label: np.ndarray, depth: np.ndarray, rng: Rng) -> np.ndarray:
    """Relative brightness (H, W) of surfaces: grain in perspective on the ground, blotches elsewhere."""
    tile = _blotches(rng, 256)
    height, width = label.shape
    x = np.arange(width, dtype=np.float32)[None] - width / 2
    across = (x * depth / (canvas.focal * width / canvas.label.shape[1]) * 24) % 256
    along = np.broadcast_to((depth * 9) % 256, label.shape)
    flat = cv2.remap(
        tile, across.astype(np.float32), along.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )
    upright = np.tile(_blotches(rng, 256), (height // 256 + 1, width // 256 + 1))[:height, :width]
    grounded = np.isin(label, [LABEL_ID[name] for name in ('road', 'sidewalk', 'terrain')])
    return np.where(grounded, flat * np.exp(-depth / 45), upright) * _TABLE[label]


def _blotches(rng: Rng, side: int) -> np.ndarray:
    """Noise of several sizes, tileable enough, zero mean and unit deviation."""
    total = np.zeros((side, side), np.float32)
    for size, weight in ((8, 0.5), (32, 0.6), (128, 0.8), (256, 0.8)):
        total += weight * cv2.resize(
            rng.standard_normal((size, size), np.float32), (side, side), interpolation=cv2.INTER_LINEAR
        )
    return (total - total.mean()) / total.std()
