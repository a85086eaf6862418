"""Traffic in a toy street, painted on a `Canvas`: cars, trucks, buses, trams, two-wheelers and people.

Every function paints one object that stands on the ground around x with its near end at distance z. `rng` determines
everything except the domain of the colours, so the same state of `rng` results in the same shapes in every style.
"""

import numpy as np
from toy_streets.canvas import Canvas

Rng = np.random.Generator
BLACK = np.array([22.0, 22.0, 24.0])
RED_LAMP, WHITE_LAMP = np.array([190.0, 25.0, 20.0]), np.array([245.0, 240.0, 215.0])


def _inner(x: float, half: float) -> tuple[float, float, float]:
    """Both sides of a vehicle and the one that the camera sees."""
    left, right = x - half, x + half
    return left, right, left if x > 0 else right


def _contact(canvas: Canvas, left: float, right: float, z: float, length: float) -> None:
    """The dark patch under a vehicle."""
    far = z + length
    canvas.shadow([(left - 0.15, 0, z - 0.25), (right + 0.15, 0, z - 0.25), (right, 0, far), (left, 0, far)], 0.6)


def _lamps(canvas: Canvas, label: str, z: float, x: float, half: float, y: float, oncoming: bool) -> None:
    colour = WHITE_LAMP if oncoming else RED_LAMP
    for side in (-1, 1):
        canvas.rect(z, x + side * (half - 0.2), y, 0.15, y + 0.16, colour, label)
    canvas.rect(z, x, y - 0.25, 0.26, y - 0.13, np.array([225.0, 225.0, 215.0]), label)  # plate


