"""One toy street, composed at random: ground, sky and both roadsides, then all objects, far to near."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from toy_streets import roadside, traffic
from toy_streets.canvas import Canvas

Rng = np.random.Generator
END = 110.0  # metres; the street is not visible beyond
KERB = 0.14


@dataclass(frozen=True)
class Plan:
    """The cross-section of the street, in metres: edges of the road, of the pavements, and the width of a lane."""

    left: float
    right: float
    walk_left: float
    walk_right: float
    lane: float

    @classmethod
    def draw(cls, rng: Rng) -> 'Plan':
        """A street with the camera in its right-hand lane."""
        lane = rng.uniform(3.1, 3.7)
        right, left = lane / 2 + rng.choice([0.4, 2.3]), -1.5 * lane - rng.choice([0.4, 2.3, 3.6])
        return cls(left, right, left - rng.uniform(2.4, 4.2), right + rng.uniform(2.4, 4.2), lane)


def paint_street(size: tuple[int, int], palette: dict[str, np.ndarray], rng: Rng) -> Canvas:
    """Compose and paint one street; only `palette` depends on the style."""
    canvas = Canvas(size, palette, horizon=rng.uniform(0.40, 0.47), eye=rng.uniform(1.5, 1.85))
    plan = Plan.draw(rng)
    _sky(canvas, rng)
    _skyline(canvas, rng)
    _ground(canvas, rng, plan)
    for side, x in ((-1, plan.walk_left), (1, plan.walk_right)):
        _roadside(canvas, rng, side, x)
    _road_shadows(canvas, rng, plan)
    things: list[tuple[float, Callable[[], None]]] = []
    for place in (_furniture, _vehicles, _people):
        things += place(canvas, rng, plan)
    for _, paint in sorted(things, key=lambda thing: -thing[0]):
        paint()
    return canvas


def _sky(canvas: Canvas, rng: Rng) -> None:
    _height, width = canvas.label.shape
    share = np.linspace(0, 1, int(canvas.horizon) + 2)[:, None]
    zenith, low = canvas.colour('sky', 0.0), canvas.colour('sky', 0.5)
    rows = (zenith * (1 - share) + low * share)[:, None]
    canvas.image[: len(rows)] = np.broadcast_to(rows, (len(rows), width, 3))
    canvas.fill(np.array([(0, 0), (width, 0), (width, canvas.horizon + 1), (0, canvas.horizon + 1)]), None, 'sky', 200)
    for _ in range(rng.integers(0, 5)):  # clouds
        x, y, wide = rng.uniform(0, width), rng.uniform(0, 0.8 * canvas.horizon), rng.uniform(0.06, 0.16) * width
        for _ in range(9):
            turn = np.linspace(0, 2 * np.pi, 20)
            at = np.array([x + rng.uniform(-1, 1) * wide, y + rng.uniform(-0.15, 0.15) * wide])
            puff = np.stack([np.cos(turn), 0.35 * np.sin(turn)], 1) * wide * rng.uniform(0.2, 0.5) + at
            puff[:, 1] = np.minimum(puff[:, 1], canvas.horizon)
            canvas.fill(puff, canvas.colour('cloud', rng.random()), None, None)


def _skyline(canvas: Canvas, rng: Rng) -> None:
    """Houses and trees far away, on the horizon."""
    for x in np.arange(-130, 130, 13.0):
        if rng.random() < 0.55:
            height = rng.uniform(7, 24)
            canvas.rect(150, x, 0, rng.uniform(6, 10), height, canvas.colour('facade', rng.random()) * 0.75, 'building')
        else:
            roadside.bush(canvas, rng, x, 30.0) if rng.random() < 0.2 else roadside.tree(canvas, rng, x, 130.0, 1.6)


def _ground(canvas: Canvas, rng: Rng, plan: Plan) -> None:
    height, width = canvas.label.shape
    below = np.array([(0, canvas.horizon), (width, canvas.horizon), (width, height), (0, height)])
    canvas.fill(below, canvas.colour('grass', rng.random()), 'terrain', None)
    canvas.ground(plan.left, plan.right, 1, END * 4, canvas.colour('road', rng.random()), 'road')
    stone = canvas.colour('pavement', rng.random())
    for inner, outer in ((plan.left, plan.walk_left), (plan.right, plan.walk_right)):
        low, high = sorted((inner, outer))
        canvas.ground(low, high, 1, END * 4, stone, 'sidewalk')
        canvas.ground(low, high, 1, END * 4, stone, 'sidewalk', y=KERB)
        canvas.side(inner, (1, 200), (0, KERB), stone * 0.6, None)
        for z in np.arange(2, 40, 1.5):
            canvas.ground(low, high, z, z + 0.06, stone * 0.82, None, y=KERB)
        middle = (inner + outer) / 2
        canvas.ground(middle - 0.03, middle + 0.03, 1, 60, stone * 0.85, None, y=KERB)
    _markings(canvas, rng, plan)


def _markings(canvas: Canvas, rng: Rng, plan: Plan) -> None:
    white, phase = canvas.colour('marking'), rng.uniform(0, 6)
    for edge in (plan.left + 0.3, plan.right - 0.3):
        canvas.ground(edge - 0.06, edge + 0.06, 1, END, white * 0.9, None)
    for z in np.arange(phase, END, 6.0):
        canvas.ground(-plan.lane / 2 - 0.07, -plan.lane / 2 + 0.07, max(z, 1), max(z + 3, 1), white, None)
    if rng.random() < 0.3:  # a zebra crossing
        z = rng.uniform(8, 22)
        for x in np.arange(plan.left + 0.6, plan.right - 0.8, 1.0):
            canvas.ground(x, x + 0.5, z, z + 3, white, None)
    for _ in range(rng.integers(0, 4)):  # patches and drains
        x, z = rng.uniform(plan.left + 0.5, plan.right - 1.2), rng.uniform(4, 30)
        canvas.shadow([(x, 0, z), (x + 0.8, 0, z), (x + 0.8, 0, z + 1.4), (x, 0, z + 1.4)], 0.18)


def _roadside(canvas: Canvas, rng: Rng, side: int, x: float) -> None:
    """Segments of building, park, wall and fence along one side, painted far to near."""
    segments, z, park = [], rng.uniform(-6, 2), rng.random() < 0.3
    while z < END:
        length = rng.uniform(9, 18)
        segments.append((z, z + length, rng.choice(['park', 'building'], p=[0.65, 0.35] if park else [0.35, 0.65])))
        z += length
    for z0, z1, kind in segments[::-1]:
        if kind == 'building':
            roadside.building(canvas, rng, x + side * rng.uniform(0, 0.4), max(z0, 1.2), max(z1, 1.5))
        else:
            _park(canvas, rng, side, x, max(z0, 1.2), max(z1, 1.5))


def _park(canvas: Canvas, rng: Rng, side: int, x: float, z0: float, z1: float) -> None:
    """Grass with trees and bushes, behind a wall, a fence or nothing."""
    low, high = sorted((x, x + side * 30))
    canvas.ground(low, high, z0, z1, canvas.colour('grass', rng.random()), 'terrain')
    for z in np.sort(rng.uniform(z0, z1, rng.integers(2, 5)))[::-1]:
        plant = roadside.tree if rng.random() < 0.6 else roadside.bush
        plant(canvas, rng, x + side * rng.uniform(1.8, 9), max(z, 5.0))
    border = rng.choice([None, 'wall', 'fence'], p=[0.3, 0.32, 0.38])
    if border is not None:
        getattr(roadside, border)(canvas, rng, x + side * 0.1, z0, z1)


def _road_shadows(canvas: Canvas, rng: Rng, plan: Plan) -> None:
    """The roadside's shadow on the ground, from one side."""
    strength, reach = rng.uniform(0, 0.35), rng.uniform(1.0, 5.0)
    edge, ahead = (plan.walk_left, 1) if rng.random() < 0.5 else (plan.walk_right, -1)
    z = 1.0
    while z < 80:
        long, gap = rng.uniform(5, 16), rng.uniform(0, 6)
        tip = edge + ahead * (reach + rng.uniform(0, 1.5))
        canvas.shadow([(edge, 0.05, z), (tip, 0.05, z), (tip, 0.05, z + long), (edge, 0.05, z + long)], strength)
        z += long + gap


