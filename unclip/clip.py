"""A frozen CLIP through open_clip: image and text embeddings, hidden text states, and a fingerprint."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

import open_clip
import torch
from jaxtyping import Bool, Float, Int
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from pydantic import Field
from torch import Tensor, nn

from unclip.checkpoint import Header, Weights, load_strictly, save, weights
from unclip.config import Positive, build, config, to_dict
from unclip.errors import UnclipError
from unclip.images import cropped, resize, square
from unclip.loading import Shelf
from unclip.tokenizer import Tokenizer

FITS: dict[str, Callable[[Tensor, int], Tensor]] = {"square": square, "shortest": cropped, "squash": resize}
RESNET_BLOCKS = 5  # the stem and four layers
TOWERS = {"vision": CLIPVisionCfg, "text": CLIPTextCfg}  # open_clip's configs of them, which hold its defaults
Triple = tuple[float, float, float]


@config
class ClipConfig:
    """An architecture in open_clip's words (`vision` and `text` are its vision_cfg and text_cfg) and what stands around it.

    Without `vision` it reads texts only. `quick_gelu` has no default: a wrong one is silent and moves every embedding.
    `merges` and `padding_text` as in Tokenizer. `normalize`: embeddings are L2-normalised. `fit` makes a picture CLIP's
    square: "square" cuts out the centre and resizes it, "shortest" does so in the other order and in 8 bits (as
    transformers), "squash" resizes the whole (as native Karlo).
    """

    embed_dim: Positive
    quick_gelu: bool
    vision: dict[str, Any] | None = None
    text: dict[str, Any]
    mean: Triple = OPENAI_DATASET_MEAN
    std: Triple = OPENAI_DATASET_STD
    merges: tuple[str, ...] | None = Field(default=None, repr=False)
    padding_text: str | None = None
    normalize: bool = True
    fit: Literal["square", "shortest", "squash"] = "square"

    def __post_init__(self) -> None:
        for name, kind in TOWERS.items():
            unknown = (getattr(self, name) or {}).keys() - {field.name for field in fields(kind)}
            if unknown:
                raise ValueError(f"{name}: open_clip has no key {sorted(unknown)[0]!r} there")

    @property
    def context(self) -> int:
        """How many text tokens the net reads, start and end included."""
        return self.text.get("context_length", CLIPTextCfg().context_length)

    @property
    def image_size(self) -> int:
        """The side of the pictures it sees."""
        return (self.vision or {}).get("image_size", CLIPVisionCfg().image_size)

    @property
    def text_width(self) -> int:
        """Width of the hidden text states."""
        return self.text.get("width", CLIPTextCfg().width)


@dataclass(frozen=True)
class Text:
    """What CLIP makes of prompts: their embeddings, the last hidden states (after the final LayerNorm), the token mask.

    States and mask are None where embeddings come from a file that holds no states.
    """

    emb: Float[Tensor, "b d"]
    hidden: Float[Tensor, "b l w"] | None
    mask: Bool[Tensor, "b l"] | None


def build_net(config: ClipConfig) -> open_clip.CLIP:
    """open_clip's model of this config, freshly initialised; without its picture tower where the config has none."""
    text = config.text | {"vocab_size": Tokenizer(config.merges).vocabulary}
    vision: dict[str, Any] = {"layers": 1, "width": 64} if config.vision is None else dict(config.vision)
    try:
        net = open_clip.CLIP(config.embed_dim, vision, text, quick_gelu=config.quick_gelu)  # type: ignore[arg-type]
    except (TypeError, ValueError, AssertionError, ZeroDivisionError, RuntimeError) as error:
        raise UnclipError(f"open_clip cannot build this CLIP: {error}") from None
    if config.vision is None:
        del net.visual
    return net


