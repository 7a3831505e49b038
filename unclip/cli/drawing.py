"""What all commands that draw have in common: their options, opening the system, the bars, and what is left behind."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveInt

from unclip.cli.output import check_files, check_folder, progress, save, save_gif
from unclip.cli.plan import plan
from unclip.interop.hub import ahead
from unclip.settings import BATCH, Settings

if TYPE_CHECKING:
    from unclip.drawing import Pictures
    from unclip.system import UnCLIP

Make = Callable[["UnCLIP", dict[str, Any]], "Pictures"]
"""(system, what is passed on to the drawing: batch, on_step and settings) -> the pictures."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every command that draws.

    Parameters
    ----------
    model
        The folder of a system, ours (with system.toml) or as it was released; "demo" is the one that comes with this
        package, "karlo" or ORG/NAME is downloaded from the hub.
    out
        Folder for the pictures.
    batch
        Small pictures drawn at once, tries among them; fewer where they are enlarged.
    grid
        Also write all pictures on one sheet, where there are several.
    device
        auto, cpu, cuda, cuda:N or mps.
    dtype
        auto, float32, bfloat16, float16 or float64.
    low_memory
        Have one net at a time in memory: its weights are read again for every batch.
    arithmetic
        How released weights are drawn with: with their slips mended (own), or exactly as diffusers or native Karlo does.
    dry_run
        Say what would be loaded and drawn, and in how much memory; draw nothing.
    """

    model: str = "demo"
    out: Path = Path("outputs")
    batch: PositiveInt = BATCH
    grid: bool = True
    device: str = "auto"
    dtype: str = "auto"
    low_memory: bool = False
    arithmetic: Literal["own", "diffusers", "native"] = "own"
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The options of every command that draws, and those of the drawing itself."""

    common: Annotated[Common, Parameter(name="*")] = Common()
    settings: Annotated[Settings, Parameter(name="*")] = Settings()


@dataclass(frozen=True, kw_only=True)
class Several:
    """Options of commands that may draw several pictures of one kind.

    Parameters
    ----------
    number
        How many pictures; of each prompt, where there are several. Default: 1 for generate, 4 for the others.
    seed
        Picture k gets seed + k, and is the same alone or in any batch. Default: a random one, which names the file.
    """

    number: Annotated[PositiveInt | None, Parameter(name=["--number", "-n"])] = None
    seed: NonNegativeInt | None = None

    def seeds(self, usual: int = 4) -> range:
        """The pictures' seeds, random ones each time unless the first is set; of `usual` pictures unless told how many."""
        first = secrets.randbelow(2**31) if self.seed is None else self.seed
        return range(first, first + (self.number or usual))


Chosen = Annotated[Choices, Parameter(name="*")]
Many = Annotated[Several, Parameter(name="*")]


@dataclass(frozen=True)
class Names:
    """How files are called: `stem` for the sheet and the animation, `one` per picture (default: the stem and its seed)."""

    stem: str
    one: Sequence[str] | None = None
    columns: int | None = None
    gif: bool = False


def draw(choices: Choices, make: Make, names: Names, files: Iterable[Path] = ()) -> None:
    """Opens the system, draws, and saves each picture as soon as it is finished; prints where. `files` have to be there."""
    from unclip.config import build, to_dict
    from unclip.errors import UnclipError

    common = choices.common
    if names.gif and names.one and len(names.one) < 2:
        raise UnclipError("--gif: an animation of one picture would not move; ask for two or more, or leave --gif out")
    check_folder(common.out)
    check_files(files)
    chosen = to_dict(build(Settings, asdict(choices.settings), "settings"))
    ahead(common.model, weights=not common.dry_run)
    from unclip.opening import opened  # takes seconds: only once the request is known to make sense
    from unclip.system import UnCLIP

    dry = common.dry_run
    low = common.low_memory or dry
    system = UnCLIP(**opened(common.model, common.device, common.dtype, low, common.arithmetic, weights=not dry))
    done = []
    # what makes no sense is refused here, before there are bars
    drawing = {"batch": common.batch, "on_step": lambda stage, step: on_step(stage, step)}
    pictures = make(system, drawing | chosen)
    if common.dry_run:
        print(plan(system, pictures.plan))
        return
    with progress(pictures.plan) as on_step:
        for k, picture in enumerate(pictures):
            done.append(picture.image)
            name = names.one[k] if names.one else f"{names.stem}-{picture.seed}"
            print(save(picture.image, common.out, name, picture.recipe), flush=True)
    if len(done) > 1 and common.grid:
        from unclip.images import grid

        print(save(grid(done, names.columns), common.out, f"{names.stem}-grid"))
    if names.gif:
        print(save_gif(done, common.out, names.stem))
