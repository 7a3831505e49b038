"""What several of these tests share: small random pipelines, each built and saved once, and files with code in them."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from . import pipelines


@pytest.fixture(scope="session")
def text_pipeline() -> Any:
    """Text to image."""
    return pipelines.text_to_image()


@pytest.fixture(scope="session")
def variation_pipeline() -> Any:
    """Image variations, with the same weights where both have them."""
    return pipelines.image_variation()


@pytest.fixture(scope="session")
def karlo(text_pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first one's folder, as the hub has it."""
    return pipelines.save(text_pipeline, tmp_path_factory.mktemp("karlo"))


@pytest.fixture(scope="session")
def variations(variation_pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second one's folder, in pickles."""
    return pipelines.save(variation_pipeline, tmp_path_factory.mktemp("variations"), pickles=True)


class Program(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.register_buffer("input_resolution", torch.tensor(224))

    def forward(self, x):
        return x * self.weight


@pytest.fixture
def marker(tmp_path):
    """A file that code in a malicious pickle would make; it never does."""
    path = tmp_path / "code-ran"
    yield path
    assert not path.exists()


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "ViT.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.save(torch.jit.script(Program()), str(path))
    return path
