"""The latent pair (image_emb, x_T) of a picture, and arithmetic in embedding space (2204.06125, sections 3 and 4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from unclip import checkpoint
from unclip.errors import UnclipError

PARALLEL = 1e-6  # radians; below this angle an arc is as good as a line


@dataclass(frozen=True, eq=False)
class Latent:
    """What determines a decoder's picture without chance: its CLIP embedding, and the noise x_T that DDIM starts from.

    `prompt` is the text that the inversion told the decoder. `weights` are the fingerprints of the CLIP and the decoder
    that it belongs to, by role; no other decoder leads from x_T to the picture.
    """

    image_emb: Float[Tensor, " d"]
    x_T: Float[Tensor, "c h w"]
    prompt: str = ""
    weights: dict[str, str] | None = None

    def save(self, path: str | Path) -> None:
        """Writes the pair as a safetensors file, whole or not at all."""
        tensors = {"image_emb": self.image_emb, "x_T": self.x_T}
        told = {"prompt": self.prompt}
        checkpoint.save(
            path, tensors, checkpoint.Header(net="latent", model={}, parents=self.weights or {}, provenance=told)
        )

    @classmethod
    def load(cls, path: str | Path) -> "Latent":
        """The pair in a file that `save` wrote. Raises UnclipError for any other file."""
        header = checkpoint.read_header(path)
        if header.net != "latent":
            raise UnclipError(
                f"{path}: holds a {header.net}; expected a latent, as `unclip reconstruct --latent` saves it"
            )
        tensors = checkpoint.read_tensors(path)
        if set(tensors) != {"image_emb", "x_T"} or tensors["image_emb"].ndim != 1 or tensors["x_T"].ndim != 3:
            raise UnclipError(f"{path}: expected an image_emb [d] and an x_T [channels, height, width]")
        prompt = str(header.provenance.get("prompt", ""))
        return cls(tensors["image_emb"].float(), tensors["x_T"].float(), prompt, header.parents)


@dataclass(frozen=True, eq=False)
class Pca:
    """The principal components of image embeddings, the strongest first: what Fig. 7 of the paper reconstructs from."""

    mean: Float[Tensor, " d"]
    components: Float[Tensor, "k d"]
    variances: Float[Tensor, " k"]

    def project(self, emb: Float[Tensor, "b d"], count: int) -> Float[Tensor, "b d"]:
        """The embeddings with only their first `count` components kept. Raises UnclipError for more than there are."""
        self.check(count)
        axes = self.components[:count].to(emb)
        mean = self.mean.to(emb)
        return mean + (emb - mean) @ axes.T @ axes

    def check(self, count: int) -> None:
        """Raises UnclipError for more components than there are."""
        most = len(self.components)
        if not 0 <= count <= most:
            raise UnclipError(f"components = {count}: expected 0 to {most}, which is how many this system's PCA has")

    def save(self, path: str | Path, clip: str) -> None:
        """Writes the components of embeddings that the CLIP with this fingerprint made."""
        tensors = {"mean": self.mean, "components": self.components, "variances": self.variances}
        checkpoint.save(path, tensors, checkpoint.Header(net="pca", model={}, parents={"clip": clip}))

    @classmethod
    def load(cls, path: str | Path) -> tuple["Pca", checkpoint.Header]:
        """The components in a file and its header. Raises UnclipError for any other file."""
        header = checkpoint.read_header(path)
        if header.net != "pca":
            raise UnclipError(f"{path}: holds a {header.net}; expected a pca, as tools.embed writes it")
        tensors = checkpoint.read_tensors(path)
        if set(tensors) != {"mean", "components", "variances"}:
            raise UnclipError(f"{path}: expected mean, components and variances")
        return cls(**{name: tensor.float() for name, tensor in tensors.items()}), header


def fit_pca(count: int, total: Float[Tensor, " d"], products: Float[Tensor, "d d"]) -> Pca:
    """The components of `count` embeddings from their sum and the sum of their outer products (float64)."""
    if count < 2:
        raise UnclipError(f"{count} embeddings have no principal components; embed at least two pictures")
    mean = total / count
    covariance = (products - count * torch.outer(mean, mean)) / (count - 1)
    variances, axes = torch.linalg.eigh(covariance)
    return Pca(mean.float(), axes.T.flip(0).float().contiguous(), variances.flip(0).clamp(min=0).float())


def slerp(a: Float[Tensor, "*b n"], b: Float[Tensor, "*b n"], share: float) -> Float[Tensor, "*b n"]:
    """The point at `share` of the arc from a to b: directions turn evenly, lengths change evenly.

    Embeddings are mostly of length 1; noise is not, and keeps its length this way, as a straight line would not.
    Opposite vectors have no shortest arc; theirs leads through some point halfway between.
    """
    lengths = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    u, v = (x / length.clamp(min=1e-12) for x, length in zip((a, b), lengths, strict=True))
    angle = _angle(u, v)
    across = v - (u * v).sum(dim=-1, keepdim=True) * u
    size = across.norm(dim=-1, keepdim=True)
    side = torch.where(size > PARALLEL, across / size.clamp(min=PARALLEL), _orthogonal(u))
    turned = torch.where(angle > PARALLEL, (share * angle).cos() * u + (share * angle).sin() * side, u)
    return turned * ((1 - share) * lengths[0] + share * lengths[1])


def difference(target: Float[Tensor, "*b d"], source: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """The direction from one text embedding to another, norm(z_t - z_t0), of length 1 (2204.06125, section 3.3).

    Raises UnclipError where the two are the same and there is none.
    """
    apart = target - source
    size = apart.norm(dim=-1, keepdim=True)
    if bool((size <= PARALLEL).any()):
        raise UnclipError("the two texts have the same CLIP embedding, so there is no difference to apply; change one")
    return apart / size


def towards(emb: Float[Tensor, "*b d"], direction: Float[Tensor, "*b d"], theta: float) -> Float[Tensor, "*b d"]:
    """slerp(z_i, z_d, theta) for a direction z_d of length 1 (2204.06125, section 3.3); z_i keeps its length."""
    return slerp(emb, direction * emb.norm(dim=-1, keepdim=True), theta)


def blend(embs: Float[Tensor, "n d"], weights: Sequence[float], rounds: int = 100) -> Float[Tensor, " d"]:
    """The weighted mean of embeddings on the sphere: the point whose squared angles to them, weighted, sum to least.

    For two it is their slerp. Lengths are averaged. Raises UnclipError for weights that do not fit.
    """
    check_weights(len(embs), weights)
    share = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    lengths = embs.double().norm(dim=-1)
    unit = embs.double() / lengths.clamp(min=1e-12)[:, None]
    mean = torch.nn.functional.normalize(share @ unit, dim=0)
    for _ in range(rounds):
        angles = _angle(mean.expand_as(unit), unit)
        flat = unit - (unit @ mean)[:, None] * mean
        logs = flat / flat.norm(dim=-1, keepdim=True).clamp(min=1e-12) * angles
        step = share @ logs
        size = step.norm()
        if size < 1e-12:
            break
        mean = torch.nn.functional.normalize(size.cos() * mean + size.sin() * step / size, dim=0)
    return (mean * (share @ lengths)).to(embs)


def check_weights(count: int, weights: Sequence[float]) -> None:
    """Raises UnclipError for weights that cannot be those of `count` things."""
    if len(weights) != count or not count:
        raise UnclipError(f"{count} things to blend and {len(weights)} weights: expected a weight for each")
    if min(weights) < 0 or sum(weights) <= 0:
        raise UnclipError(f"weights = {list(weights)}: expected none below 0 and their sum above")


def _angle(u: Float[Tensor, "*b n"], v: Float[Tensor, "*b n"]) -> Float[Tensor, "*b 1"]:
    """The angle between unit vectors; by atan2, since acos loses half of its digits for near ones."""
    return 2 * torch.atan2((u - v).norm(dim=-1, keepdim=True), (u + v).norm(dim=-1, keepdim=True))


def _orthogonal(u: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
    """Some unit vector at right angles to each."""
    axis = torch.zeros_like(u).scatter_(-1, u.abs().argmin(dim=-1, keepdim=True), 1.0)
    return torch.nn.functional.normalize(axis - (axis * u).sum(dim=-1, keepdim=True) * u, dim=-1)
