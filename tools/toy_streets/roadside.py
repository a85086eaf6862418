"""Objects along a toy street, painted on a `Canvas`: buildings, walls, fences, trees, bushes, poles, lights, signs."""

import itertools

import numpy as np
from toy_streets.canvas import Canvas

Rng = np.random.Generator


def building(canvas: Canvas, rng: Rng, x: float, z0: float, z1: float) -> None:
    """A house whose facade runs along the street at x from z0 to z1, with rows of windows and sometimes shops."""
    wall, trim = canvas.colour('facade', rng.random()), canvas.colour('trim', rng.random())
    floors, storey, base = rng.integers(2, 7), rng.uniform(2.9, 3.5), rng.uniform(3.2, 4.2)
    top, outer = base + floors * storey, x + np.sign(x) * rng.uniform(8, 14)
    lit = rng.uniform(0.82, 1.0)
    canvas.upright(z0, [(x, 0), (outer, 0), (outer, top), (x, top)], wall * 0.72, 'building')
    for y in np.arange(base, top - storey / 2, storey):  # windows of the gable
        for at in (0.2, 0.5, 0.8):
            canvas.rect(z0, x + at * (outer - x), y + 0.8, 0.5, y + 2.2, canvas.colour('glass') * 0.8, None)
    bays = max(int((z1 - z0) / rng.uniform(2.4, 3.2)), 1)
    edges = np.linspace(z0, z1, bays + 1)
    shop = rng.random() < 0.5
    pane, high = rng.uniform(0.45, 0.65), rng.uniform(1.4, 1.9)
    curtains = rng.random((bays, floors))
    for bay in range(bays - 1, -1, -1):
        a, b = edges[bay], edges[bay + 1]
        canvas.side(x, (a, b), (0, top), wall * lit, 'building')
        margin = (1 - pane) / 2 * (b - a)
        for floor in range(floors):
            y = base + floor * storey + 0.75
            _window(canvas, x, (a + margin, b - margin), (y, y + high), trim, curtains[bay, floor])
        _ground_floor(canvas, rng, x, (a, b), base, shop, trim)
    for y, deep in ((base - 0.1, 0.22), (top - 0.3, 0.35)):  # string course and cornice
        canvas.side(x, (z0, z1), (y, y + deep), trim * 0.9, None)


def _window(canvas: Canvas, x: float, z: tuple, y: tuple, trim: np.ndarray, curtain: float) -> None:
    frame = 0.12
    outer = [
        (x, y[0] - frame, z[0] - frame),
        (x, y[0] - frame, z[1] + frame),
        (x, y[1] + frame, z[1] + frame),
        (x, y[1] + frame, z[0] - frame),
    ]
    canvas.face(outer, trim, None)
    canvas.side(
        x,
        (z[0], z[1]),
        (y[0], y[1]),
        canvas.colour('glass') * (0.7 + 0.6 * curtain),
        None,
    )
    middle = (z[0] + z[1]) / 2
    canvas.side(x, (middle, middle + 0.07), (y[0], y[1]), trim * 0.9, None)


def _ground_floor(canvas: Canvas, rng: Rng, x: float, z: tuple, base: float, shop: bool, trim: np.ndarray) -> None:
    """A shop window with its awning, or a door."""
    a, b = z[0] + 0.3, z[1] - 0.3
    tint, door = rng.random(), rng.random() < 0.4
    if shop:
        canvas.side(
            x,
            (a, b),
            (0.5, base - 0.9),
            canvas.colour('glass') * (0.7 + 0.5 * tint),
            None,
        )
        sign = canvas.colour('awning', tint)
        canvas.side(x, (z[0], z[1]), (base - 0.85, base - 0.3), sign, None)
    elif door:
        canvas.side(x, (a, a + 1.1), (0, 2.3), trim * 0.45, None)
    else:
        canvas.side(x, (a, b), (1.1, 2.4), canvas.colour('glass') * (0.7 + 0.5 * tint), None)


def wall(canvas: Canvas, rng: Rng, x: float, z0: float, z1: float) -> None:
    """A free-standing wall with coping and courses."""
    colour, height = canvas.colour('wall', rng.random()), rng.uniform(1.9, 2.8)
    for a, b in _slices(z0, z1, 2.0):
        canvas.side(x, (a, b), (0, height), colour * 0.95, 'wall')
        for y in np.arange(0.3, height, 0.3):
            canvas.side(x, (a, b), (y, y + 0.04), colour * 0.72, None)
        canvas.side(x, (a, a + 0.06), (0, height), colour * 0.7, None)
        canvas.side(x, (a, b), (height, height + 0.16), colour * 1.2, 'wall')


def fence(canvas: Canvas, rng: Rng, x: float, z0: float, z1: float) -> None:
    """Posts, rails and pickets; the gaps between them are labelled fence, as in Cityscapes."""
    colour, height, gap = canvas.colour('fence', rng.random()), rng.uniform(1.2, 1.9), rng.uniform(0.22, 0.4)
    for a, b in _slices(z0, z1, 2.4):
        canvas.fill(canvas.project([(x, 0, a), (x, 0, b), (x, height, b), (x, height, a)]), None, 'fence', (a + b) / 2)
        for at in np.arange(a, b, gap):
            canvas.side(x, (at, at + 0.1), (0, height), colour, 'fence')
        for y in (0.15, 0.55 * height, height - 0.12):
            canvas.side(x, (a, b), (y, y + 0.1), colour * 0.85, 'fence')
        canvas.side(x, (a, a + 0.2), (0, height + 0.15), colour * 0.8, 'fence')


