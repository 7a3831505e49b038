"""Relations that a scene's geometry makes true, in the camera's frame."""

from typing import NamedTuple

from tools.world.geometry import project
from tools.world.scene import Camera, Scene, Thing

# One direction must win by this factor before it may be named, so that no pair is a matter of taste.
DOMINANCE = 1.5
INVERSE = {
    "left of": "right of",
    "right of": "left of",
    "in front of": "behind",
    "behind": "in front of",
    "on top of": "under",
    "under": "on top of",
}


class Relation(NamedTuple):
    """Things by index: `subject` is `name` (a relation) `object`."""

    subject: int
    name: str
    object: int


def ground_relation(camera: Camera, a: Thing, b: Thing) -> str | None:
    """How `a` stands to `b` when both stand on the floor: by ground distance across or along the view; None if unclear.

    Left and right must hold in the picture too.
    """
    dx, dz = a.centre[0] - b.centre[0], a.centre[2] - b.centre[2]
    if abs(dx) >= DOMINANCE * abs(dz):
        du = project(camera, a.centre)[0] - project(camera, b.centre)[0]
        return None if du * dx <= 0 else "left of" if dx < 0 else "right of"
    if abs(dz) >= DOMINANCE * abs(dx):
        return "in front of" if dz < 0 else "behind"
    return None


def relations(scene: Scene) -> list[Relation]:
    """All relations of a scene, each pair once (the lower index first, or the upper thing of a stack)."""
    found = []
    for i, a in enumerate(scene.things):
        if a.on is not None:
            found.append(Relation(i, "on top of", a.on))
            continue
        for j, b in enumerate(scene.things[i + 1 :], start=i + 1):
            if b.on is None and (name := ground_relation(scene.camera, a, b)):
                found.append(Relation(i, name, j))
    return found
