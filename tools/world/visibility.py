"""How much of each solid the others leave to be seen."""

from dataclasses import replace

import torch

from tools.world.batch import collate
from tools.world.scene import Scene
from tools.world.shading import nearest, rays

GRID = 44


def visible_shares(scene: Scene, grid: int = GRID) -> list[float]:
    """The visible share of each solid's own picture area, measured on `grid` x `grid` rays over all of them."""
    batch = replace(collate([scene]), drawing=torch.zeros(1, dtype=torch.bool))
    count = len(scene.solids)
    low, high = batch.seen[0, :, :2].amin(0), batch.seen[0, :, 2:].amax(0)
    steps = (torch.arange(grid) + 0.5) / grid
    u, v = (low[i] + steps * (high[i] - low[i]) for i in (0, 1))
    place = u.repeat(grid)[None], v.repeat_interleave(grid)[None]
    # one row with all solids, then one row per solid alone
    seen = torch.cat([torch.ones(1, count, dtype=torch.bool), torch.eye(count, dtype=torch.bool)])
    row = torch.zeros(len(seen), dtype=torch.int64)
    ray = rays(batch, row, (place[0].expand(len(seen), -1), place[1].expand(len(seen), -1)))
    _, who, _ = nearest(batch, row, seen, ray)
    alone = (who[1:] == torch.arange(count)[:, None]).sum(1)
    together = torch.stack([(who[0] == k).sum() for k in range(count)])
    return (together / alone.clamp(min=1)).tolist()
