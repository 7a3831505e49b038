"""`unclip inspect`."""

import json
import math
from pathlib import Path


def inspect(*paths: Path) -> None:
    """Say what files hold: a checkpoint (net, size, config, origin), a system folder, or the recipe of a picture.

    Parameters
    ----------
    paths
        Checkpoints (.safetensors), system folders or pictures (.png).
    """
    from unclip.errors import UnclipError

    if not paths:
        raise UnclipError("nothing to inspect: expected a checkpoint, a system folder or a picture")
    for path in paths:
        print(_describe(path))


def _describe(path: Path) -> str:
    from unclip.images import read_recipe
    from unclip.places import SHIPPED

    if path.is_dir() or str(path) in SHIPPED:
        return _system(path)
    if path.suffix.lower() == ".png":
        return f"{path}: a picture\n{_indented(read_recipe(path))}"
    return _checkpoint(path)


def _checkpoint(path: Path) -> str:
    from safetensors import safe_open

    from unclip.checkpoint import read_header
    from unclip.config import to_dict

    header = to_dict(read_header(path))
    with safe_open(str(path), framework="pt") as file:
        slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 (no mapping)
        shapes = [part.get_shape() for part in slices]
        kinds = sorted({part.get_dtype() for part in slices})
    count = sum(math.prod(shape) for shape in shapes)
    if header["model"].get("merges"):
        header["model"]["merges"] = f"{len(header['model']['merges'])} merges"
    size = path.stat().st_size / 1e6
    title = f"{path}: a {header['net']}, {count:,} values in {len(shapes)} tensors ({', '.join(kinds)}), {size:.1f} MB"
    return f"{title}\n{_indented(header)}"


def _system(folder: Path) -> str:
    import torch

    from unclip.folder import assembled
    from unclip.interop.systems import found
    from unclip.loading import Shelf
    from unclip.places import FILE, located

    # some released ones are larger than memory: of them only configs are read
    released = not (located(folder) / FILE).is_file()
    parts = assembled(found(folder), Shelf(torch.device("cpu"), low_memory=released))
    stages = [stage for stage in (parts.prior, parts.decoder, *parts.upsamplers) if stage is not None]
    lines = [f"{folder}: the system {parts.config.name!r}, all parts fit together"]
    lines.append(f"  clip: {Path(parts.clip.weights.where).name} ({parts.clip.fingerprint[:12]})")
    for stage in stages:
        count = sum(parameter.numel() for parameter in stage.net.parameters())
        how = stage.sampling
        lines.append(
            f"  {stage.name}: {count:,} parameters, predicts {stage.process.config.predicts};"
            f" {how.sampler}, {how.steps} steps, guidance {how.guidance:g}{f', shrink {how.shrink:g}' if how.shrink else ''}"
        )
    if parts.matching is not None:
        count = sum(parameter.numel() for parameter in parts.matching.net.parameters())
        lines.append(f"  matcher: {count:,} parameters, reads CLIP's block {parts.matching.net.config.layer}")
    kept = f"{len(parts.pca.components)} principal components" if parts.pca else "no principal components"
    weighed = {name: getattr(parts.config, name) for name in ("text_weight", "match_weight")}
    weights = ", ".join(f"{name} {value:g}" for name, value in weighed.items() if value or name == "text_weight")
    weight = f" ({weights})" if parts.config.best_of > 1 else ""
    lines.append(f"  one picture is the best of {parts.config.best_of} small ones{weight}; {kept}")
    if own := parts.config.variations.named:
        lines.append(f"  variations from fresh noise: {', '.join(f'{name} {value}' for name, value in own.items())}")
    return "\n".join(lines)


def _indented(values: dict) -> str:
    return "\n".join(f"  {line}" for line in json.dumps(values, indent=2, ensure_ascii=False).splitlines()[1:-1])