class Clip:
    """A CLIP whose weights are read when they are first used, never trained, and always in evaluation mode."""

    def __init__(
        self,
        source: str | Path | Weights,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        shelf: Shelf | None = None,
    ) -> None:
        """Opens a checkpoint that `export` wrote, or such weights; on a `shelf` it shares the memory of others there.

        Raises UnclipError when they are no CLIP's.
        """
        self.weights = source if isinstance(source, Weights) else weights(source)
        self.device, self.dtype = torch.device(device), dtype
        self.header, where = self.weights.header, self.weights.where
        if self.header.net != "clip":
            raise UnclipError(f"{where}: holds a {self.header.net}; expected a clip")
        self.config = build(ClipConfig, self.header.model, f"{where}: header: model")
        self.tokenizer = Tokenizer(self.config.merges, self.config.padding_text)
        self.shelf = shelf
        if shelf is not None:
            shelf.releases.append(self.release)

    @property
    def fingerprint(self) -> str:
        """Names the embedding space: equal for equal weights, whatever the precision of the file."""
        return self.header.fingerprint

    def release(self) -> None:
        """Lets the weights go; they are read again when they are next used."""
        self.__dict__.pop("net", None)

    @functools.cached_property
    def net(self) -> open_clip.CLIP:
        """open_clip's module."""
        with torch.random.fork_rng(devices=[]):  # reading a file must not move the global generator
            net = build_net(self.config)
        if self.shelf is not None:
            self.shelf.make_room()
        load_strictly(net, self.weights.read(), self.weights.where)
        return net.to(self.device, self.dtype).eval().requires_grad_(False)

    def image_emb(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Embeddings of pictures in [-1, 1] of any size, which are made CLIP's square as its config's `fit` says.

        Raises UnclipError when this CLIP reads texts only.
        """
        if self.config.vision is None:
            raise UnclipError(f"{self.weights.where}: reads texts only, and this needs the embedding of a picture")
        with torch.no_grad():
            return self._scaled(self.net.encode_image(normalise(images.to(self.device, self.dtype), self.config)))

    def cells(self, images: Float[Tensor, "b 3 h w"], layer: int) -> Float[Tensor, "b c s s"]:
        """The feature map that block `layer` of the picture tower makes of pictures in [-1, 1].

        0 is a ResNet's stem, or a ViT's first block, whose class token is left out. Raises UnclipError when this CLIP reads
        texts only, or has no such block.
        """
        if self.config.vision is None:
            raise UnclipError(f"{self.weights.where}: reads texts only, and this needs what it sees in a picture")
        tower = self.net.visual
        vit = isinstance(tower, VisionTransformer)
        blocks = len(tower.transformer.resblocks) if vit else RESNET_BLOCKS if isinstance(tower, ModifiedResNet) else 0
        if not 0 <= layer < blocks:
            raise UnclipError(
                f"{self.weights.where}: layer = {layer}, but its picture tower has {blocks} to read, from 0 on"
            )
        seen = normalise(images.to(self.device, self.dtype), self.config)
        with torch.no_grad():  # open_clip's ResNets read stop_early the wrong way round
            made = tower.forward_intermediates(seen, indices=[layer], stop_early=vit, intermediates_only=True)
        return cast(Tensor, made["image_intermediates"][0])

    def text(self, prompts: Sequence[str]) -> Text:
        """Embeddings and hidden states of prompts; warns where one is cut."""
        ids, mask = self.tokenizer(prompts, self.config.context)
        return self.encode(ids.to(self.device), mask.to(self.device))

    def encode(self, ids: Int[Tensor, "b l"], mask: Bool[Tensor, "b l"]) -> Text:
        """Embeddings and hidden states of token ids."""
        with torch.no_grad():
            out: dict[str, Any] = self.net.forward_intermediates(text=ids, text_indices=1, normalize=False)
            hidden: Tensor = cast(nn.Module, self.net.ln_final)(out["text_intermediates"][-1])
            return Text(self._scaled(out["text_features"]), hidden, mask)

    def _scaled(self, emb: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        return torch.nn.functional.normalize(emb, dim=-1) if self.config.normalize else emb


def normalise(images: Float[Tensor, "b 3 h w"], config: ClipConfig) -> Float[Tensor, "b 3 s s"]:
    """Pictures in [-1, 1] as a CLIP of this config wants them: its size, its mean and standard deviation."""
    mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (config.mean, config.std))
    return ((FITS[config.fit](images, config.image_size) + 1) / 2 - mean) / std


def export(net: open_clip.CLIP, config: ClipConfig, path: str | Path, provenance: dict[str, Any]) -> None:
    """Writes a CLIP as a checkpoint that `Clip` opens; done before anything is embedded with it."""
    save(path, net.state_dict(), Header(net="clip", model=to_dict(config), provenance=provenance))
