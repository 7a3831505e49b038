"""What we write, read by diffusers: whole by the last version that can, and component by component by the newest."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unclip.folder import boxed
from unclip.interop.systems import found
from unclip.interop.writing import convert

from . import pipelines

OLD = ["diffusers==0.37.1", "transformers==4.57.1", "tokenizers==0.22.1", "huggingface_hub==0.36.0"]
THEIRS = [
    "httpx",
    "httpcore",
    "h11",
    "anyio",
    "sniffio",
    "requests",
    "urllib3",
    "charset-normalizer",
    "certifi",
    "idna",
]
PROMPTS = ["a red cube on top of a blue cube", "a dog"]
RUN = """
import sys, numpy, torch, diffusers
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel, UnCLIPPipeline, UnCLIPScheduler
from transformers import CLIPTextModelWithProjection, CLIPTokenizer
folder, out, whole, *prompts = sys.argv[1:]
if whole == "whole":
    pipe = UnCLIPPipeline.from_pretrained(folder)
else:
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
    kinds = dict(prior=PriorTransformer, decoder=UNet2DConditionModel, text_proj=UnCLIPTextProjModel,
        super_res_first=UNet2DModel, super_res_last=UNet2DModel, text_encoder=CLIPTextModelWithProjection,
        tokenizer=CLIPTokenizer, prior_scheduler=UnCLIPScheduler, decoder_scheduler=UnCLIPScheduler,
        super_res_scheduler=UnCLIPScheduler)
    pipe = UnCLIPPipeline(**{name: kind.from_pretrained(f"{folder}/{name}") for name, kind in kinds.items()})
rngs = [torch.Generator().manual_seed(k) for k in range(len(prompts))]
made = pipe(prompts, generator=rngs, prior_num_inference_steps=5, decoder_num_inference_steps=5,
    super_res_num_inference_steps=3, output_type="np").images
numpy.save(out, made)
print(diffusers.__version__)
"""


@pytest.fixture(scope="module")
def written(karlo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their pipeline, made ours, and written as theirs again."""
    root = tmp_path_factory.mktemp("reads")
    convert(found(karlo), root / "ours")
    convert(boxed(root / "ours"), root / "again", "diffusers")
    return root / "again"


def run(folder: Path, out: Path, how: str, *path: Path) -> tuple[str, Any]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ":".join(map(str, path))}
    words = [sys.executable, "-c", RUN, str(folder), str(out), how, *PROMPTS]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()[-1], np.load(out)


def expected(text_pipeline: Any) -> Any:
    rngs = [torch.Generator().manual_seed(k) for k in range(len(PROMPTS))]
    return pipelines.reference_run(text_pipeline, PROMPTS, rngs, (5, 5, 3)).pictures


def test_the_newest_reads_it_component_by_component(text_pipeline: Any, written: Path, tmp_path: Path) -> None:
    version, made = run(written, tmp_path / "made.npy", "parts")
    assert version >= "0.42"
    assert np.abs(made - expected(text_pipeline)).max() <= 1e-5


@pytest.mark.slow
def test_the_last_that_can_reads_it_whole(text_pipeline: Any, written: Path, tmp_path: Path) -> None:
    """diffusers 0.37.1, installed beside the newest; it needs the registry."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path / "old"), *OLD, *THEIRS]
    subprocess.run(pip, check=True, timeout=280)
    version, made = run(written, tmp_path / "made.npy", "whole", tmp_path / "old")
    assert version == "0.37.1"
    assert np.abs(made - expected(text_pipeline)).max() <= 1e-5
