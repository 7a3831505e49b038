"""Several small pictures for one: which is kept, and that the choice is a function of the seed alone."""

from typing import Any

import pytest
import torch

from unclip.choosing import Wanted, best
from unclip.clip import Clip
from unclip.errors import UnclipWarning
from unclip.images import to_tensor
from unclip.system import UnCLIP

WORDS = {"size": 16, "best_of": 4}


@pytest.fixture(scope="module")
def system(folder) -> UnCLIP:
    return UnCLIP.from_pretrained(folder, "cpu")


def pictures(system: UnCLIP, *given: Any, **settings: Any) -> torch.Tensor:
    return torch.stack([to_tensor(one.image) for one in system.generate(*given, **settings)])


class Brightness(Clip):
    """Sees how bright a picture's two halves are."""

    def __init__(self) -> None:
        pass

    def image_emb(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([half.mean(dim=(1, 2, 3)) for half in images.chunk(2, dim=-1)], dim=1)


def test_the_likest_is_kept_row_by_row_and_the_first_of_equals():
    left, right = torch.full((2, 3, 4, 4), 0.1), torch.full((2, 3, 4, 4), 0.1)
    left[..., :2], right[..., 2:] = 1, 1
    axes = torch.eye(2)
    likes = [Wanted(axes.flip(0), torch.tensor([True, True]))]
    clip = Brightness()
    assert torch.equal(best(clip, [left, right], likes), torch.stack([right[0], left[1]]))
    # a row that nothing speaks for keeps its first picture
    likes = [Wanted(axes.flip(0), torch.tensor([False, True]))]
    assert torch.equal(best(clip, [left, right], likes), left)


def test_the_best_of_one_is_the_picture_itself(system):
    assert torch.equal(
        pictures(system, "a red cube", [3], size=16), pictures(system, "a red cube", [3], size=16, best_of=1)
    )


def test_the_best_is_one_of_those_drawn_and_no_worse(system):
    """Best of 4 scores at least as well as best of 2, and that as the first, by the very sum that chooses."""
    text = system.clip.text(["a red cube"]).emb

    def score(count: int) -> float:
        made = next(system.generate("a red cube", [5], size=16, best_of=count))
        seen = system.clip.image_emb(to_tensor(made.image)[None])
        return float((seen @ text.T).sum() + (seen @ made.image_emb))

    one, two, four = map(score, (1, 2, 4))
    assert one - 1e-3 <= two <= four + 1e-3  # the finished picture is rounded to 8 bits


def test_alone_or_in_a_batch_the_same_is_chosen(system):
    prompts, seeds = ["a red cube", "a large green sphere", "two cones"], [7, 8, 9]
    together = pictures(system, prompts, seeds, batch=3, **WORDS)
    alone = torch.cat([pictures(system, [one], [seed], **WORDS) for one, seed in zip(prompts, seeds, strict=True)])
    assert (together - alone).abs().max() <= 1 / 127.5 + 1e-6
    first = pictures(system, prompts, seeds, batch=3, size=16, best_of=1)
    assert not torch.equal(together, first), "four draws, and never another than the first"


def test_the_recipe_replays_it_and_the_plan_counts_it(system):
    made = system.generate("a red cube", [11], **WORDS)
    assert made.plan["decoder"] == 4 * system.decoder.sampling.steps
    picture = next(made)
    assert picture.recipe["settings"]["best_of"] == 4
    assert next(system.replay(picture.recipe)).image.tobytes() == picture.image.tobytes()


def test_where_noise_is_the_pictures_own_nothing_is_chosen(system):
    picture = next(system.generate("a red cube", [1], size=16)).image
    with pytest.warns(UnclipWarning, match="best_of has no effect"):
        made = system.reconstruct(picture, steps=3, **WORDS)
    assert made.plan["decoder"] == 3
    assert next(made).recipe["settings"]["best_of"] == 1
    assert system.vary(picture, n=1, **WORDS).plan["decoder"] == 4 * system.decoder.sampling.steps
