"""Rich places: plans that are no shoebox, surfaces of real materials, furniture that is no cuboid.

A plan is a rectangle with parts of the building in it, boxes from floor to ceiling, that make an L, a T, a corridor or
two rooms with a doorway of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from base_residual.simulation.draws import draw_box
from base_residual.simulation.materials import CEILINGS, FLOORS, FURNITURE, SOFT_WALLS, WALLS, Air, draw_material
from base_residual.simulation.rooms import Array, Box, Cylinder, Material, Room

Size = tuple[float, float, float]
Solid = Box | Cylinder

FLAT, ROUGH, SOFT = (0.02, 0.25), (0.1, 0.6), (0.3, 0.9)  # scattering of walls, of furniture, of cloth and people
PARTITION = (0.08, 0.3)  # thickness in metres
DOOR = (0.8, 1.3, 2.0, 2.2)  # least and largest width and height of a doorway, in metres


def draw_space(rng: np.random.Generator) -> tuple[Room, Air]:
    """Draw a place: its plan, its surfaces, what stands in it, and its air."""
    plan = PLANS[int(rng.choice(len(PLANS), p=PLAN_SHARES))]
    size, building = plan(rng)
    surfaces = _draw_surfaces(rng, open_above=plan is courtyard)
    wall = surfaces[0]
    fixed = tuple(Box(center, extent, yaw, wall, fixed=True) for center, extent, yaw in building)
    columns = tuple(_columns(rng, size, wall)) if rng.random() < 0.15 else ()
    area = size[0] * size[1]
    count = rng.poisson(min(9.0, 1.5 + 0.12 * area)) if rng.random() < 0.9 else 0
    solids: list[Solid] = []
    for _ in range(count):
        pieces = list(PIECES[int(rng.choice(len(PIECES), p=PIECE_SHARES))](rng, size))
        if not any(_overlap(piece, box) for piece in pieces for box in fixed):
            solids += pieces
        if len(solids) > 24:
            break
    boxes = tuple(solid for solid in solids if isinstance(solid, Box))
    cylinders = tuple(solid for solid in solids if isinstance(solid, Cylinder))
    air = Air(float(rng.uniform(10, 30)), float(rng.uniform(25, 75)))
    return Room(size, surfaces, fixed + boxes, columns + cylinders), air


def _draw_surfaces(
    rng: np.random.Generator, open_above: bool
) -> tuple[Material, Material, Material, Material, Material, Material]:
    """Draw the materials of a place: walls mostly alike, a floor, and a ceiling or the sky."""
    kind = str(rng.choice(SOFT_WALLS if rng.random() < 0.08 else WALLS))
    usual = draw_material(rng, kind, FLAT)
    walls = [usual] * 4
    for _ in range(rng.integers(0, 3)):  # a window front, a curtain
        other = str(rng.choice((*WALLS, *SOFT_WALLS)))
        walls[int(rng.integers(1, 4))] = draw_material(rng, other, SOFT if other in SOFT_WALLS else FLAT)
    floor = draw_material(rng, str(rng.choice(FLOORS)), FLAT)
    above = draw_material(rng, "sky" if open_above else str(rng.choice(CEILINGS)), FLAT)
    return walls[0], walls[1], walls[2], walls[3], floor, above


# Plans: the size of the rectangle, and the boxes of the building in it, as (center, size, yaw).

Parts = list[tuple[Size, Size, float]]


def _height(rng: np.random.Generator) -> float:
    """Draw the height of a ceiling: mostly that of a home or an office."""
    return float(rng.uniform(2.2, 3.2) if rng.random() < 0.7 else rng.uniform(3.0, 6.0))


def _block(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float]) -> tuple[Size, Size, float]:
    """Return a box by its sides."""
    (a, b), (c, d), (e, f) = x, y, z
    return ((a + b) / 2, (c + d) / 2, (e + f) / 2), (b - a, d - c, f - e), 0.0


def shoebox(rng: np.random.Generator) -> tuple[Size, Parts]:
    """Draw a plain rectangle of 2.2 to 8 m."""
    return (float(rng.uniform(2.2, 8)), float(rng.uniform(2.2, 8)), _height(rng)), []


def hall(rng: np.random.Generator) -> tuple[Size, Parts]:
    """Draw a hall of 7 to 30 m."""
    return (float(np.exp(rng.uniform(np.log(7), np.log(30)))), float(rng.uniform(5, 15)), float(rng.uniform(3, 8))), []


def corridor(rng: np.random.Generator) -> tuple[Size, Parts]:
    """Draw a corridor of 1.3 to 2.8 m by 5 to 30 m."""
    return (float(rng.uniform(5, 30)), float(rng.uniform(1.3, 2.8)), float(rng.uniform(2.2, 3.5))), []


def courtyard(rng: np.random.Generator) -> tuple[Size, Parts]:
    """Draw a place between facades, without a ceiling."""
    return (float(rng.uniform(4, 20)), float(rng.uniform(4, 16)), float(rng.uniform(5, 15))), []


def angled(rng: np.random.Generator) -> tuple[Size, Parts]:
    """Draw an L, a T or a U: a rectangle without one or two of its corners."""
    size = (float(rng.uniform(3.5, 10)), float(rng.uniform(3.5, 10)), _height(rng))
    corners = rng.permutation(4)[: rng.integers(1, 3)]
    parts = []
    for corner in corners:
        deep, wide = rng.uniform(0.25, 0.5) * size[0], rng.uniform(0.25, 0.6) * size[1]
        x = (0.0, deep) if corner % 2 else (size[0] - deep, size[0])
        y = (0.0, wide) if corner // 2 else (size[1] - wide, size[1])
        parts.append(_block(x, y, (0.0, size[2])))
    return size, parts


def two_rooms(rng: np.random.Generator) -> tuple[Size, Parts]:
    """Draw two rooms with an open doorway between them."""
    size = (float(rng.uniform(5, 11)), float(rng.uniform(2.5, 7)), _height(rng))
    thick = float(rng.uniform(*PARTITION))
    wide, high = float(rng.uniform(*DOOR[:2])), min(float(rng.uniform(*DOOR[2:])), size[2] - 0.1)
    x = float(rng.uniform(0.3, 0.7)) * size[0]
    y = float(rng.uniform(0.2, size[1] - wide - 0.2))
    across = (x - thick / 2, x + thick / 2)
    return size, [
        _block(across, (0.0, y), (0.0, size[2])),
        _block(across, (y + wide, size[1]), (0.0, size[2])),
        _block(across, (y, y + wide), (high, size[2])),
    ]


PLANS: tuple[Callable[[np.random.Generator], tuple[Size, Parts]], ...] = (
    shoebox, angled, two_rooms, corridor, hall, courtyard
)  # fmt: skip
PLAN_SHARES = (0.5, 0.2, 0.12, 0.08, 0.06, 0.04)


def _columns(rng: np.random.Generator, size: Size, material: Material) -> Iterator[Cylinder]:
    """Draw one to four round columns."""
    radius = float(rng.uniform(0.12, 0.4))
    for _ in range(rng.integers(1, 5)):
        x, y = (float(rng.uniform(0.2, 0.8)) * side for side in size[:2])
        yield Cylinder((x, y, size[2] / 2), radius, size[2], material, fixed=True)


# Furniture: each draws the solids of one piece.


def cabinet(rng: np.random.Generator, size: Size) -> Iterator[Solid]:
    """Draw a cuboid: a cabinet, a chest, a bed, something on a wall."""
    drawn = draw_box(rng, size)
    if drawn is not None:
        yield Box(*drawn, draw_material(rng, str(rng.choice(FURNITURE)), ROUGH))


def tall_cabinet(rng: np.random.Generator, size: Size) -> Iterator[Solid]:
    """Draw a cabinet as high as a person along a wall."""
    high, wide, deep = min(rng.uniform(1.6, 2.4), size[2] - 0.05), rng.uniform(0.6, 2.5), rng.uniform(0.3, 0.7)
    along = int(rng.integers(2))
    if wide > size[along] - 0.2:
        return
    place = float(rng.uniform(wide / 2, size[along] - wide / 2))
    far = deep / 2 + 0.01 if rng.random() < 0.5 else size[1 - along] - deep / 2 - 0.01
    x, y = (place, far) if along == 0 else (far, place)
    extent = (wide, deep, high) if along == 0 else (deep, wide, high)
    material = draw_material(rng, str(rng.choice(FURNITURE)), ROUGH)
    yield Box((x, y, high / 2 + 0.01), tuple(map(float, extent)), 0.0, material)  # type: ignore[arg-type]


def table(rng: np.random.Generator, size: Size) -> Iterator[Solid]:
    """Draw a table: a top on four legs, or a round one on a foot."""
    material = draw_material(rng, str(rng.choice(FURNITURE)), ROUGH)
    high, (x, y) = float(rng.uniform(0.4, 1.0)), _somewhere(rng, size, 0.7)
    if rng.random() < 0.25:
        radius = float(rng.uniform(0.3, 0.65))
        yield Cylinder((x, y, high - 0.02), radius, 0.04, material)
        yield Cylinder((x, y, high / 2), 0.05, high - 0.05, material)
        return
    long, wide, yaw = float(rng.uniform(0.6, 1.8)), float(rng.uniform(0.5, 0.9)), float(rng.uniform(0, np.pi))
    yield Box((x, y, high - 0.02), (long, wide, 0.04), yaw, material)
    for a in (-1, 1):
        for b in (-1, 1):
            u, v = a * (long / 2 - 0.04), b * (wide / 2 - 0.04)
            leg = (x + u * np.cos(yaw) - v * np.sin(yaw), y + u * np.sin(yaw) + v * np.cos(yaw))
            yield Cylinder((float(leg[0]), float(leg[1]), (high - 0.04) / 2), 0.03, high - 0.05, material)


def sofa(rng: np.random.Generator, size: Size) -> Iterator[Solid]:
    """Draw a sofa or an armchair: a seat and its back."""
    material = draw_material(rng, "upholstery", SOFT)
    (x, y), wide, yaw = _somewhere(rng, size, 1.0), float(rng.uniform(0.7, 2.2)), float(rng.choice(4)) * np.pi / 2
    deep, high = 0.8, float(rng.uniform(0.65, 1.0))
    yield Box((x, y, 0.22), (deep, wide, 0.42), yaw, material)
    back = (x - 0.35 * np.cos(yaw), y - 0.35 * np.sin(yaw))
    yield Box((float(back[0]), float(back[1]), 0.43 + (high - 0.43) / 2), (0.15, wide, high - 0.43), yaw, material)


def shelf(rng: np.random.Generator, size: Size) -> Iterator[Solid]:
    """Draw an open shelf: boards, one above the other, and what stands on them."""
    material = draw_material(rng, "wood panel", SOFT)
    x, y = _somewhere(rng, size, 0.6)
    yaw, wide, count = float(rng.choice(4)) * np.pi / 2, float(rng.uniform(0.6, 1.2)), int(rng.integers(3, 6))
    step = min(float(rng.uniform(0.3, 0.45)), (size[2] - 0.1) / count)
    for number in range(count):
        high = 0.03 if rng.random() < 0.5 else 0.7 * step
        yield Box((x, y, number * step + high / 2 + 0.02), (0.3, wide, high), yaw, material)


def person(rng: np.random.Generator, size: Size) -> Iterator[Solid]:
    """Draw somebody who stands or sits."""
    material = draw_material(rng, "people", SOFT)
    (x, y), high = _somewhere(rng, size, 0.3), float(rng.uniform(1.1, 1.9))
    yield Cylinder((x, y, high / 2 - 0.1), float(rng.uniform(0.16, 0.26)), high - 0.24, material)
    yield Cylinder((x, y, high - 0.12), 0.09, 0.22, material)


def bin_or_plant(rng: np.random.Generator, size: Size) -> Iterator[Solid]:
    """Draw a round thing: a bin, a pot, a lamp."""
    material = draw_material(rng, str(rng.choice(FURNITURE)), SOFT)
    (x, y), high = _somewhere(rng, size, 0.3), float(rng.uniform(0.3, 1.7))
    yield Cylinder((x, y, high / 2 + 0.005), float(rng.uniform(0.05, 0.4)), high, material)


PIECES: tuple[Callable[[np.random.Generator, Size], Iterator[Solid]], ...] = (
    cabinet, tall_cabinet, table, sofa, shelf, person, bin_or_plant
)  # fmt: skip
PIECE_SHARES = (0.4, 0.15, 0.15, 0.08, 0.06, 0.08, 0.08)


def _somewhere(rng: np.random.Generator, size: Size, reach: float) -> tuple[float, float]:
    """Draw a place on the floor, `reach` metres from the walls or in the middle of a narrow room."""
    x, y = (float(rng.uniform(min(reach, side / 2), max(side - reach, side / 2))) for side in size[:2])
    return x, y


def _overlap(solid: Solid, box: Box) -> bool:
    """Return whether a piece of furniture may stand within an upright part of the building."""
    if isinstance(solid, Cylinder):
        reach = np.full(2, solid.radius)
    else:
        cos, sin = abs(np.cos(solid.yaw)), abs(np.sin(solid.yaw))
        reach = 0.5 * np.array([[cos, sin], [sin, cos]]) @ np.array(solid.size[:2])
    apart: Array = np.abs(np.array(solid.center[:2]) - np.array(box.center[:2]))
    return bool(np.all(apart < reach + 0.5 * np.array(box.size[:2])))
