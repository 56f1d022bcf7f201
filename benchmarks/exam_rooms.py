"""Rooms of the exam: plans that are polygons, furniture that is boxes, their surfaces' materials, and their depth.

Nothing here comes from the package's simulator, so that a model trained on its rooms meets another program's.
Coordinates are metres, z points up, and a heading is an angle from the x axis towards the y axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SIDE = 64  # pixels of a depth map
FIELD_OF_VIEW = 90.0  # degrees, both ways
MAX_DEPTH = 12.0  # metres
CLEARANCE = 0.5  # metres between the head and any surface
BANDS = 125.0 * 2.0 ** np.arange(8)  # Hz, the octave bands in which sound is reflected
TRIES = 100

# Names in pyroomacoustics' table of materials, by what is made of them.
WALLS = (
    "hard_surface",
    "brickwork",
    "rough_concrete",
    "smooth_brickwork_10mm_pointing",
    "brick_wall_rough",
    "plasterboard",
    "gypsum_board",
    "wooden_lining",
)
WALL_PARTS = ("glass_window", "glass_3mm", "wooden_door", "curtains_cotton_0.5", "plywood_thin", "blinds_half_open")
FLOORS = (
    "linoleum_on_concrete",
    "concrete_floor",
    "carpet_thin",
    "carpet_cotton",
    "carpet_tufted_9.5mm",
    "wood_1.6cm",
    "stage_floor",
)
CEILINGS = (
    "hard_surface",
    "ceiling_plasterboard",
    "rough_concrete",
    "ceiling_fissured_tile",
    "ceiling_perforated_gypsum_board",
    "plasterboard",
)
FURNITURE = ("wood_16mm", "plywood_thin", "chairs_medium_upholstered", "chairs_wooden", "wooden_door", "felt_5mm")


@dataclass(frozen=True)
class Surface:
    """A material: the shares of energy that it absorbs and scatters, (8,) each, by octave band."""

    absorption: Array
    scattering: Array


@dataclass(frozen=True)
class Box:
    """A cuboid on the floor; a column if it reaches the ceiling.

    Attributes:
        center: (2,) on the floor.
        size: length, width and height.
        turn: of its length against the x axis, in radians.
        surface: its material.
    """

    center: Array
    size: tuple[float, float, float]
    turn: float
    surface: Surface

    def axes(self) -> Array:
        """Return the horizontal directions of length and width, (2, 2)."""
        return np.array([[np.cos(self.turn), np.sin(self.turn)], [-np.sin(self.turn), np.cos(self.turn)]])

    def corners(self) -> Array:
        """Return the outline on the floor, counter-clockwise, (4, 2)."""
        signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        return self.center + signs * np.array(self.size[:2]) / 2 @ self.axes()


@dataclass(frozen=True)
class Room:
    """A polygon with a height, and boxes in it.

    Attributes:
        corners: the plan, counter-clockwise, (N, 2).
        height: of the ceiling.
        walls: the material of each wall, from each corner to the next.
        floor: its material.
        ceiling: its material.
        boxes: the furniture and the columns.
    """

    corners: Array
    height: float
    walls: tuple[Surface, ...]
    floor: Surface
    ceiling: Surface
    boxes: tuple[Box, ...] = ()

    def faces(self) -> list[tuple[Array, Surface, bool]]:
        """Return each face: its corners (M, 3), counter-clockwise seen from within the solid; material; in the way.

        A face is in the way if a straight line between two points of the room may cross it.
        """
        floor, ceiling = (np.column_stack([self.corners, np.full(len(self.corners), z)]) for z in (0.0, self.height))
        found = [(floor[::-1], self.floor, False), (ceiling, self.ceiling, False)]
        for start, end, surface in zip(self.corners, np.roll(self.corners, -1, axis=0), self.walls, strict=True):
            inside = _cross(end - start, self.corners - start) > -1e-6
            found.append((upright(start, end, self.height), surface, not bool(inside.all())))
        for box in self.boxes:
            outline, height = box.corners(), box.size[2]
            for start, end in zip(outline, np.roll(outline, -1, axis=0), strict=True):
                found.append((upright(end, start, height), box.surface, True))
            if height < self.height:
                found.append((np.column_stack([outline, np.full(4, height)])[::-1], box.surface, True))
        return found


@dataclass(frozen=True)
class Pose:
    """A head's centre (3,) and its heading in radians."""

    position: Array
    heading: float

    def axes(self) -> Array:
        """Return ahead, left and up as rows, (3, 3)."""
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])


def upright(start: Array, end: Array, height: float) -> Array:
    """Return a wall's corners (4, 3), counter-clockwise seen from the right of the way from start to end."""
    return np.array([[*start, 0], [*end, 0], [*end, height], [*start, height]])


