"""`unclip generate`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveInt

from unclip.cli.output import check_folder, progress, save, slug
from unclip.settings import Settings


def generate(
    *prompts: str,
    model: str = "demo",
    number: Annotated[PositiveInt, Parameter(name=["--number", "-n"])] = 4,
    seed: NonNegativeInt | None = None,
    batch: PositiveInt = 4,
    out: Path = Path("outputs"),
    device: str = "auto",
    dtype: str = "auto",
    settings: Annotated[Settings, Parameter(name="*")] = Settings(),
) -> None:
    """Draw pictures of prompts: a PNG for each, which holds its recipe, and a grid of all. Nothing is overwritten.

    Parameters
    ----------
    prompts
        What to draw. An empty prompt draws unconditionally.
    model
        The folder of a system (with system.toml); "demo" is the one that comes with this package.
    number
        Pictures per prompt.
    seed
        Picture k of a prompt gets seed + k, and is the same alone or in any batch. Default: a random one, which is printed.
    batch
        Pictures drawn at once.
    out
        Folder for the pictures.
    device
        auto, cpu, cuda, cuda:N or mps.
    dtype
        auto, float32, bfloat16 or float16.
    """
    import secrets

    from unclip.config import build, to_dict
    from unclip.errors import UnclipError

    if not prompts:
        raise UnclipError('no prompt given; expected one, as in: unclip generate "a red cube"')
    check_folder(out)
    chosen = to_dict(build(Settings, asdict(settings), "generate"))
    from unclip.system import UnCLIP  # takes seconds: only once the request is known to make sense

    system = UnCLIP.from_pretrained(model, device, dtype)
    first = secrets.randbelow(2**31) if seed is None else seed
    words = [prompt for prompt in prompts for _ in range(number)]
    seeds = [first + k for _ in prompts for k in range(number)]
    done = []
    # what makes no sense is refused here, before there are bars
    pictures = system.generate(words, seeds, batch, lambda stage, step: on_step(stage, step), **chosen)
    with progress(system.plan(len(words), batch, **chosen)) as on_step:
        for picture in pictures:
            done.append(picture.image)
            path = save(picture.image, out, f"{slug(picture.prompt)}-{picture.seed}", picture.recipe)
            print(path, flush=True)
    if len(done) > 1:
        from unclip.images import grid

        print(save(grid(done, number if len(prompts) > 1 else None), out, f"{slug(words[0])}-grid"))