def _slices(z0: float, z1: float, step: float) -> list[tuple[float, float]]:
    edges = np.linspace(z0, z1, max(int((z1 - z0) / step), 1) + 1)
    return list(itertools.pairwise(edges))[::-1]


def tree(canvas: Canvas, rng: Rng, x: float, z: float, scale: float = 1.0) -> None:
    """A trunk (vegetation too) under a crown of leaf clusters, darker below."""
    leaf, height = canvas.colour('leaf', rng.random()), scale * rng.uniform(5, 8.5)
    canvas.bar(z, (x, 0), (x + rng.uniform(-0.2, 0.2), 0.5 * height), 0.3 * scale, canvas.colour('bark'), 'vegetation')
    _foliage(canvas, rng, z, (x, 0.67 * height), (0.34 * height, 0.32 * height), leaf, 40)


def bush(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A low round shrub."""
    wide, tall = rng.uniform(0.7, 1.6), rng.uniform(0.5, 0.9)
    _foliage(canvas, rng, z, (x, tall * 0.8), (wide, tall), canvas.colour('leaf', rng.random()), 22)


def _foliage(canvas: Canvas, rng: Rng, z: float, centre: tuple, radii: tuple, leaf: np.ndarray, count: int) -> None:
    for index in range(count):
        turn, far = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random()) * 0.8
        dx, dy, size = far * np.cos(turn), far * np.sin(turn), rng.uniform(0.22, 0.4)
        shade = 0.5 + 0.2 * index / count + 0.3 * (dy + 1) / 2 + rng.uniform(0, 0.15)
        at = centre[0] + dx * radii[0], centre[1] + dy * radii[1]
        canvas.disc(z, *at, size * radii[0], size * radii[1], leaf * shade, 'vegetation')


def lamp_post(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A tall post with an arm over the road."""
    colour, height = canvas.colour('pole', rng.random()), rng.uniform(5.5, 8)
    canvas.bar(z, (x, 0), (x, height), 0.19, colour, 'pole')
    canvas.bar(z, (x, height), (x - np.sign(x) * 1.6, height + 0.25), 0.13, colour, 'pole')
    canvas.rect(z, x - np.sign(x) * 1.7, height + 0.12, 0.4, height + 0.34, colour * 1.2, 'pole')


def traffic_light(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A signal head with three lamps on a post, and a second one on an arm over the road half of the time."""
    colour, lit, arm = canvas.colour('pole', rng.random()), rng.integers(3), rng.random() < 0.6
    heads = [(x, 2.5)]
    canvas.bar(z, (x, 0), (x, 5.6 if arm else 3.6), 0.17, colour, 'pole')
    if arm:
        over = x - np.sign(x) * 3.0
        canvas.bar(z, (x, 5.5), (over, 5.5), 0.13, colour, 'pole')
        heads.append((over, 4.7))
    lamps = np.array([[235.0, 40, 30], [250, 180, 40], [50, 220, 120]])
    for hx, hy in heads:
        canvas.rect(z, hx, hy, 0.26, hy + 1.2, canvas.colour('signal'), 'traffic light')
        for index, lamp in enumerate(lamps):
            canvas.disc(
                z, hx, hy + 0.98 - 0.38 * index, 0.14, 0.14, lamp * (1.0 if index == lit else 0.28), 'traffic light'
            )


def traffic_sign(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A round, triangular or square sign on a post."""
    kind, size = rng.integers(4), rng.uniform(0.42, 0.58)
    y, white = rng.uniform(2.2, 2.9), np.array([240.0, 240, 235])
    canvas.bar(z, (x, 0), (x, y), 0.1, canvas.colour('pole', rng.random()), 'pole')
    red, blue = canvas.colour('sign', 0.0), canvas.colour('sign', 0.5)
    if kind == 0:  # a limit
        canvas.disc(z, x, y, size, size, red, 'traffic sign')
        canvas.disc(z, x, y, 0.72 * size, 0.72 * size, white, 'traffic sign')
        canvas.rect(z, x, y - 0.15, 0.16, y + 0.15, white * 0.15, 'traffic sign')
    elif kind == 1:  # a warning
        for share, colour in ((1.0, red), (0.62, white)):
            outline = [
                (x - share * size, y - 0.6 * share * size),
                (x + share * size, y - 0.6 * share * size),
                (x, y + 1.1 * share * size),
            ]
            canvas.upright(z, outline, colour, 'traffic sign')
    elif kind == 2:  # a command
        canvas.disc(z, x, y, size, size, blue, 'traffic sign')
        canvas.bar(z, (x, y - 0.25), (x, y + 0.28), 0.12, white, 'traffic sign')
    else:  # a direction board
        canvas.rect(z, x, y, 1.5 * size, y + 0.8, blue, 'traffic sign')
        canvas.rect(z, x, y + 0.33, 1.1 * size, y + 0.46, white, 'traffic sign')
