"""CLIPs as OpenAI published them: programs, of which only their own are opened."""

import hashlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import open_clip
import torch
from torch import Tensor

from unclip.errors import UnclipError
from unclip.interop.files import expect

SIZES = ("input_resolution", "context_length", "vocab_size")  # what the archives hold beside weights


def open_openai(path: str | Path) -> Mapping[str, Tensor]:
    """The tensors of a CLIP as OpenAI published it (ViT-L-14.pt and its siblings), in half precision.

    Such a file is a program, and is opened only where its SHA-256 is one that OpenAI published; else raises UnclipError.
    """
    path = Path(path)
    expect(path, "script")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found not in openai_digests():
        told = f"a TorchScript archive, a program, and none that OpenAI published (SHA-256 {found[:12]}...)"
        raise UnclipError(f"{path}: {told}; get OpenAI's own file, or a state dict as .safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and this file remains
        tensors = torch.jit.load(str(path), map_location="cpu").state_dict()
    return {name: tensor.detach() for name, tensor in tensors.items() if name not in SIZES}


def openai_digests() -> frozenset[str]:
    """SHA-256 of the CLIP files that OpenAI published, from the URLs in open_clip's table of downloads."""
    names = open_clip.list_pretrained_models_by_tag("openai")
    urls = " ".join(open_clip.get_pretrained_url(name, "openai") for name in names)
    return frozenset(re.findall(r"/([0-9a-f]{64})/", urls))
