"""Projection between the world and the frame, in plain floats: u to the right and v downwards, both 0 to 1."""

import math
from collections.abc import Iterable

from tools.world.scene import Camera, Thing, Vector

Box = tuple[float, float, float, float]


def axes(camera: Camera) -> tuple[Vector, Vector, Vector]:
    """The camera's right, up and forward unit vectors in the world."""
    cp, sp, cr, sr = math.cos(camera.pitch), math.sin(camera.pitch), math.cos(camera.roll), math.sin(camera.roll)
    up = (0.0, cp, sp)
    right = (cr, sr * up[1], sr * up[2])
    return right, (-sr, cr * up[1], cr * up[2]), (0.0, -sp, cp)


def dot(a: Vector, b: Vector) -> float:
    """The inner product of two vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def depth(camera: Camera, point: Vector) -> float:
    """How far `point` lies before the camera along its forward axis."""
    _, y, z = (p - e for p, e in zip(point, camera.eye, strict=True))
    return z * math.cos(camera.pitch) - y * math.sin(camera.pitch)


def project(camera: Camera, point: Vector) -> tuple[float, float]:
    """Where `point` is seen in the frame; meaningful in front of the camera only."""
    u, v, _, _ = bounds(camera, [point])
    return u, v


def floor_point(camera: Camera, u: float, v: float) -> Vector | None:
    """The point of the floor seen at (u, v); None at or above the horizon."""
    right, up, forward = axes(camera)
    tan = math.tan(camera.fov / 2)
    x, y = (2 * u - 1) * tan, (1 - 2 * v) * tan
    ray = [f + x * r + y * p for f, r, p in zip(forward, right, up, strict=True)]
    if ray[1] > -1e-3:
        return None
    t = -camera.eye[1] / ray[1]
    return camera.eye[0] + t * ray[0], 0.0, camera.eye[2] + t * ray[2]


def corners(thing: Thing, margin: float = 0.0) -> list[Vector]:
    """The eight corners of the box around a thing, yaw included, grown by `margin` (world units)."""
    cos, sin = math.cos(thing.yaw), math.sin(thing.yaw)
    hx, hy, hz = (h + margin for h in thing.half)
    cx, cy, cz = thing.centre
    signs = (-1, 1)
    places = ((i * hx, j * hy, k * hz) for i in signs for j in signs for k in signs)
    return [(cx + cos * x - sin * z, cy + y, cz + sin * x + cos * z) for x, y, z in places]


def bounds(camera: Camera, points: Iterable[Vector]) -> Box:
    """The box (left, top, right, bottom) in the frame around projected points."""
    (ex, ey, ez), (right, up, forward) = camera.eye, axes(camera)
    zoom = 0.5 / math.tan(camera.fov / 2)
    us, vs = [], []
    for x, y, z in points:
        ray = (x - ex, y - ey, z - ez)
        scale = zoom / max(dot(ray, forward), 1e-3)
        us.append(0.5 + scale * dot(ray, right))
        vs.append(0.5 - scale * dot(ray, up))
    return min(us), min(vs), max(us), max(vs)


def union(a: Box, b: Box) -> Box:
    """The box around two boxes."""
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