def _furniture(canvas: Canvas, rng: Rng, plan: Plan) -> list[tuple[float, Callable[[], None]]]:
    """Lamp posts, lights, signs and street trees beside the kerb."""
    things = []
    kinds = [roadside.lamp_post, roadside.traffic_light, roadside.traffic_sign, roadside.tree, roadside.bush]
    for x in (plan.left - 0.5, plan.right + 0.5):
        z = rng.uniform(6, 12)
        while z < 75:
            kind = kinds[rng.choice(5, p=[0.27, 0.22, 0.27, 0.14, 0.1])]
            at = x + np.sign(x) * (1.0 if kind is roadside.bush else 0)
            things.append((z, lambda kind=kind, at=at, z=z: kind(canvas, rng, at, z)))
            z += rng.uniform(4, 11)
    return things


def _vehicles(canvas: Canvas, rng: Rng, plan: Plan) -> list[tuple[float, Callable[[], None]]]:
    """Parked cars where there is room, and traffic in three lanes: ours, the oncoming one, and trams in between."""
    things = []

    def lane(x: float, z: float, kinds: list, shares: list[float], gap: tuple[float, float]) -> None:
        while z < 80:
            kind = kinds[rng.choice(len(kinds), p=shares)]
            at = x + rng.uniform(-0.25, 0.25)
            things.append((z, lambda kind=kind, at=at, z=z: kind(canvas, rng, at, z)))
            long = {traffic.train: 24, traffic.bus: 12, traffic.truck: 8}.get(kind, 5)
            z += long + rng.uniform(*gap)

    mixed = [traffic.car, traffic.truck, traffic.bus, traffic.train, traffic.motorcycle, traffic.bicycle]
    lane(0.0, rng.uniform(11, 26), mixed, [0.32, 0.2, 0.16, 0.1, 0.12, 0.1], (5, 22))
    lane(-plan.lane, rng.uniform(7, 22), mixed, [0.26, 0.18, 0.18, 0.2, 0.1, 0.08], (4, 20))
    if plan.right - plan.lane / 2 > 2:
        lane(plan.right - 1.1, rng.uniform(5, 10), mixed[:2], [0.9, 0.1], (0.8, 9))
    if -plan.left - 1.5 * plan.lane > 2:
        lane(plan.left + 1.1, rng.uniform(5, 10), mixed[:2], [0.9, 0.1], (0.8, 9))
    else:
        lane(plan.left + 0.7, rng.uniform(6, 30), mixed[4:], [0.4, 0.6], (8, 40))
    return things


def _people(canvas: Canvas, rng: Rng, plan: Plan) -> list[tuple[float, Callable[[], None]]]:
    """Pedestrians on both pavements, parked two-wheelers, sometimes somebody crossing the road."""
    things = []
    for inner, outer in ((plan.left, plan.walk_left), (plan.right, plan.walk_right)):
        low, high = sorted((inner + np.sign(inner) * 0.7, outer - np.sign(inner) * 0.4))
        for _ in range(rng.integers(1, 7)):
            x, z = rng.uniform(low, high), rng.uniform(5.5, 45)
            things.append((z, lambda x=x, z=z: traffic.person(canvas, rng, x, z, KERB)))
        if rng.random() < 0.4:
            x, z, kind = (
                rng.uniform(low, high),
                rng.uniform(6, 20),
                (traffic.bicycle, traffic.motorcycle)[rng.integers(2)],
            )
            things.append((z, lambda x=x, z=z, kind=kind: kind(canvas, rng, x, z, ridden=False)))
    if rng.random() < 0.3:
        x, z = rng.uniform(plan.left, plan.right), rng.uniform(9, 25)
        things.append((z, lambda: traffic.person(canvas, rng, x, z)))
    return things
