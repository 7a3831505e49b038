"""The measuring tools on problems whose answers are known."""

import dataclasses
import math

import pytest
import torch

from tools.evaluate import draw, fidelity, stats
from tools.evaluate.judge import Verdict, judge
from tools.evaluate.kept import kept
from tools.evaluate.priors import rank
from tools.evaluate.prompts import prompts, tells_held_out
from tools.evaluate.upsamplers import edge_error, psnr
from tools.reader import Reading, Seen
from tools.reader.reading import relation
from tools.world.captions import Caption, Claim
from tools.world.relations import Relation
from unclip.errors import UnclipError
from unclip.settings import Settings
from unclip.system import UnCLIP

from ..systems import write_system

RED_CUBE = Seen("cube", "red", "large", "matte", on=False, x=-1.0, z=0.0, u=0.3, v=0.5)
BLUE_BALL = Seen("sphere", "blue", "small", "shiny", on=False, x=1.0, z=0.2, u=0.7, v=0.5)
WHOLE = {"floor": "white", "style": "photo", "light": "light 0", "pitch": "pitch 0", "zoom": "zoom 0"}
LEFT = Caption(
    "a red cube left of a blue ball",
    ((0, Claim(colour="red", shape="cube")), (1, Claim(colour="blue", shape="sphere"))),
    2,
    Relation(0, "left of", 1),
)


def seen(*things, **changes):
    return Reading(tuple(things), WHOLE | changes)


def test_a_true_picture_is_right_in_everything():
    verdicts = judge(LEFT, seen(RED_CUBE, BLUE_BALL))
    assert set(verdicts.values()) == {Verdict.RIGHT}
    assert verdicts.keys() == {"two objects", "binding", "relation", "relation and names", "count", "caption"}


def test_a_swap_is_told_from_an_error():
    blue_cube, red_ball = dataclasses.replace(RED_CUBE, colour="blue"), dataclasses.replace(BLUE_BALL, colour="red")
    assert judge(LEFT, seen(blue_cube, red_ball))["binding"] is Verdict.SWAPPED
    assert judge(LEFT, seen(blue_cube, BLUE_BALL))["binding"] is Verdict.WRONG
    assert judge(LEFT, seen(blue_cube, red_ball))["caption"] is Verdict.WRONG


def test_a_relation_is_judged_between_the_things_that_fit_the_names():
    mirrored = dataclasses.replace(RED_CUBE, x=1.0, u=0.7), dataclasses.replace(BLUE_BALL, x=-1.0, u=0.3)
    verdicts = judge(LEFT, seen(*mirrored))
    assert verdicts["relation"] is Verdict.WRONG
    assert verdicts["two objects"] is Verdict.RIGHT


def test_equal_things_are_told_apart_by_their_relation():
    claim = Claim(shape="cube")
    stacked = Caption("a cube on another cube", ((0, claim), (1, claim)), 2, Relation(0, "on top of", 1))
    upper = dataclasses.replace(RED_CUBE, on=True, v=0.3)
    assert judge(stacked, seen(RED_CUBE, upper))["relation"] is Verdict.RIGHT
    assert judge(stacked, seen(upper, RED_CUBE))["relation"] is Verdict.RIGHT
    assert judge(stacked, seen(RED_CUBE, BLUE_BALL))["relation"] is Verdict.WRONG


def test_what_cannot_be_read_is_neither_right_nor_dropped():
    one = Caption("a red cube on a white floor", ((0, Claim(colour="red", shape="cube")),), 1, floor="white")
    nothing = judge(one, seen())
    assert nothing.pop("floor") is Verdict.RIGHT
    assert set(nothing.values()) == {Verdict.UNREADABLE}
    guessed = dataclasses.replace(RED_CUBE, unsure=("colour",))
    verdicts = judge(one, seen(guessed))
    assert verdicts["colour"] is verdicts["one object"] is verdicts["caption"] is Verdict.UNREADABLE
    assert verdicts["shape"] is Verdict.RIGHT
    assert judge(one, seen(RED_CUBE, BLUE_BALL))["count"] is Verdict.WRONG


def test_relations_of_readings():
    assert relation(RED_CUBE, BLUE_BALL) == "left of"
    assert relation(BLUE_BALL, RED_CUBE) == "right of"
    assert relation(RED_CUBE, dataclasses.replace(RED_CUBE, z=2.0)) == "in front of"
    above = dataclasses.replace(BLUE_BALL, on=True, u=0.3, v=0.3)
    assert relation(above, RED_CUBE) == "on top of"
    assert relation(RED_CUBE, above) == "under"


def test_prompts_of_the_composition_split_tell_what_was_held_out():
    told = prompts("composition", 30)
    assert all(tells_held_out(prompt.caption) for prompt in told)
    assert told == prompts("composition", 40)[:30]
    assert not any(tells_held_out(prompt.caption) for prompt in prompts("test", 100))


