"""Several small pictures for one: which is kept, and that the choice is a function of the seed alone."""

import dataclasses

import pytest
import torch

from unclip.choosing import Choice, likeness, picked
from unclip.clip import Clip, Text
from unclip.conditioning import Prompts
from unclip.drawing import Picture, tries_at_once
from unclip.errors import UnclipWarning
from unclip.images import to_tensor
from unclip.noise import redrawn
from unclip.system import UnCLIP

WEIGHT = 3.0
WORDS = {"size": 16, "best_of": 4, "text_weight": WEIGHT}


@pytest.fixture(scope="module")
def system(folder) -> UnCLIP:
    return UnCLIP.from_pretrained(folder, "cpu")


def pictures(system: UnCLIP, *given, **settings) -> torch.Tensor:
    return torch.stack([to_tensor(one.image) for one in system.generate(*given, **settings)])


class Brightness(Clip):
    """Sees how bright a picture's two halves are."""

    def __init__(self) -> None:
        pass

    def image_emb(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([half.mean(dim=(1, 2, 3)) for half in images.chunk(2, dim=-1)], dim=1)


def told(*words: str, emb: tuple[float, float]) -> Prompts:
    return Prompts(words, Text(torch.tensor([emb]).expand(len(words), 2), None, None))


def test_likeness_is_the_cosine_with_what_a_picture_was_drawn_from_and_with_its_text():
    left, right = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    left[..., :2], right[..., 2:] = 1, 1
    both = torch.cat([left, right])
    first, second = torch.tensor([[1.0, 0.0]]).expand(2, 2), torch.tensor([[0.0, 3.0]]).expand(2, 2)
    words = told("on the right", "on the right", emb=(0.0, 2.0))
    assert likeness(Brightness(), both, first, words).tolist() == [[1, 0], [0, 1]]
    assert likeness(Brightness(), 3 * both, second, words).tolist() == [[0, 1], [0, 1]]
    unsaid = likeness(Brightness(), both, second, told("on the right", " ", emb=(0.0, 2.0)))
    assert unsaid.tolist() == [[0, 1], [0, 0]]
    like = torch.tensor([[[0.5, 0.0], [0.0, 0.25]], [[0.0, 0.25], [0.75, 0.25]]])
    assert [Choice(2, weight).best(like).tolist() for weight in (0.5, 1.0)] == [[0, 1], [1, 1]]
    assert torch.equal(picked([left, right], torch.tensor([1])), right)


def test_the_best_of_one_is_the_picture_itself(system):
    assert torch.equal(
        pictures(system, "a red cube", [3], size=16), pictures(system, "a red cube", [3], size=16, best_of=1)
    )


@pytest.mark.parametrize("style", ["streams", "diffusers"])
def test_the_best_is_the_picture_of_one_of_the_seeds_and_the_likest(system, style):
    """To the last bit, in every size: also where one thread of noise runs through all stages."""
    system = dataclasses.replace(system, config=dataclasses.replace(system.config, noise=style))
    text = system.clip.text(["a red cube"]).emb[0]

    def score(picture: Picture) -> float:
        seen = system.clip.image_emb(to_tensor(picture.image)[None])
        return float(seen @ picture.image_emb + WEIGHT * seen @ text)

    apart = [next(system.generate("a red cube", [redrawn(5, k)], size=16)) for k in range(4)]
    order = sorted(range(4), key=lambda k: score(apart[k]), reverse=True)
    made = next(system.generate("a red cube", [5], batch=1, **WORDS))
    assert made.image.tobytes() == apart[order[0]].image.tobytes()
    assert torch.equal(made.image_emb, apart[order[0]].image_emb)
    large = next(system.generate("a red cube", [5], batch=1, **WORDS | {"size": 64}))
    alone = next(system.generate("a red cube", [redrawn(5, order[0])], size=64))
    assert large.image.tobytes() == alone.image.tobytes()


def test_alone_or_in_a_batch_the_same_is_chosen(system):
    prompts, seeds = ["a red cube", "a large green sphere", "two cones"], [7, 8, 9]
    together = pictures(system, prompts, seeds, batch=3, **WORDS)
    alone = torch.cat([pictures(system, [one], [seed], **WORDS) for one, seed in zip(prompts, seeds, strict=True)])
    assert (together - alone).abs().max() <= 1 / 127.5 + 1e-6
    first = pictures(system, prompts, seeds, batch=3, size=16, best_of=1)
    assert not torch.equal(together, first), "four draws, and never another than the first"


def test_tries_fill_a_batch(system):
    """Of one picture four at once, of two two at once; and the same is drawn."""
    assert tries_at_once(8, pictures=1, size=4) == [range(4), range(4, 8)]
    assert tries_at_once(3, pictures=2, size=4) == [range(2), range(2, 3)]
    assert tries_at_once(2, pictures=4, size=4) == [range(1), range(1, 2)]
    runs = []
    for batch, expected in ((1, 8), (2, 4), (3, 4), (4, 2), (8, 1)):
        steps = []
        made = system.generate(
            ["a red cube", "two cones"],
            [7, 9],
            batch=batch,
            on_step=lambda stage, step, to=steps: to.append(stage),
            **WORDS,
        )
        runs.append(torch.stack([to_tensor(one.image) for one in made]))
        assert steps.count("decoder") == made.plan["decoder"] == expected * system.decoder.sampling.steps
        assert steps.count("prior") == made.plan["prior"]
    assert all((one - runs[0]).abs().max() <= 1 / 127.5 + 1e-6 for one in runs)


def test_the_recipe_replays_it_and_the_plan_counts_it(system):
    made = system.generate("a red cube", [11], batch=1, **WORDS)
    assert made.plan["decoder"] == 4 * system.decoder.sampling.steps
    picture = next(made)
    told = picture.recipe["settings"]
    assert (told["best_of"], told["text_weight"]) == (4, WEIGHT)
    assert next(system.replay(picture.recipe, batch=1)).image.tobytes() == picture.image.tobytes()


def test_a_recipe_from_before_the_text_had_a_part_replays_without(system):
    asked = {"batch": 1, "size": 16, "best_of": 4}
    seed = next(
        seed
        for seed in range(40)
        if not torch.equal(*(pictures(system, "a red cube", [seed], **asked, text_weight=w) for w in (0, 9)))
    )
    (before,) = system.generate("a red cube", [seed], **asked, text_weight=0)
    settings = {name: x for name, x in before.recipe["settings"].items() if name != "text_weight"}
    heavy = dataclasses.replace(system, config=dataclasses.replace(system.config, text_weight=9.0))
    assert next(heavy.generate("a red cube", [seed], **asked)).image.tobytes() != before.image.tobytes()
    assert next(heavy.replay(before.recipe | {"settings": settings}, batch=1)).image.tobytes() == before.image.tobytes()


def test_where_noise_is_the_pictures_own_nothing_is_chosen(system):
    picture = next(system.generate("a red cube", [1], size=16)).image
    with pytest.warns(UnclipWarning, match="best_of has no effect"):
        made = system.reconstruct(picture, steps=3, **WORDS)
    assert made.plan["decoder"] == 3
    assert next(made).recipe["settings"]["best_of"] == 1
    assert system.vary(picture, n=1, batch=1, **WORDS).plan["decoder"] == 4 * system.decoder.sampling.steps
