"""What a user may set for one generation; shared by the Python API and the command line.

Free of torch and pydantic, so that `unclip --help` answers at once: `unclip.config.build` checks it when work begins.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

Sampler = Literal["ddpm", "ddim", "dpmpp_2m"]
Threshold = Literal["none", "static", "dynamic"]
Count = Annotated[int, Gt(0)]
Amount = Annotated[float, Ge(0), Lt(math.inf)]
Share = Annotated[float, Ge(0), Le(1)]

BATCH = 16
"""How many small pictures are drawn at once, tries among them; more is hardly faster on a CPU, four is by a fifth slower."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Choices for one generation; None stands for what the system's files recommend.

    Parameters
    ----------
    size
        Side of the pictures in pixels.
    guidance
        The decoder's guidance scale; 1 is none.
    steps
        The decoder's sampling steps.
    sampler
        The decoder's sampler.
    eta
        The decoder's noise under ddim: 0 none, 1 as ddpm.
    threshold
        How the decoder's estimates are kept within a picture's range: not at all, clipped, or scaled.
    negative
        A prompt to be guided away from, by an image embedding drawn for it and by its text.
    prior_guidance
        The prior's guidance scale; 1 is none.
    prior_steps
        The prior's sampling steps.
    candidates
        Embeddings that the prior draws for a picture; the best match of the prompt is kept.
    best_of
        Seeds whose small pictures are drawn for one; that which is most like the embedding it came from, and like its prompt,
        as CLIP and a matcher see it, is enlarged.
    text_weight
        How much likeness to the prompt counts in that choice, where likeness to the embedding counts 1; without effect on
        the best of 1.
    match_weight
        How much the system's matcher counts in that choice: the logarithm of its probability that the prompt is true of the
        picture; without effect on the best of 1.
    upsampler_steps
        Sampling steps of each upsampler.
    """

    size: Count | None = None
    guidance: Amount | None = None
    steps: Count | None = None
    sampler: Sampler | None = None
    eta: Share | None = None
    threshold: Threshold | None = None
    negative: str = ""
    prior_guidance: Amount | None = None
    prior_steps: Count | None = None
    candidates: Count | None = None
    best_of: Count | None = None
    text_weight: Amount | None = None
    match_weight: Amount | None = None
    upsampler_steps: Count | None = None

    @property
    def named(self) -> dict[str, Any]:
        """Those that are not left open."""
        return {name: value for name, value in vars(self).items() if value not in (None, "")}

    @property
    def matched(self) -> bool:
        """Whether a matcher has a say in which picture is kept."""
        return (self.best_of or 1) > 1 and bool(self.match_weight)

    def over(self, usual: Mapping[str, Any]) -> "Settings":
        """These, and the usual ones where they are left open."""
        return Settings(**{**usual, **self.named})