def test_wilson_and_normal_intervals():
    half = stats.share([True, False] * 50)
    assert (half.low, half.high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    assert stats.share([True] * 10).high == pytest.approx(1)
    assert stats.share([True] * 10).low == pytest.approx(0.7225, abs=1e-4)
    found = stats.mean([1.0, 2.0, 3.0])
    assert found.value == 2
    assert found.high - 2 == pytest.approx(1.959964 / 3**0.5)


def test_frechet_distance_of_known_gaussians():
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(20_000, 3, generator=rng, dtype=torch.float64)
    assert fidelity.frechet(a, a) == pytest.approx(0, abs=1e-6)
    shifted = 2 * a + torch.tensor([1.0, 0.0, 2.0])  # |m|^2 = 5, and (2 - 1)^2 for each of three dimensions
    assert fidelity.frechet(a, shifted) == pytest.approx(8, rel=0.03)


def test_kernel_distance_is_unbiased():
    draws = torch.randn(2, 400, 8, generator=torch.Generator().manual_seed(1))
    assert abs(fidelity.kernel(draws[0], draws[1])) < 0.05
    assert fidelity.kernel(draws[0], draws[1] + 1) > 1


def test_precision_falls_with_strangers_and_recall_with_missing_modes():
    real = torch.randn(400, 2, generator=torch.Generator().manual_seed(4))
    real[200:] += 50

    def found(drawn: torch.Tensor) -> list[float]:
        return [one.value for one in fidelity.precision_recall(real, drawn)]

    assert found(real) == [1, 1]
    assert found(real[:200]) == [1, pytest.approx(0.5, abs=0.02)]
    assert found(torch.cat([real, real + 1000])) == [pytest.approx(0.5, abs=0.02), 1]


def test_copies_count_as_memorised():
    rng = torch.Generator().manual_seed(2)
    training, fresh, other = torch.randn(3, 300, 8, generator=rng)
    assert fidelity.memorised(training, fresh, training).value == 1
    assert fidelity.memorised(other, fresh, training).value < 0.05


def test_entropy():
    correction = 3 / (2 * 4 * math.log(2))  # Miller and Madow's, of four kinds among four draws
    assert fidelity.entropy(["a", "b", "c", "d"]) == pytest.approx(2 + correction)
    assert fidelity.entropy(["a", "a"]) == 0


def test_ranks_count_the_nearer_keys():
    keys = torch.eye(3)
    assert rank(keys, keys).tolist() == [0, 0, 0]
    assert rank(keys.roll(1, dims=0), keys).tolist() == [1, 1, 1]


def test_psnr_and_edges():
    x = torch.zeros(1, 3, 16, 16)
    assert psnr(x, x + 0.02).item() == pytest.approx(40, abs=1e-4)
    step = x.clone()
    step[..., 8:] = 1
    soft = torch.nn.functional.avg_pool2d(step, 3, stride=1, padding=1)
    assert edge_error(step, step).item() == 0
    assert edge_error(soft, step).item() > 0.5
    flat = torch.zeros_like(step)
    grain = 0.01 * torch.randn(step.shape, generator=torch.Generator().manual_seed(0))
    errors = edge_error(torch.cat([step, flat + grain]), torch.cat([step, flat]))
    assert errors[0].item() == 0
    assert 0 < errors[1].item() < 1, "a flat square counts as little as its grain is"


def test_what_was_drawn_is_kept_under_what_it_was_drawn_from(tmp_path):
    made = []

    def make() -> dict[str, torch.Tensor]:
        made.append(len(made))
        return {"x": torch.full((2, 3), len(made))[:, ::2]}

    def draw(**about):
        return int(kept(tmp_path / "kept", about, make)["x"][0, 0])

    assert [draw(seed=1, steps=6), draw(seed=2, steps=6), draw(steps=6, seed=1)] == [1, 2, 1]
    first, second = (tmp_path / "kept").iterdir()
    assert {first.suffix, second.suffix} == {".safetensors"}
    for path in (first, second):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UnclipError, match=r"safetensors: damaged, cut short or no safetensors file"):
        draw(seed=1, steps=6)
    first.unlink()
    second.unlink()
    assert draw(seed=1, steps=6) == 3


@pytest.mark.filterwarnings("ignore:the prompt has")  # the tiny CLIP reads few tokens
def test_tries_are_drawn_once(tmp_path):
    """With a folder as without one; what else could have made them looks for other files."""
    system, asked = UnCLIP.from_pretrained(write_system(tmp_path / "system"), "cpu"), prompts("test", 2)
    plain = draw.tries(system, "unclip", asked, [5, 6], 2)
    for _ in range(2):
        again = draw.tries(system, "unclip", asked, [5, 6], 2, tmp_path / "kept")
        assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
        assert len(list((tmp_path / "kept").iterdir())) == 2
    for changes in ({"guidance": 5.0}, {"prior_steps": 2}, {"candidates": 3}):
        draw.tries(system.at(Settings(**changes)), "unclip", asked, [5, 6], 1, tmp_path / "kept")
    draw.tries(system, "oracle", asked, [5, 6], 1, tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 2 + 4
