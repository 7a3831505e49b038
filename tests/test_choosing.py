"""Several small pictures for one: which is kept, and that the choice is a function of the seed alone."""

import dataclasses
from collections.abc import Iterator, Sequence

import pytest
import torch

from unclip.choosing import Choice, Matching, likeness, picked
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
    return pictures_of(system.generate(*given, **settings))


def pictures_of(made: Iterator[Picture]) -> torch.Tensor:
    return torch.stack([to_tensor(one.image) for one in made])


class Brightness(Clip):
    """Sees how bright a picture's two halves are."""

    def __init__(self) -> None:
        pass

    def image_emb(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([half.mean(dim=(1, 2, 3)) for half in images.chunk(2, dim=-1)], dim=1)


class Bright(Matching):
    """Finds a text the truer, the brighter the picture."""

    def __init__(self) -> None:
        pass

    def __call__(self, clip: Clip, tries: Sequence[torch.Tensor], text: Text) -> torch.Tensor:
        return torch.stack([one.mean(dim=(1, 2, 3)) - 1 for one in tries])


def told(*words: str, emb: tuple[float, float]) -> Prompts:
    return Prompts(words, Text(torch.tensor([emb]).expand(len(words), 2), None, None))


def test_likeness_is_the_cosine_with_what_a_picture_was_drawn_from_and_with_its_text():
    left, right = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    left[..., :2], right[..., 2:] = 1, 1
    both = torch.cat([left, right])
    first, second = torch.tensor([[1.0, 0.0]]).expand(2, 2), torch.tensor([[0.0, 3.0]]).expand(2, 2)
    words = told("on the right", "on the right", emb=(0.0, 2.0))
    tries = [(both, first), (3 * both, second)]
    assert likeness(Brightness(), tries, words).tolist() == [[[1, 0], [0, 1]], [[0, 1]] * 2, [[0, 0]] * 2]
    half = told("on the right", " ", emb=(0.0, 2.0))
    assert likeness(Brightness(), tries[1:], half).tolist() == [[[0, 1]], [[0, 0]], [[0, 0]]]
    assert likeness(Brightness(), tries[1:], half, Bright()).tolist() == [[[0, 1]], [[0, 0]], [[-0.5, 0]]]


def test_the_best_is_that_of_the_weighted_sum():
    like = torch.tensor([[[0.5, 0.0], [0.0, 0.25]], [[0.0, 0.25], [0.75, 0.25]], [[-1.0, -1.0], [0.0, -3.0]]])
    weights = ((0.5, 0.0), (1.0, 0.0), (0.0, 1.0))
    assert [Choice(2, *pair).best(like).tolist() for pair in weights] == [[0, 1], [1, 1], [1, 0]]


def test_pictures_are_picked_row_by_row():
    left, right = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
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

    def likest(drawn: list[Picture], weight: float) -> int:
        seen = [system.clip.image_emb(to_tensor(one.image)[None])[0] for one in drawn]
        scores = [float(x @ one.image_emb + weight * x @ text) for x, one in zip(seen, drawn, strict=True)]
        return max(range(len(drawn)), key=lambda k: scores[k])

    def apart(seed: int) -> list[Picture]:
        return [next(system.generate("a red cube", [redrawn(seed, k)], size=16)) for k in range(4)]

    # a seed of which the text has another picture chosen, and not the first
    tried = ((seed, apart(seed)) for seed in range(40))
    seed, drawn = next(one for one in tried if 0 != likest(one[1], WEIGHT) != likest(one[1], 0))
    best = likest(drawn, WEIGHT)
    made = next(system.generate("a red cube", [seed], batch=1, **WORDS))
    assert made.image.tobytes() == drawn[best].image.tobytes()
    assert torch.equal(made.image_emb, drawn[best].image_emb)
    large = next(system.generate("a red cube", [seed], batch=1, **WORDS | {"size": 64}))
    alone = next(system.generate("a red cube", [redrawn(seed, best)], size=64))
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


@pytest.mark.parametrize(
    ("before", "now", "lacking"),
    [
        ({"best_of": 4, "text_weight": 0.0}, {"best_of": 4, "text_weight": 9.0}, ["text_weight"]),
        ({"best_of": 1}, {"best_of": 4}, ["best_of", "text_weight", "match_weight"]),
    ],
)
def test_a_recipe_from_before_a_setting_was_there_replays_without_it(system, before, now, lacking):
    """With a seed of which the setting changes the picture."""

    def drawn(seed: int, how: dict) -> Picture:
        return next(system.generate("a red cube", [seed], batch=1, size=16, **how))

    changed = (seed for seed in range(40) if drawn(seed, before).image.tobytes() != drawn(seed, now).image.tobytes())
    old = drawn(next(changed), before)
    settings = {name: x for name, x in old.recipe["settings"].items() if name not in lacking}
    newer = dataclasses.replace(system, config=dataclasses.replace(system.config, **now))
    assert next(newer.replay(old.recipe | {"settings": settings}, batch=1)).image.tobytes() == old.image.tobytes()


def test_a_variation_is_chosen_by_its_prompt_only_where_it_has_one(system):
    picture = next(system.generate("a red cube", [1], size=16)).image
    unprompted, prompted = (
        [
            pictures_of(system.vary(picture, prompt=words, seeds=range(8), batch=8, size=16, best_of=4, text_weight=w))
            for w in (0, 9)
        ]
        for words in ("", "two cones")
    )
    assert torch.equal(*unprompted)
    assert not torch.equal(*prompted)


def test_where_noise_is_the_pictures_own_nothing_is_chosen(system):
    picture = next(system.generate("a red cube", [1], size=16)).image
    with pytest.warns(UnclipWarning, match="best_of has no effect"):
        made = system.reconstruct(picture, steps=3, **WORDS)
    assert made.plan["decoder"] == 3
    assert next(made).recipe["settings"]["best_of"] == 1
    assert system.vary(picture, n=1, batch=1, **WORDS).plan["decoder"] == 4 * system.decoder.sampling.steps
