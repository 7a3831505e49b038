"""The demo world: seeded scenes of coloured solids on a floor, their captions and their renders at any size.

`sample(seed, index, split)` is a scene, `captions(scene)` what people might say of it, `render(scenes, size)` its
pixels; `python -m tools.world OUT` writes webdataset shards of all three.
"""

from tools.world.captions import captions
from tools.world.raycast import render
from tools.world.relations import relations
from tools.world.sampling import sample
from tools.world.scene import Scene

__all__ = ["Scene", "captions", "relations", "render", "sample"]
