"""Golden values of what rich rooms are drawn from: plans, furniture, materials, rigs, directivities, reverberation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from itertools import chain

import numpy as np
from golden.learning import Values

from base_residual.simulation.directivity import ALL_AROUND, Directivity, Pattern
from base_residual.simulation.draws import draw_pose
from base_residual.simulation.echo import draw_late
from base_residual.simulation.materials import ABSORPTION, BANDS, Air, draw_material
from base_residual.simulation.places import Furnished, surfaces
from base_residual.simulation.reverberation import DiffuseField, late_energy, measures, reflections_per_second
from base_residual.simulation.rigs import RIGS
from base_residual.simulation.rooms import Box, Cylinder, Material
from base_residual.simulation.spaces import PIECES, PLANS, draw_space

TIMES = 4  # each thing is drawn so often, because most draws decide between two kinds


def rng(*words: str) -> np.random.Generator:
    return np.random.default_rng([ord(letter) for letter in "".join(words)])


def spaces() -> Values:
    """Each plan and each piece of furniture, drawn a few times, and whole places."""
    values: Values = {}
    for plan in PLANS:
        random = rng("plan", plan.__name__)
        drawn = [plan(random) for _ in range(TIMES)]
        values |= {f"plan {plan.__name__} {number}": flat(size, parts) for number, (size, parts) in enumerate(drawn)}
    for piece in PIECES:
        random = rng("piece", piece.__name__)
        for number, size in enumerate([(5.0, 4.0, 2.6), (1.7, 1.4, 2.3)] * TIMES):
            values[f"piece {piece.__name__} {number}"] = flat(*map(solid, piece(random, size)))
    for number in range(2 * TIMES):
        random = rng("space", str(number))
        room, air = draw_space(random)
        pose = draw_pose(random, room, margin=0.3, ahead=0.4, height=(0.25, 1.8))
        values |= {
            f"space {number}": flat(room.size, air, map(solid, room.solids), map(material, room.surfaces)),
            f"space {number}, pose": flat(*([pose.position, pose.heading] if pose else [])),
            f"space {number}, diffuse field": flat(*measures(room)),
        }
    return values


def surfaces_and_air() -> Values:
    """Materials by name, the faces of a room by each way of telling them, and the air."""
    values: Values = {}
    for name in ABSORPTION:
        values[f"material {name}"] = flat(material(draw_material(rng(name), name, (0.1, 0.9))))
    room, _ = draw_space(rng("faces"))
    for every in (True, False):
        faces, cuboids, main = surfaces.__wrapped__(room, every)
        values |= {f"faces, every {every}, {name}": value for name, value in faces._asdict().items()}
        values |= {f"faces, every {every}, {name}": value for name, value in cuboids._asdict().items()}
        values[f"faces, every {every}, main"] = main
    pose = draw_pose(rng("patches"), room)
    assert pose is not None
    values |= {f"patches, {name}": value for name, value in Furnished(room, False).patches(pose)._asdict().items()}
    for air in (Air(), Air(5.0, 90.0)):
        values[f"air {air}"] = flat(1000 * air.attenuation(BANDS), air.speed)
    diffuse, time = DiffuseField(60.0, 100.0, BANDS / 40_000, BANDS / 60_000), np.linspace(0, 0.2, 6)
    energy = late_energy(diffuse, Air(), 3, time, 44_100)
    values["late energy in dB"] = 10 * np.log10(energy + 1e-12)
    values["late energy after one reflection in dB"] = 10 * np.log10(
        late_energy(diffuse, Air(), 1, time, 44_100) + 1e-12
    )
    values["reflections a second"] = reflections_per_second(60.0, Air(), time)
    for burst in (0.0, 6.0):
        noise, rank = draw_late(rng("late"), 500, burst)
        values |= {f"late, bursts of {burst} dB": noise, f"late, bursts of {burst} dB, rank": rank}
    return values


def rigs() -> Values:
    """Each named rig, drawn a few times, and what its ears and loudspeaker make of directions."""
    values: Values = {}
    for name, draw in RIGS.items():
        random = rng(name)
        for number in range(2 * TIMES if name == "varied" else TIMES // 2):
            rig = draw(random, 0.7)
            values[f"{name} {number}"] = flat(asdict(rig))
            values |= {f"{name} {number}, ears, {key}": value for key, value in heard(rig.ears).items()}
            values |= {f"{name} {number}, speaker, {key}": value for key, value in heard(rig.speaker).items()}
    cardioid = Pattern((0.6, 0.8, 0.0), 0.5)
    for key, pattern in {
        "cardioid": cardioid,
        "its square": replace(cardioid, order=(2.0,)),
        "on a head": replace(cardioid, head=0.09),
    }.items():
        values |= {f"{key}, {part}": value for part, value in heard(pattern).items()}
    return values


def heard(ear: Directivity) -> Values:
    some = ALL_AROUND[::17]
    return {"gain": ear.gain(some), "delay in ms": 1000 * ear.delay(some), "diffuse": ear.diffuse}


def solid(of: Box | Cylinder) -> list[object]:
    extent = of.size if isinstance(of, Box) else (of.radius, of.height)
    return [of.center, extent, of.yaw if isinstance(of, Box) else [], material(of.material)]


def material(of: Material) -> list[object]:
    return [of.absorption, of.scattering]


def flat(*parts: object) -> list[float]:
    """All numbers in nested sequences and mappings, one after the other; 0 where there is none."""

    def walk(part: object) -> Iterable[float]:
        if isinstance(part, dict):
            part = part.values()
        return chain.from_iterable(map(walk, part)) if isinstance(part, Iterable) else [float(part)]  # type: ignore[arg-type]

    return [*walk(parts)] or [0.0]
