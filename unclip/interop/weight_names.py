"""How files of weights are called. Nothing here imports torch."""

import re
from collections.abc import Collection, Sequence

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".th")
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")


def chosen(names: Collection[str], stems: Sequence[str] = STEMS) -> list[str]:
    """Those of a folder's files that hold its weights: one file, or an index and its shards; [] if there are none.

    Safetensors come before pickles, and full precision before half.
    """
    for suffix in (".safetensors", ".bin"):
        for half in ("", ".fp16"):
            for stem in stems:
                single, index = f"{stem}{half}{suffix}", f"{stem}{suffix}.index{half}.json"
                if single in names:
                    return [single]
                shard = re.compile(rf"{stem}({half}-\d+-of-\d+|-\d+-of-\d+{half}){suffix}".replace(".", r"\."))
                shards = sorted(name for name in names if shard.fullmatch(name))
                if index in names and shards:
                    return [index, *shards]
    return []
