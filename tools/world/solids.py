"""Rays against the four solids and the box of a sign, in canonical coordinates, where every half extent is 1.

Only sums, products, quotients and square roots: IEEE makes these exact to the bit wherever a ray lies in its tensor,
so that a crop, a batch neighbour or another chunk changes no pixel.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

SOLIDS = ("cube", "sphere", "cylinder", "cone", "sign")
FAR = 1e9
Rays = tuple[Tensor, Tensor, Tensor]  # x, y and z, each Float[Tensor, "m r"] or broadcast to it
Span = tuple[Tensor, Tensor]  # entry and exit


def local(ray: Rays, centre: Rays | None, half: Rays, turn: Rays) -> Rays:
    """World to canonical coordinates; `turn` begins with cos and sin of the yaw; no centre for directions."""
    x, y, z = ray if centre is None else tuple(a - c for a, c in zip(ray, centre, strict=True))
    cos, sin = turn[:2]
    return (cos * x + sin * z) / half[0], y / half[1], (cos * z - sin * x) / half[2]


def span(shape: str, origin: Rays, ray: Rays) -> tuple[Float[Tensor, "m r"], Float[Tensor, "m r"]]:
    """Where rays enter and leave a canonical solid; not enter < leave for a miss. A ray's point is origin + t * ray."""
    if shape == "sphere":
        return _quadric(_dot(ray, ray), _dot(origin, ray), _dot(origin, origin) - 1)
    enter, leave = _slab(origin[1], ray[1])
    if shape == "cone":
        side = _cone(origin, ray)
        return torch.maximum(enter, side[0]), torch.minimum(leave, side[1])
    (ox, _, oz), (dx, _, dz) = origin, ray
    if shape == "cylinder":
        side = _quadric(dx * dx + dz * dz, ox * dx + oz * dz, ox * ox + oz * oz - 1)
        return torch.maximum(enter, side[0]), torch.minimum(leave, side[1])
    across, along = _slab(ox, dx), _slab(oz, dz)
    enter = torch.maximum(torch.maximum(enter, across[0]), along[0])
    return enter, torch.minimum(torch.minimum(leave, across[1]), along[1])


def normal(shape: str, point: Rays) -> Rays:
    """The outward normal at a point of the surface, in canonical coordinates, of any length."""
    x, y, z = point
    if shape == "sphere":
        return point
    if shape == "cone":
        rho = torch.sqrt(x * x + z * z)
        base = (y + 1) < 0.9 * (0.5 * (1 - y) - rho).abs()
        return _unless(base, x), torch.where(base, -1.0, 0.5 * rho), _unless(base, z)
    ax, ay, az = x.abs(), y.abs(), z.abs()
    if shape == "cylinder":
        cap = ay * ay > x * x + z * z
        return _unless(cap, x), torch.where(cap, y, 0.0), _unless(cap, z)
    top = (ay >= ax) & (ay >= az)
    side = ~top & (ax >= az)
    return torch.where(side, x, 0.0), torch.where(top, y, 0.0), _unless(top | side, z)


def rim(shape: str, point: Rays, half: Rays) -> Float[Tensor, "m r"]:
    """How far (world units) a surface point is from the nearest sharp edge inside the outline; large where none is."""
    x, y, z = point
    up = half[1] * (1 - y.abs())
    if shape == "cylinder":
        return torch.maximum(up, half[0] * (1 - torch.sqrt(x * x + z * z)))
    if shape in ("sphere", "cone"):
        return torch.full_like(up, FAR)
    across, along = half[0] * (1 - x.abs()), half[2] * (1 - z.abs())
    low, high = torch.minimum(across, along), torch.maximum(across, along)
    return torch.maximum(low, torch.minimum(up, high))  # the second nearest of the three faces


def _dot(a: Rays, b: Rays) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unless(condition: Tensor, value: Tensor) -> Tensor:
    return torch.where(condition, 0.0, value)


def _slab(origin: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    inverse = 1 / (ray + 1e-12)  # a ray along the slab must not become 0 * inf
    a, b = (-1 - origin) * inverse, (1 - origin) * inverse
    return torch.minimum(a, b), torch.maximum(a, b)


def _quadric(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The interval where a t^2 + 2 b t + c <= 0, for a > 0; NaN for a miss, which no comparison finds true."""
    inverse = 1 / a.clamp(min=1e-12)
    root, middle = torch.sqrt(b * b - a * c) * inverse, b * inverse
    return -root - middle, root - middle


def _cone(origin: Rays, ray: Rays) -> tuple[Tensor, Tensor]:
    """Inside x^2 + z^2 = (1 - y)^2 / 4, apex up; the slab -1 <= y <= 1 takes away the upper nappe."""
    (ox, oy, oz), (dx, dy, dz) = origin, ray
    w = 1 - oy
    a = dx * dx + dz * dz - 0.25 * dy * dy
    b = ox * dx + oz * dz + 0.25 * w * dy
    c = ox * ox + oz * oz - 0.25 * w * w
    enter, leave = _quadric(a, b, c)
    steep = a < 0
    if not bool(steep.any()):
        return enter, leave
    # a ray steeper than the side stays inside one nappe for ever: below its last crossing if it falls
    safe = torch.where(steep, a, -1.0)
    root = torch.sqrt((b * b - a * c).clamp(min=0))
    first, last = (root - b) / safe, (-b - root) / safe
    falling = dy < 0
    enter = torch.where(steep, torch.where(falling, last, -FAR), enter)
    return enter, torch.where(steep, torch.where(falling, FAR, first), leave)


def index(shape: str) -> int:
    """The number that stands for a solid in a batch."""
    return SOLIDS.index(shape)


def rows_of(shapes: Int[Tensor, " m"], shape: str) -> Int[Tensor, " n"]:
    """Which rows hold this solid."""
    return (shapes == index(shape)).nonzero().squeeze(1)
