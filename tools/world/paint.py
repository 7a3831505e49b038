"""Light on floor and solids: two styles, three materials, printed words."""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tools.world import solids
from tools.world.batch import Batch, linear
from tools.world.lettering import lettering
from tools.world.palette import MATERIALS, STRIPE
from tools.world.solids import Rays

AMBIENT, SKY, KEY, BACKDROP = 0.30, 0.12, 0.78, 0.84
STRIPES = 1.75  # pairs of bands per half extent
SHINY, STRIPED = MATERIALS.index("shiny"), MATERIALS.index("striped")


@dataclass(frozen=True, eq=False)
class Hits:
    """Where rays ended: their direction, the point in the world, and whether it lies in another solid's shadow."""

    ray: Rays
    point: Rays
    dark: Bool[Tensor, "m r"]

    def rows(self, rows: Tensor) -> "Hits":
        """These rows only."""
        return Hits(pick(self.ray, rows), pick(self.point, rows), self.dark[rows])


def column(vectors: Float[Tensor, "m d"]) -> Rays:
    """The components of a vector per row, each m x 1, to be broadcast against m x r rays."""
    return cast(Rays, vectors[:, :, None].unbind(1))


def pick(vector: Rays, rows: Tensor) -> Rays:
    """These rows of a vector."""
    return vector[0][rows], vector[1][rows], vector[2][rows]


def paint_floor(
    batch: Batch, scene: Int[Tensor, " m"], ray: Rays
) -> tuple[Float[Tensor, "3 m r"], Float[Tensor, "3 m r"]]:
    """sRGB of the floor in light and in a shadow.

    A photo has a pool of light, soft contact shade under solids, and a backdrop that the floor melts into far away.
    """
    eye = column(batch.eye[scene])
    depth = eye[1] / (-ray[1]).clamp(min=0.02)
    x, z = eye[0] + depth * ray[0], eye[2] + depth * ray[2]
    pool = 1.04 / (1 + 0.0045 * (x * x + z * z))
    for k in range(batch.shape.shape[1]):
        (cx, cy, cz), half = column(batch.centre[scene, k]), column(batch.half[scene, k])
        square = (x - cx) * (x - cx) + (z - cz) * (z - cz) + cy * cy
        contact = cy * half[0] * half[0] / (square * torch.sqrt(square)).clamp(min=1e-6)
        pool = pool * torch.where(batch.shape[scene, k, None] >= 0, 1 - 0.5 * contact.clamp(max=1), 1.0)
    near = (-ray[1] / 0.30).clamp(0, 1)
    near = near * near * (3 - 2 * near)
    strength, drawing = batch.strength[scene, None], batch.drawing[scene, None]
    colours = []
    for lit, flat in ((1.0, 1.0), (0.36, 0.55)):
        photo = strength * (BACKDROP + near * (lit * pool - BACKDROP))
        for colour, tint in zip(column(batch.floor[scene]), column(batch.tint[scene]), strict=True):
            colours.append(tint * torch.where(drawing, flat * (0.94 * colour + 0.02), photo * colour))
    encoded = torch.sqrt(torch.stack(colours).clamp(0, 1))
    return encoded[:3], encoded[3:]