def car(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A saloon, hatchback or van: body, cabin, windows, wheels, lamps."""
    paint, kind = rng.random(), rng.integers(3)
    half, length, roof = rng.uniform(0.82, 0.95), rng.uniform(3.9, 4.8), rng.uniform(1.4, 1.55) + 0.3 * (kind == 2)
    body, waist = canvas.colour('car', paint), 0.9 + 0.15 * (kind == 2)
    left, right, side = _inner(x, half)
    _contact(canvas, left, right, z, length)
    hull = [(z, 0.28), (z + length, 0.28), (z + length, 0.72), (z + 0.8 * length, waist), (z + 0.05, waist)]
    canvas.prism(hull, left, right, body, 'car')
    start, end = z + (0.06, 0.02, 0.04)[kind] * length, z + (0.78, 0.7, 0.82)[kind] * length
    rear = start + (0.16, 0.07, 0.04)[kind] * length
    cabin = [(start, waist), (end, waist), (end - 0.18 * length, roof), (rear, roof)]
    canvas.prism(cabin, left + 0.1, right - 0.1, body, 'car')
    _car_windows(canvas, side + 0.1 * np.sign(x), cabin, 0.06 * length)
    sill, rim = (waist + 0.05, start + 0.02), (roof - 0.08, rear - 0.02)
    pane = [(left + 0.2, *sill), (right - 0.2, *sill), (right - 0.27, *rim), (left + 0.27, *rim)]
    canvas.face(pane, canvas.colour('glass'), 'car')
    for at in (0.18, 0.8):
        canvas.wheel(side, z + at * length, 0.33, BLACK, 'car')
    for wheel in (left + 0.14, right - 0.14):
        canvas.rect(z, wheel, 0, 0.12, 0.32, BLACK, 'car')
    canvas.rect(z, x, 0.3, half - 0.04, 0.42, body * 0.5, 'car')  # bumper
    _lamps(canvas, 'car', z, x, half, 0.68, x < -0.5)


def _car_windows(canvas: Canvas, x: float, cabin: list[tuple[float, float]], lean: float) -> None:
    """Two side windows in the flank of a cabin, leaning with its ends."""
    (start, low), (end, _), (_, roof), _ = cabin
    top = low + 0.86 * (roof - low)
    for a, b in ((0.22, 0.5), (0.54, 0.78)):
        z0, z1 = start + a * (end - start), start + b * (end - start)
        pane = [(x, low, z0 - lean / 2), (x, low, z1 + lean / 2), (x, top, z1), (x, top, z0 + lean / 2)]
        canvas.face(pane, canvas.colour('glass') * 0.9, 'car')


def truck(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A lorry: a tall plain box, a cab ahead of it (or nearer, when it comes towards us)."""
    oncoming = x < -0.5
    half, length, top = rng.uniform(1.15, 1.3), rng.uniform(6, 8), rng.uniform(3.0, 3.7)
    box, cab = canvas.colour('truck', rng.random()), canvas.colour('car', rng.random())
    left, right, side = _inner(x, half)
    _contact(canvas, left, right, z, length)
    cab_z, box_z = (z, z + 2.1) if oncoming else (z + length - 2.0, z)
    parts = [(cab_z, 2.0, 0.4, top * 0.82, cab), (box_z, length - 2.2, 0.85, top, box)]
    for start, long, low, high, colour in sorted(parts, key=lambda part: -part[0]):
        outline = [(start, low), (start + long, low), (start + long, high), (start, high)]
        canvas.prism(outline, left, right, colour, 'truck', lit=0.88)
    for at in np.linspace(box_z + 0.8, box_z + length - 3.0, 5):  # ribs of the box
        canvas.side(side, (at, at + 0.07), (0.9, top), box * 0.7, 'truck')
    if oncoming:
        canvas.rect(z, x, 1.45, half - 0.15, top * 0.82 - 0.25, canvas.colour('glass'), 'truck')
        canvas.rect(z, x, 0.75, half - 0.5, 1.2, cab * 0.45, 'truck')
    else:
        canvas.rect(z, x, 0.85, 0.03, top, box * 0.5, 'truck')  # the doors' gap
        canvas.rect(z, x, 0.55, half, 0.85, BLACK * 1.6, 'truck')
    for at in (0.12, 0.28, 0.82):
        canvas.wheel(side, z + at * length, 0.48, BLACK, 'truck')
    for wheel in (left + 0.22, right - 0.22):
        canvas.rect(z, wheel, 0, 0.2, 0.6, BLACK, 'truck')
    _lamps(canvas, 'truck', z, x, half, 0.68, oncoming)


def _coach(canvas: Canvas, label: str, x: float, z: float, size: tuple[float, float, float], paint: np.ndarray) -> None:
    """The box, window bands and pillars that buses and trams share; size is half width, length, height."""
    half, length, top = size
    left, right, side = _inner(x, half)
    _contact(canvas, left, right, z, length)
    outline = [(z, 0.3), (z + length, 0.3), (z + length, top), (z + 0.15, top), (z, top - 0.3)]
    canvas.prism(outline, left, right, paint, label, lit=0.92)
    glass, low, high = canvas.colour('glass'), 1.25, top - 0.65
    pane = 1.35
    for start in np.arange(z + 0.35, z + length - pane, pane + 0.16)[::-1]:
        canvas.side(
            side,
            (start, start + pane),
            (low, high),
            glass * 0.95,
            label,
        )
    canvas.rect(z, x, low, half - 0.18, high + 0.1, glass, label)


def bus(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A city bus: one colour, a band of windows, a destination board, wheels."""
    half, length, top = 1.27, rng.uniform(9, 12), rng.uniform(2.95, 3.2)
    paint = canvas.colour('bus', rng.random())
    _coach(canvas, 'bus', x, z, (half, length, top), paint)
    canvas.rect(z, x, top - 0.5, half * 0.7, top - 0.22, BLACK, 'bus')
    canvas.rect(z, x, top - 0.43, half * 0.5, top - 0.29, np.array([240.0, 170.0, 40.0]), 'bus')
    for at in (0.2, 0.75):
        canvas.wheel(_inner(x, half)[2], z + at * length, 0.48, BLACK, 'bus')
    for wheel in (x - half + 0.22, x + half - 0.22):
        canvas.rect(z, wheel, 0, 0.18, 0.5, BLACK, 'bus')
    _lamps(canvas, 'bus', z, x, half, 0.62, x < -0.5)


def train(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A tram: long, two colours, a skirt over the wheels, a pantograph; its rails are painted on the road."""
    half, length, top = 1.25, rng.uniform(16, 24), rng.uniform(3.4, 3.7)
    paint = canvas.colour('train', rng.random())
    for rail in (x - 0.72, x + 0.72):
        canvas.ground(rail - 0.05, rail + 0.05, 2, 90, canvas.colour('rail'), None)
    _coach(canvas, 'train', x, z, (half, length, top), paint)
    side = _inner(x, half)[2]
    cream = canvas.colour('cream')
    canvas.side(
        side,
        (z + 0.2, z + length),
        (top - 0.55, top - 0.1),
        cream * 0.9,
        'train',
    )
    canvas.side(side, (z, z + length), (0.12, 0.5), BLACK * 2, 'train')
    canvas.rect(z, x, 0.12, half * 0.9, 0.5, BLACK * 2, 'train')
    canvas.rect(z, x, top - 0.45, half * 0.6, top - 0.15, BLACK, 'train')
    canvas.disc(z, x, 0.85, 0.17, 0.17, WHITE_LAMP, 'train')
    mast = z + 0.4 * length
    canvas.bar(mast, (x - 0.5, top), (x, top + 0.7), 0.08, BLACK * 2, 'train')
    canvas.bar(mast, (x + 0.5, top), (x, top + 0.7), 0.08, BLACK * 2, 'train')


def _body(canvas: Canvas, rng: Rng, x: float, z: float, y: float, height: float, label: str) -> None:
    """Trunk, arms and head of somebody whose hips are at y."""
    shirt, skin = canvas.colour('cloth', rng.random()), canvas.colour('skin', rng.random())
    shoulder, wide = y + 0.37 * height, 0.125 * height
    canvas.upright(
        z, [(x - 0.7 * wide, y), (x + 0.7 * wide, y), (x + wide, shoulder), (x - wide, shoulder)], shirt, label
    )
    for side in (-1, 1):
        swing = rng.uniform(-0.05, 0.12)
        canvas.bar(
            z, (x + side * wide, shoulder - 0.03), (x + side * (wide + swing), y + 0.02), 0.1, shirt * 0.8, label
        )
    canvas.disc(z, x, shoulder + 0.1 * height, 0.062 * height, 0.08 * height, skin, label)
    canvas.disc(z, x, shoulder + 0.135 * height, 0.06 * height, 0.05 * height, BLACK + 60 * rng.random(), label)


def person(canvas: Canvas, rng: Rng, x: float, z: float, y: float = 0.0) -> None:
    """Somebody walking; y is the height of the pavement."""
    height, stride = rng.uniform(1.55, 1.9), rng.uniform(0.05, 0.28)
    trousers, hips = canvas.colour('trousers', rng.random()), y + 0.48 * height
    for foot in (-stride, stride):
        canvas.bar(
            z, (x + 0.25 * foot, hips + 0.05), (x + foot, y), 0.17, trousers * (0.85 + 0.15 * (foot > 0)), 'person'
        )
    _body(canvas, rng, x, z, hips, height, 'person')


def _ring(canvas: Canvas, z: float, x: float, radius: float, squeeze: float, width: float, label: str) -> None:
    """A wheel seen at an angle: the whole disc carries the label, the tyre and some spokes are painted."""
    canvas.disc(z, x, radius, radius * squeeze, radius, BLACK, label)
    canvas.disc(z, x, radius, (radius - width) * squeeze, radius - width, canvas.colour('rail', 0, 0.85), label)
    for turn in np.arange(3) * np.pi / 3:
        dx, dy = (radius - width) * np.cos(turn) * squeeze, (radius - width) * np.sin(turn)
        canvas.bar(z, (x - dx, radius - dy), (x + dx, radius + dy), 0.02, BLACK * 2, label)


def bicycle(canvas: Canvas, rng: Rng, x: float, z: float, ridden: bool = True) -> None:
    """A bicycle seen from the side, or at an angle, with or without its rider."""
    squeeze, turned, frame = rng.uniform(0.6, 1.0), rng.choice([-1, 1]), canvas.colour('frame', rng.random())
    reach, radius = 0.52 * squeeze, 0.35
    canvas.shadow(
        [
            (x - reach - 0.3, 0, z - 0.1),
            (x + reach + 0.3, 0, z - 0.1),
            (x + reach, 0, z + 0.4),
            (x - reach, 0, z + 0.4),
        ],
        0.4,
    )
    for wheel in (-reach, reach):
        _ring(canvas, z, x + wheel, radius, squeeze, 0.07, 'bicycle')
    saddle, bars, pedal = (x - turned * 0.4 * reach, 0.92), (x + turned * 0.75 * reach, 1.05), (x, 0.3)
    rear, front = (x - turned * reach, radius), (x + turned * reach, radius)
    for a, b in (
        (rear, pedal),
        (rear, saddle),
        (pedal, saddle),
        (pedal, (bars[0], 0.85)),
        (saddle, (bars[0], 0.85)),
        (front, bars),
    ):
        canvas.bar(z, a, b, 0.06, frame, 'bicycle')
    if ridden:
        _rider(canvas, rng, z, saddle, bars, pedal)


def motorcycle(canvas: Canvas, rng: Rng, x: float, z: float, ridden: bool = True) -> None:
    """A motorcycle: fat wheels, a tank, a seat, a lamp, with or without its rider."""
    squeeze, turned, paint = rng.uniform(0.6, 1.0), rng.choice([-1, 1]), canvas.colour('motorcycle', rng.random())
    reach = 0.72 * squeeze
    canvas.shadow(
        [
            (x - reach - 0.3, 0, z - 0.1),
            (x + reach + 0.3, 0, z - 0.1),
            (x + reach, 0, z + 0.5),
            (x - reach, 0, z + 0.5),
        ],
        0.5,
    )
    for wheel in (-reach, reach):
        _ring(canvas, z, x + wheel, 0.32, squeeze, 0.14, 'motorcycle')
    outline = [
        (-1.0, 0.7),
        (-0.55, 0.35),
        (0.45, 0.3),
        (0.85, 0.75),
        (0.7, 1.05),
        (0.15, 1.0),
        (-0.2, 0.8),
        (-1.15, 0.9),
    ]
    canvas.upright(z, [(x + turned * dx * reach, y) for dx, y in outline], paint, 'motorcycle')
    engine = [(-0.45, 0.25), (0.4, 0.25), (0.45, 0.6), (-0.45, 0.55)]
    canvas.upright(z, [(x + turned * dx * reach, y) for dx, y in engine], BLACK * 2, 'motorcycle')
    saddle, bars, pedal = (x - turned * 0.4 * reach, 0.82), (x + turned * 0.65 * reach, 1.15), (x + turned * 0.1, 0.4)
    canvas.bar(z, saddle, (x - turned * 1.0 * reach, 0.92), 0.14, BLACK, 'motorcycle')
    canvas.bar(z, (x + turned * 0.95 * reach, 0.35), bars, 0.09, BLACK * 3, 'motorcycle')
    canvas.disc(z, x + turned * 0.88 * reach, 0.95, 0.09, 0.1, WHITE_LAMP, 'motorcycle')
    if ridden:
        _rider(canvas, rng, z, saddle, bars, pedal)


def _rider(canvas: Canvas, rng: Rng, z: float, saddle: tuple, bars: tuple, pedal: tuple) -> None:
    """Somebody sitting on the saddle, hands on the bars, in a helmet."""
    cloth, trousers = canvas.colour('cloth', rng.random()), canvas.colour('trousers', rng.random())
    ahead = np.sign(bars[0] - saddle[0])
    hips, shoulder = (saddle[0], saddle[1] + 0.08), (saddle[0] + ahead * 0.18, saddle[1] + 0.62)
    knee = (saddle[0] + ahead * 0.32, 0.5 * (saddle[1] + pedal[1]) + 0.2)
    canvas.bar(z, hips, knee, 0.18, trousers, 'rider')
    canvas.bar(z, knee, pedal, 0.15, trousers * 0.85, 'rider')
    canvas.bar(z, hips, shoulder, 0.34, cloth, 'rider')
    canvas.bar(z, (shoulder[0], shoulder[1] - 0.06), bars, 0.11, cloth * 0.8, 'rider')
    head = (shoulder[0] + ahead * 0.06, shoulder[1] + 0.2)
    canvas.disc(z, *head, 0.12, 0.15, canvas.colour('skin', rng.random()), 'rider')
    canvas.disc(z, head[0], head[1] + 0.06, 0.135, 0.11, canvas.colour('frame', rng.random()), 'rider')
