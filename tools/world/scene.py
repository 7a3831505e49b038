"""The scene graph: frozen records of what stands where, and of the camera and light that no caption names.

World axes: x to the right, y up, z away from the camera; the camera looks along +z, so its frame is the world's and
"left of" or "behind" need no further rotation. The floor is y = 0. Angles are radians.
"""

from dataclasses import dataclass, replace
from typing import Any

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Thing:
    """A solid, or a sign board (shape "sign"): its names first, then its place. `half` holds half extents before yaw.

    `size` is the apparent one, in the camera's frame. `on` is the index of the thing beneath, None for the floor.
    """

    shape: str
    colour: str
    size: str
    material: str
    centre: Vector
    half: Vector
    yaw: float
    on: int | None = None
    word: str | None = None


@dataclass(frozen=True)
class Camera:
    """A pinhole at `eye` that looks along +z, `pitch` downwards; `fov` is the whole vertical (and horizontal) angle."""

    eye: Vector
    pitch: float
    fov: float
    roll: float


@dataclass(frozen=True)
class Light:
    """One distant light: unit direction towards it, the key's strength around 1, and the tint of the whole picture."""

    direction: Vector
    strength: float
    tint: Vector


@dataclass(frozen=True)
class Scene:
    """1 to 3 things on a floor, perhaps a sign, in one of two styles, seen by a camera under a light."""

    things: tuple[Thing, ...]
    sign: Thing | None
    floor: str
    style: str
    camera: Camera
    light: Light

    @property
    def solids(self) -> tuple[Thing, ...]:
        """All that casts a shadow: the things in order, then the sign."""
        return self.things if self.sign is None else (*self.things, self.sign)


def mirrored(scene: Scene) -> Scene:
    """The scene whose picture is this one's, left and right exchanged; but for words, and the slope of stripes."""

    def across(vector: Vector) -> Vector:
        return -vector[0], vector[1], vector[2]

    def turned(thing: Thing) -> Thing:
        return replace(thing, centre=across(thing.centre), yaw=-thing.yaw)

    return replace(
        scene,
        things=tuple(map(turned, scene.things)),
        sign=scene.sign and turned(scene.sign),
        camera=replace(scene.camera, eye=across(scene.camera.eye), roll=-scene.camera.roll),
        light=replace(scene.light, direction=across(scene.light.direction)),
    )


def from_graph(graph: dict[str, Any]) -> Scene:
    """The scene whose graph a shard's JSON holds (`dataclasses.asdict`, lists for tuples)."""

    def thing(values: dict[str, Any]) -> Thing:
        return Thing(**{key: _tuple(value) for key, value in values.items()})

    return Scene(
        things=tuple(map(thing, graph["things"])),
        sign=graph["sign"] and thing(graph["sign"]),
        floor=graph["floor"],
        style=graph["style"],
        camera=Camera(**{key: _tuple(value) for key, value in graph["camera"].items()}),
        light=Light(**{key: _tuple(value) for key, value in graph["light"].items()}),
    )


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