def paint_solid(batch: Batch, scene: Int[Tensor, " m"], which: tuple[int, str], hits: Hits) -> Float[Tensor, "3 m r"]:
    """sRGB of solid `which` = (column, shape) of each row as seen at `hits`; rubbish where a ray hit something else."""
    k, shape = which
    centre, half, turn = (column(x[scene, k]) for x in (batch.centre, batch.half, batch.turn))
    point = solids.local(hits.point, centre, half, turn)
    a, b, c = solids.normal(shape, point)
    normal = _unit(_world((a / half[0], b / half[1], c / half[2]), turn))
    lambert = torch.where(hits.dark, 0.0, _dot(normal, column(batch.light[scene])).clamp(min=0))
    shade = _shade(batch, scene, (normal[1], hits.point[1] / half[1]), lambert)
    line = batch.drawing[scene, None] & (solids.rim(shape, point, half) < batch.pen[scene, k, None])
    material = batch.material[scene, k]
    pale = (material == STRIPED)[:, None] & _band(point)
    glint = torch.zeros_like(shade)
    shiny = (material == SHINY).nonzero().squeeze(1)
    if len(shiny):
        bulge = _bulge(shape, pick(point, shiny), pick(half, shiny), pick(turn, shiny))
        glint[shiny] = _glint(batch, scene[shiny], pick(normal, shiny), bulge, hits.rows(shiny))
    written, ink = lettering(point, batch.word[scene, k]), column(batch.ink[scene, k])
    colours = []
    for i, (colour, tint) in enumerate(zip(column(batch.colour[scene, k]), column(batch.tint[scene]), strict=True)):
        albedo = torch.where(pale, linear(STRIPE)[i], colour)
        albedo = albedo if written is None else albedo + written * (ink[i] - albedo)
        colours.append(torch.where(line, 0.012, tint * (albedo * shade * (1 - 0.35 * glint) + glint)))
    return torch.sqrt(torch.stack(colours).clamp(0, 1))


def _shade(batch: Batch, scene: Tensor, upward: tuple[Tensor, Tensor], lambert: Tensor) -> Tensor:
    """Light on a matte surface; `upward` is the normal's y and the height above the floor. Two tones in drawings."""
    ground = 0.70 + 0.30 * upward[1].clamp(0, 1)  # soft shade where floor and solid meet
    photo = (AMBIENT + SKY * upward[0]) * ground + KEY * batch.strength[scene, None] * lambert
    drawing = batch.drawing[scene, None]
    return torch.where(drawing, torch.where(lambert > 0.3, 0.98, 0.56), photo)


def _glint(batch: Batch, scene: Tensor, normal: Rays, bulge: Rays, hits: Hits) -> Tensor:
    """Reflected light of a glossy coat: the lamp's spot, and a bright room above at grazing angles.

    The spot is reflected by a bulged surface, for on a flat face it would mostly fall beside the solid.
    """
    eye = _unit((-hits.ray[0], -hits.ray[1], -hits.ray[2]))
    light = column(batch.light[scene])
    between = _unit((eye[0] + light[0], eye[1] + light[1], eye[2] + light[2]))
    facing = _dot(bulge, between).clamp(min=0)
    spot = facing
    for _ in range(5):
        spot = spot * spot
    edge = 1 - _dot(normal, eye).clamp(0, 1)
    room = 0.35 * edge * edge * edge * (0.5 + 0.5 * normal[1]) + 0.02
    photo = (0.95 * spot + room).clamp(max=1)
    return torch.where(batch.drawing[scene, None], torch.where(facing > 0.955, 1.0, 0.0), photo)


def _bulge(shape: str, point: Rays, half: Rays, turn: Rays) -> Rays:
    """Normals as of a ball around the solid's middle; a cone's middle lies low, so that its spot is not all tip."""
    x, y, z = point[0] * half[0], point[1] * half[1], point[2] * half[2]
    y = y + 0.5 * half[1] if shape == "cone" else y
    return _unit(_world((x, y, z), turn))


def _world(vector: Rays, turn: Rays) -> Rays:
    """A direction of a solid's own frame in the world's."""
    x, y, z = vector
    return turn[0] * x - turn[1] * z, y, turn[1] * x + turn[0] * z


def _band(point: Rays) -> Bool[Tensor, "m r"]:
    """Whether a canonical point lies on a pale stripe: slanted bands that cross every face."""
    along = STRIPES * (0.80 * point[1] + 0.60 * point[0] + 0.15 * point[2]) + 0.25
    return along - torch.floor(along) > 0.55


def _dot(a: Rays, b: Rays) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(a: Rays) -> Rays:
    scale = 1 / torch.sqrt(_dot(a, a).clamp(min=1e-20))
    return a[0] * scale, a[1] * scale, a[2] * scale