def _cross(a: Array, b: Array) -> Array:
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])


def draw_room(rng: np.random.Generator, plans: tuple[str, ...], max_boxes: int, database: bool = True) -> Room:
    """Draw a room.

    Args:
        rng: decides everything.
        plans: kinds of plans, of which one is drawn.
        max_boxes: most pieces of furniture.
        database: whether surfaces come from pyroomacoustics' table; else their absorption is drawn, too.
    """
    corners = draw_plan(rng, str(rng.choice(plans)))
    height = float(rng.uniform(2.2, 4.0))
    of = _from_table if database else _drawn
    common = of(rng, WALLS)
    walls = tuple(of(rng, WALL_PARTS) if rng.random() < 0.3 else common for _ in corners)
    room = Room(corners, height, walls, of(rng, FLOORS), of(rng, CEILINGS))
    boxes: list[Box] = []
    wanted = rng.integers(0, max_boxes + 1)
    for _ in range(TRIES):
        if len(boxes) == wanted:
            break
        box = _draw_box(rng, height, corners, of(rng, FURNITURE, rougher=2.0))
        reach = np.hypot(*box.size[:2]) / 2
        apart = all(np.hypot(*(box.center - o.center)) > reach + np.hypot(*o.size[:2]) / 2 + 0.05 for o in boxes)
        if apart and inside(corners, box.corners()).all() and wall_gap(corners, box.corners()).min() > 0.02:
            boxes.append(box)
    return Room(room.corners, height, walls, room.floor, room.ceiling, tuple(boxes))


def draw_plan(rng: np.random.Generator, kind: str) -> Array:
    """Draw the corners of a plan, counter-clockwise: box, L, T, trapezoid or corridor."""
    width, depth = rng.uniform(2.6, 8.0, 2)
    if kind == "box":
        return np.array([[0, 0], [width, 0], [width, depth], [0, depth]])
    if kind == "L":
        width, depth = rng.uniform(4.0, 9.0, 2)
        x, y = width * rng.uniform(0.35, 0.7), depth * rng.uniform(0.35, 0.7)
        return np.array([[0, 0], [width, 0], [width, y], [x, y], [x, depth], [0, depth]])
    if kind == "T":
        width, depth = rng.uniform(5.0, 10.0), rng.uniform(4.5, 9.0)
        y, start = depth * (1 - rng.uniform(0.3, 0.55)), width * rng.uniform(0.15, 0.4)
        end = start + width * rng.uniform(0.3, 0.45)
        stem = [[0, y], [start, y], [start, 0], [end, 0], [end, y], [width, y]]
        return np.array([*stem, [width, depth], [0, depth]])
    if kind == "trapezoid":
        low, high = width * rng.uniform(0, 0.3, 2)
        return np.array([[0, 0], [width, rng.uniform(0, 0.2) * depth], [width - high, depth], [low, depth]])
    length, across = rng.uniform(5.0, 11.5), rng.uniform(1.3, 2.4)
    if rng.random() < 0.5:  # round a corner
        end, near = rng.uniform(across + 1.5, 7.0), length - across
        return np.array([[0, 0], [length, 0], [length, end], [near, end], [near, across], [0, across]])
    return np.array([[0, 0], [length, 0], [length, across], [0, across]])


def _draw_box(rng: np.random.Generator, ceiling: float, corners: Array, surface: Surface) -> Box:
    """Draw a cupboard, a table or sofa, or a column."""
    kind = rng.random()
    if kind < 0.15:
        length, width = rng.uniform(0.2, 0.6, 2)
        height = ceiling
    elif kind < 0.5:
        length, width, height = rng.uniform(0.5, 1.8), rng.uniform(0.3, 0.7), min(rng.uniform(1.2, 2.2), ceiling - 0.1)
    else:
        length, width, height = rng.uniform(0.5, 2.0), rng.uniform(0.4, 1.0), rng.uniform(0.4, 1.1)
    center = rng.uniform(corners.min(axis=0), corners.max(axis=0))
    turn = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
    return Box(center, (float(length), float(width), float(height)), float(turn), surface)


def _from_table(rng: np.random.Generator, names: tuple[str, ...], rougher: float = 1.0) -> Surface:
    """Draw a material of pyroomacoustics' table; its scattering is drawn, and rises with the frequency."""
    from pyroomacoustics.parameters import materials_absorption_table

    entry = materials_absorption_table[str(rng.choice(names))]
    known = np.log(entry["center_freqs"][: len(entry["coeffs"])])
    absorption = np.interp(np.log(BANDS), known, entry["coeffs"])
    at_1_khz, slope = rougher * rng.uniform(0.05, 0.3), rng.uniform(0.2, 0.6)
    return Surface(np.clip(absorption, 0.01, 0.95), np.clip(at_1_khz * (BANDS / 1000) ** slope, 0.02, 0.9))


