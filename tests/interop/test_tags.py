"""CLIPs by open_clip's tags, with no network: read by us where the hub has them, else left to open_clip."""

import copy
import json
import time
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from unclip.clip import Clip
from unclip.errors import UnclipError
from unclip.interop import clips, hub
from unclip.interop.clips import open_clip_weights

MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.2, 0.1)
TOY: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}
TAGS = {
    "hub": {"hf_hub": "org/toy/", "url": "https://nowhere.test/toy.pt", "mean": MEAN, "std": STD},
    "url": {"url": "https://nowhere.test/toy.pt"},
}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An architecture of open_clip's with two tags, and random weights of it; nothing is to be downloaded."""
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "toy.json").write_text(json.dumps(TOY))
    (tmp_path / "registry" / "toy-custom.json").write_text(json.dumps(TOY | {"custom_text": True}))
    open_clip.add_model_config(tmp_path / "registry")
    for name in ("toy", "toy-custom"):
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, TAGS)
    monkeypatch.setattr(clips, "fetched", never)
    monkeypatch.setattr("open_clip.factory.download_pretrained", never)
    torch.manual_seed(0)
    return open_clip.CLIP(**copy.deepcopy(TOY)).eval()


def never(*given: Any, **named: Any) -> Any:
    raise AssertionError("asked for")


def test_a_tag_in_the_hubs_cache_is_read_by_us(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open_clip's weights, of those that such a repository holds; in the formats that we open."""
    asked = []
    monkeypatch.setattr(clips, "fetched", lambda repo: asked.append(repo) or tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    save_file({"text_model.x": torch.zeros(1)}, str(tmp_path / "cache" / "model.safetensors"))
    torch.save(toy.state_dict(), tmp_path / "cache" / "open_clip_pytorch_model.bin")
    made = Clip(open_clip_weights("toy:hub"))
    assert asked == ["org/toy"]
    same(made, toy)
    assert (made.config.mean, made.config.std) == (MEAN, STD)
    cut(tmp_path / "cache" / "open_clip_pytorch_model.bin")
    with pytest.raises(UnclipError, match=r"open_clip_pytorch_model\.bin: damaged") as refused:
        open_clip_weights("toy:hub")
    assert "\n" not in str(refused.value)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def same(clip: Clip, toy: Any) -> None:
    ids = open_clip.SimpleTokenizer(context_length=20)(["a dog"])
    with torch.no_grad():
        assert torch.allclose(clip.text(["a dog"]).emb, toy.encode_text(ids, normalize=True), atol=1e-6)


def test_a_tag_of_another_kind_of_clip_is_refused_before_it_is_downloaded(toy: Any) -> None:
    with pytest.raises(UnclipError, match="only open_clip's own two-tower CLIPs are supported"):
        open_clip_weights("toy-custom:hub")


def test_an_address_that_does_not_answer_is_not_waited_for(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    monkeypatch.setattr(hub.urllib.request, "urlopen", lambda *given, **named: time.sleep(3))
    start = time.monotonic()
    with pytest.raises(UnclipError, match=r"nowhere\.test/toy\.pt: is not to be reached .no answer") as refused:
        open_clip_weights("toy:url")
    assert time.monotonic() - start < 2
    assert "\n" not in str(refused.value)


def test_an_address_that_answers_is_left_to_open_clip(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "await_answer", lambda url: None)
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *given, **named: str(tmp_path / "toy.pt"))
    torch.save(toy.state_dict(), tmp_path / "toy.pt")
    same(Clip(open_clip_weights("toy:url")), toy)


def test_integers_stay_integers() -> None:
    """An index of positions that became float32 would not index."""
    held = {"module.count": torch.tensor(3), "half": torch.ones(2, dtype=torch.float16), "logit_scale": torch.ones(1)}
    fitted = clips._fitted(held)
    assert {name: x.dtype for name, x in fitted.items()} == {
        "count": torch.int64,
        "half": torch.float32,
        "logit_scale": torch.float32,
    }
    assert fitted["logit_scale"].shape == ()
