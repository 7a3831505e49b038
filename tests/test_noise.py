"""Noise: a function of stage, seed and draw, and of nothing else."""

import torch

from unclip.noise import Thread, augmented, generator, normal, seeded, stream


def draws(seeds, stage="decoder", count=2):
    source = stream(stage, seeds, (3, 4))
    return torch.stack([source() for _ in range(count)])


def test_a_row_is_the_same_alone_in_any_batch_and_in_any_place():
    together = draws([5, 9, 2])
    assert together.dtype == torch.float32
    for place, seed in enumerate([5, 9, 2]):
        assert torch.equal(together[:, place : place + 1], draws([seed]))
    assert torch.equal(draws([2, 5]), together[:, [2, 0]])


def test_streams_differ_by_stage_seed_and_draw():
    seen = [*draws([0, 1], count=3).flatten(0, 1), *draws([0], "prior/0"), *draws([0], "prior/1")]
    assert len({tuple(one.flatten().tolist()) for one in seen}) == len(seen)


def test_streams_are_standard_normal_and_uncorrelated():
    source = stream("decoder", range(64), (512,))
    first, second = source(), source()
    assert abs(first.mean()) < 0.02
    assert abs(first.var() - 1) < 0.03
    for other in (second, first.roll(1, dims=0)):
        assert abs((first * other).mean()) < 0.02


def test_global_random_state_neither_matters_nor_moves():
    torch.manual_seed(0)
    before, one = torch.get_rng_state(), draws([1])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(draws([1]), one)


def test_a_generator_depends_on_each_part_of_its_key():
    first = [torch.randn(4, generator=generator(*key)).tolist() for key in [(0, 1, 2), (0, 1, 3), (0, 2, 2), (1, 1, 2)]]
    assert len({tuple(one) for one in first}) == 4
    assert torch.randn(4, generator=generator(0, 1, 2)).tolist() == first[0]


def test_augmentation_keeps_the_variance_and_at_level_0_the_picture():
    images, eps = (stream(name, range(3), (3, 64, 64))() for name in ("images", "eps"))
    made = augmented(images, torch.tensor([0.0, 0.6, 1.0]), eps)
    assert torch.equal(made[0], images[0])
    assert torch.allclose(made[1], 0.8 * images[1] + 0.6 * eps[1], atol=1e-6)
    assert torch.equal(made[2], eps[2])


def test_a_thread_runs_through_all_stages_of_one_picture():
    """diffusers' order: x_T and the steps' noise of the prior, then of the decoder, then of the upsampler."""
    source = torch.Generator().manual_seed(7)
    shapes = [("prior/0", (5,)), ("decoder", (3, 4)), ("upsampler-8", (3, 8))]
    wanted = [torch.randn(1, *shape, generator=source) for _, shape in shapes for _ in range(3)]
    thread = Thread(7)
    drawn = [source() for name, shape in shapes for source in [stream(name, [thread], shape)] for _ in range(3)]
    assert all(torch.equal(one, other) for one, other in zip(drawn, wanted, strict=True))


def test_a_native_thread_draws_two_rows_under_guidance_and_for_the_last_steps():
    source = torch.Generator().manual_seed(7)
    wanted = []
    for rows, shape in ((2, (5,)), (2, (3, 4)), (1, (3, 8))):
        draws = [torch.randn(rows, *shape, generator=source) for _ in range(3)]  # x_T, a step, the last step
        wanted += draws[:2]
    thread = Thread(7, native=True)
    shapes = [("prior/0", (5,)), ("decoder", (3, 4)), ("upsampler-8", (3, 8))]
    drawn = [source() for name, shape in shapes for source in [stream(name, [thread], shape)] for _ in range(2)]
    assert all(torch.equal(one[0], other[0]) for one, other in zip(drawn, wanted, strict=True))


def test_threads_do_not_depend_on_the_batch():
    together = stream("decoder", [Thread(5), Thread(9)], (3, 4))()
    assert torch.equal(together[1:], stream("decoder", [Thread(9)], (3, 4))())
    assert seeded("streams", 3) == 3
    assert seeded("native", 3).native
    assert stream("decoder", [seeded("diffusers", 3, torch.float64)], (2,))().dtype == torch.float64


def test_training_noise_is_a_function_of_the_generators_state():
    cpu = torch.device("cpu")
    rng, again = generator("step", 1), generator("step", 1)
    first, second = normal((4, 3), rng, cpu), normal((4, 3), rng, cpu)
    assert torch.equal(normal((4, 3), again, cpu), first)
    assert not torch.equal(first, second)
