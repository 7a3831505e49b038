"""Probes of embeddings: they find what is there, and judge only prompts that they can."""

import torch

from tools.evaluate.order import CLASSES, DECAY, NAMES, Probe, _ordered, _told
from tools.evaluate.probe import probe
from tools.evaluate.prompts import prompts
from tools.world.captions import Claim
from tools.world.relations import Relation


def test_a_probe_tells_the_told_order_from_the_exchanged():
    """Embeddings that hold colour and shape of both as sums of random directions."""
    rng = torch.Generator().manual_seed(0)
    y = torch.stack([torch.randint(size, (3000,), generator=rng) for size in CLASSES], dim=1)
    tables = [torch.randn(size, 64, generator=rng) for size in CLASSES]
    x = sum(table[y[:, k]] for k, table in enumerate(tables)) + torch.randn(3000, 64, generator=rng)
    fitted = Probe(probe(x[:2500], y[:2500], CLASSES, DECAY))
    colours, shapes = NAMES.values()
    right = told = 0
    for emb, (c1, s1, c2, s2) in zip(x[2500:], y[2500:].tolist(), strict=True):
        first, second = Claim(colour=colours[c1], shape=shapes[s1]), Claim(colour=colours[c2], shape=shapes[s2])
        if (c1, s1) != (c2, s2):
            told += 1
            right += fitted.prefers(emb, first, second)
            assert fitted.prefers(emb, first, second) != fitted.prefers(emb, second, first)
    assert right > 0.97 * told
    assert not fitted.prefers(x[0], Claim(colour="red"), Claim(shape="cube")), "nothing that both are told of differs"


def test_relations_are_told_along_their_axis():
    assert _ordered(Relation(0, "left of", 1)) == ("left of", 0, 1)
    assert _ordered(Relation(0, "right of", 1)) == ("left of", 1, 0)
    assert _ordered(Relation(2, "under", 1)) == ("on top of", 1, 2)


def test_only_prompts_of_two_things_that_differ_are_judged():
    found = [(prompt, _told(prompt)) for prompt in prompts("test", 300)]
    judged = [(prompt, told) for prompt, told in found if told is not None]
    assert 40 < len(judged) < 120
    for prompt, (axis, first, second) in judged:
        assert len(prompt.scene.things) == 2
        assert {first, second} == set(dict(prompt.caption.things).values())
        assert axis.split()[0] in ("left", "in", "on")
