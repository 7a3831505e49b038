"""What colour a ray sees: the nearest solid, what throws a shadow there, and the paint of both."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tools.world import solids
from tools.world.batch import Batch
from tools.world.paint import Hits, column, paint_floor, paint_solid, pick
from tools.world.solids import FAR, Rays, Span

LINE = 0.11  # sRGB of a drawn outline


def shade(
    batch: Batch,
    scene: Int[Tensor, " m"],
    candidates: tuple[Bool[Tensor, "m k"], Bool[Tensor, "m k"]],
    middles: tuple[Float[Tensor, "m p"], Float[Tensor, "m p"]],
    samples: tuple[Float[Tensor, "m r"], Float[Tensor, "m r"]],
) -> Float[Tensor, "3 m s p"]:
    """sRGB in [0, 1] of s rays per pixel, r = s * p, through `samples` (u, v) of each row's scene.

    `candidates` says which solids to test per row: those that may be seen, and those that may throw a shadow. The
    floor itself is smooth and painted once per pixel, at `middles`.
    """
    seen, shaded = candidates
    floor = paint_floor(batch, scene, rays(batch, scene, middles))
    shape = (3, len(scene), -1, middles[0].shape[1])
    if not bool(seen.any() | shaded.any()):
        return floor[0].view(shape)
    ray, eye = rays(batch, scene, samples), column(batch.eye[scene])
    depth, who, drawn = nearest(batch, scene, seen, ray)
    distance = torch.where(depth < FAR, depth, 0.0)
    point: Rays = (eye[0] + distance * ray[0], eye[1] + distance * ray[1], eye[2] + distance * ray[2])
    dark = _occluded(batch, scene, shaded, point, who)
    colour = torch.where(dark.view(shape[1:]), *(c[:, :, None] for c in floor[::-1])).flatten(2)
    hits = Hits(ray, point, dark)
    for k, solid, candidate in _groups(batch, scene, seen):
        rows = candidate[(who[candidate] == k).any(1)]
        painted = paint_solid(batch, scene[rows], (k, solid), hits.rows(rows))
        colour[:, rows] = torch.where(who[rows] == k, painted, colour[:, rows])
    return torch.where(drawn, LINE, colour).view(shape)


def rays(batch: Batch, scene: Int[Tensor, " m"], place: tuple[Tensor, Tensor]) -> Rays:
    """Directions through `place`, scaled so that their length along the camera's forward axis is 1."""
    right, up, forward = (column(axis) for axis in batch.axes[scene].unbind(1))
    x, y = 2 * place[0] - 1, 1 - 2 * place[1]
    a, b, c = (f + x * r + y * u for f, r, u in zip(forward, right, up, strict=True))
    return a, b, c


def nearest(
    batch: Batch, scene: Int[Tensor, " m"], seen: Bool[Tensor, "m k"], ray: Rays
) -> tuple[Float[Tensor, "m r"], Int[Tensor, "m r"], Bool[Tensor, "m r"]]:
    """Depth of the first hit (FAR for none), which solid it is (-1 for the floor), and whether it is a drawn outline.

    In drawings a solid has a slightly larger hull around it, which is ink wherever the solid itself is missed.
    """
    depth = torch.where(ray[1] < 0, batch.eye[scene, 1:2] / -ray[1], FAR)
    who = torch.full_like(depth, -1, dtype=torch.int8)
    drawn = torch.zeros_like(who, dtype=torch.bool)
    for k, shape, rows in _groups(batch, scene, seen):
        some, origin, toward = scene[rows], column(batch.eye[scene[rows]]), pick(ray, rows)
        enter, leave = _cast((batch.centre, batch.half, batch.turn), (some, k, shape), origin, toward)
        line = torch.zeros_like(enter, dtype=torch.bool)
        if bool(batch.drawing[some].any()):
            start, end = _cast((batch.hull_centre, batch.hull_half, batch.turn), (some, k, shape), origin, toward)
            line = ~(enter < leave) & (start < end) & batch.drawing[some][:, None]
            enter, leave = torch.where(line, start, enter), torch.where(line, end, leave)
        hit = (enter < leave) & (enter < depth[rows])
        depth[rows] = torch.where(hit, enter, depth[rows])
        who[rows] = torch.where(hit, k, who[rows])
        drawn[rows] = torch.where(hit, line, drawn[rows])
    return depth, who, drawn


def _occluded(batch: Batch, scene: Tensor, shaded: Tensor, point: Rays, who: Tensor) -> Bool[Tensor, "m r"]:
    """Whether another solid stands between a point and the light; a convex one never shades its own lit side."""
    dark = torch.zeros_like(who, dtype=torch.bool)
    for k, shape, rows in _groups(batch, scene, shaded):
        some = scene[rows]
        enter, leave = _cast(
            (batch.centre, batch.half, batch.turn), (some, k, shape), pick(point, rows), column(batch.light[some])
        )
        dark[rows] |= (enter < leave) & (leave > 1e-3) & (who[rows] != k)
    return dark


def _groups(batch: Batch, scene: Tensor, wanted: Tensor) -> list[tuple[int, str, Tensor]]:
    """(column, shape, rows) of all wanted solids, so that each group is one formula."""
    groups = []
    for k in range(batch.shape.shape[1]):
        shapes = torch.where(wanted[:, k], batch.shape[scene, k], -1)
        groups += [(k, shape, rows) for shape in solids.SOLIDS if len(rows := solids.rows_of(shapes, shape))]
    return groups


def _cast(body: tuple[Tensor, Tensor, Tensor], which: tuple[Tensor, int, str], origin: Rays, ray: Rays) -> Span:
    """Entry and exit of rays through column k's solid of each row; `body` is (centre, half, turn) of the batch."""
    scene, k, shape = which
    centre, half, turn = (column(x[scene, k]) for x in body)
    start = solids.local(origin, centre, half, turn)
    return solids.span(shape, start, solids.local(ray, None, half, turn))