def _drawn(rng: np.random.Generator, names: tuple[str, ...], rougher: float = 1.0) -> Surface:
    """Draw a material without a table: absorption with a slope, scattering alike in all bands."""
    at_1_khz, slope = 10 ** rng.uniform(-1.3, -0.3), rng.uniform(-0.3, 0.3)
    absorption = np.clip(at_1_khz * (BANDS / 1000) ** slope, 0.01, 0.95)
    return Surface(absorption, np.full(len(BANDS), min(0.8, rougher * rng.uniform(0.05, 0.5))))


def draw_pose(rng: np.random.Generator, room: Room) -> Pose | None:
    """Draw a place with `CLEARANCE` all around, and any heading; None where no such place is found."""
    for _ in range(TRIES):
        place = rng.uniform(room.corners.min(axis=0), room.corners.max(axis=0))
        height, heading = rng.uniform(0.9, min(1.7, room.height - CLEARANCE)), rng.uniform(0, 2 * np.pi)
        outlines = [room.corners, *(box.corners() for box in room.boxes)]
        free = inside(room.corners, place[None])[0] and not any(inside(o, place[None])[0] for o in outlines[1:])
        if free and all(wall_gap(outline, place[None])[0] >= CLEARANCE for outline in outlines):
            return Pose(np.array([*place, height]), float(heading))
    return None


def inside(corners: Array, points: Array) -> NDArray[np.bool_]:
    """Return which points (P, 2) lie inside a polygon (N, 2): those from which a line crosses its edge oddly often."""
    start, end = corners, np.roll(corners, -1, axis=0)
    x, y = points[:, :1], points[:, 1:]
    spans = (start[:, 1] > y) != (end[:, 1] > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = start[:, 0] + (y - start[:, 1]) / (end[:, 1] - start[:, 1]) * (end[:, 0] - start[:, 0])
    return np.asarray((spans & (x < crossing)).sum(axis=1) % 2 == 1)


def wall_gap(corners: Array, points: Array) -> Array:
    """Return the distance of points (P, 2) to the edge of a polygon (N, 2), as (P,)."""
    start, along = corners, np.roll(corners, -1, axis=0) - corners
    to = points[:, None] - start
    share = np.clip((to * along).sum(axis=-1) / (along**2).sum(axis=-1), 0, 1)
    return np.asarray(np.linalg.norm(to - share[..., None] * along, axis=-1).min(axis=1))


def render_depth(room: Room, pose: Pose, side: int = SIDE, field: float = FIELD_OF_VIEW) -> Array:
    """Return depth along the axis of a level camera at the head's centre, (side, side) in metres, at most `MAX_DEPTH`.

    Args:
        room: the room.
        pose: the head's.
        side: pixels, both ways; row 0 on top, column 0 on the left.
        field: of view, both ways, in degrees.
    """
    offset = ((np.arange(side) + 0.5) / side * 2 - 1) * np.tan(np.deg2rad(field) / 2)
    ahead, left, _ = pose.axes()
    flat = ahead[:2] - offset[:, None] * left[:2]  # (side, 2): a ray's horizontal part, by column
    rise = -offset[:, None]  # by row
    origin = pose.position
    with np.errstate(divide="ignore", invalid="ignore"):
        walls = _edge_depth(room.corners, origin[:2], flat)  # by column
        level = np.where(rise > 0, (room.height - origin[2]) / rise, -origin[2] / rise)
        depth = np.minimum(walls, level)
        for box in room.boxes:
            axes = box.axes()
            start, ways = (origin[:2] - box.center) @ axes.T, flat @ axes.T
            half = np.array(box.size[:2]) / 2
            bounds = np.stack([(sign * half - start) / ways for sign in (-1, 1)])  # (2, side, 2)
            heights = np.stack([-origin[2] / rise, (box.size[2] - origin[2]) / rise])  # (2, side, 1)
            enter = np.maximum(bounds.min(axis=0).max(axis=1), heights.min(axis=0))
            leave = np.minimum(bounds.max(axis=0).min(axis=1), heights.max(axis=0))
            depth = np.where((enter < leave) & (enter > 0), np.minimum(depth, enter), depth)
    return np.minimum(depth, MAX_DEPTH)


def _edge_depth(corners: Array, origin: Array, ways: Array) -> Array:
    """Return how far each ray (R, 2) from an origin (2,) goes to the edge of a polygon, in lengths of the ray."""
    start, along = corners, np.roll(corners, -1, axis=0) - corners
    across = _cross(ways[:, None], along)  # (R, N)
    far, share = _cross(start - origin, along) / across, _cross(start - origin, ways[:, None]) / across
    return np.asarray(np.where((far > 0) & (share >= 0) & (share <= 1), far, np.inf).min(axis=1))
