"""What the upsamplers' stage adds to the loop: crops, corruption told to the net, PSNR beside bicubic."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.data import Batch, validation_batches
from stages.upsampler import Objective, UpsamplerRun, psnr
from unclip.checkpoint import weights
from unclip.config import build
from unclip.diffusion.process import Process
from unclip.errors import UnclipError
from unclip.images import resize
from unclip.loading import Shelf
from unclip.models.upsampler import Upsampler, UpsamplerCond
from unclip.noise import stream
from unclip.priors import finish
from unclip.stage import open_stage


def begun(lab: Any, *overrides: str) -> tuple[Objective, Batch]:
    settings = build(UpsamplerRun, lab.values("upsampler", Path("none"), *overrides), "upsampler")
    (batch,) = validation_batches(settings.data, 8, 8)
    return Objective(settings, Process(settings.process)), batch


class Spy(nn.Module):
    """A net that notes what it is asked and answers 0."""

    def forward(self, x: Tensor, t: Tensor, cond: UpsamplerCond) -> Tensor:
        self.x, self.t, self.cond = x, t, cond
        return torch.zeros_like(x)


def test_the_small_picture_belongs_to_the_crop(lab: Any) -> None:
    goal, batch = begun(lab, "degrade.kind=none", "degrade.noise_level=0.0", "model.level=false")
    x0, cond = goal.pair(batch, torch.Generator().manual_seed(0))
    assert x0.shape == (8, 3, 8, 8)
    assert cond.low_res.shape == (8, 3, 2, 2)
    assert cond.level is None
    torch.testing.assert_close(cond.low_res, nn.functional.avg_pool2d(x0, 4))
    assert batch.images is not None
    places = [_place(picture, crop) for picture, crop in zip(batch.images, x0, strict=True)]
    assert all(row % 4 == column % 4 == 0 for row, column in places)
    assert len(set(places)) > 2


def _place(picture: Tensor, crop: Tensor) -> tuple[int, int]:
    found = [
        (i, j)
        for i in range(picture.shape[1] - 7)
        for j in range(picture.shape[2] - 7)
        if torch.equal(picture[:, i : i + 8, j : j + 8], crop)
    ]
    return found[0]


@pytest.mark.parametrize("more", [(), ("model.residual=0.2", "sampling.threshold=none")])
def test_the_loss_is_that_of_v_and_the_level_is_told(lab: Any, more: tuple[str, ...]) -> None:
    goal, batch = begun(lab, *more)
    spy = Spy()
    loss = goal(spy, batch, torch.Generator().manual_seed(3))["loss"]
    image, cond = goal.pair(batch, torch.Generator().manual_seed(3))
    x0 = (image - resize(cond.low_res, 8)) / 0.2 if more else image
    assert torch.equal(spy.cond.low_res, cond.low_res)
    assert spy.cond.level is not None
    assert cond.level is not None
    assert torch.equal(spy.cond.level, cond.level)
    assert len(cond.level.unique()) == 8
    assert 0 <= float(cond.level.min()) < float(cond.level.max()) <= 0.2
    alpha_bar = goal.process.schedule.at(spy.t)[:, None, None, None].float()
    eps = (spy.x - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
    v = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0
    torch.testing.assert_close(loss, v.square().mean(dim=(1, 2, 3)), rtol=1e-3, atol=1e-4)
    assert len(spy.t.unique()) > 3


def test_a_crop_that_does_not_fit_is_one_line(lab: Any, tmp_path: Path) -> None:
    with pytest.raises(UnclipError, match="a crop of 32 pixels does not fit into images of 16 x 16"):
        lab.train("upsampler", tmp_path / "run", "objective.crop=32")
    with pytest.raises(UnclipError, match="12x12 pixels does not fit this net: both sides must be multiples of 8"):
        lab.train("upsampler", tmp_path / "run", "objective.crop=12", "model.unet.patch=4")


def test_a_residual_is_not_thresholded_as_a_picture(lab: Any, tmp_path: Path) -> None:
    with pytest.raises(UnclipError, match=r'what is diffused is no picture; set sampling.threshold = "none"'):
        lab.train("upsampler", tmp_path / "run", "model.residual=0.1")
    for stage in ("prior", "decoder", "upsampler"):
        with pytest.raises(UnclipError, match=r"sampling\.shrink = 0\.1: is for upsamplers that draw a residual"):
            lab.train(stage, tmp_path / "run", "sampling.shrink=0.1")


def test_psnr_is_measured_beside_bicubic(lab: Any, tmp_path: Path) -> None:
    run = lab.train("upsampler", tmp_path / "run", "degrade.noise_level=0.0", "model.level=false")
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    measured = [row for row in rows if "psnr" in row]
    assert [row["step"] for row in measured] == [0, 3, 6]
    assert len({row["psnr_bicubic"] for row in measured}) == 1  # always the same crops, corrupted alike
    assert len({row["psnr"] for row in measured}) == 3
    assert psnr(torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.02)) == pytest.approx(40.0)


def test_the_export_upsamples(lab: Any, tmp_path: Path) -> None:
    run = lab.train("upsampler", tmp_path / "run", "run.steps=2")
    found = weights(run / "weights.safetensors")
    stage = open_stage("upsampler", found, Upsampler, Shelf(torch.device("cpu")))
    assert found.header.parents == {}
    low = torch.zeros(2, 3, 4, 4)
    drawn = finish(stage, stage.run(UpsamplerCond(low_res=low), stream("x", (0, 1), (3, 16, 16))))
    assert drawn.shape == resize(low, 16).shape
