"""The hub: what is downloaded, what the cache has, and one line for each way in which it fails. No network is used."""

import errno
import json
import time

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from unclip.errors import UnclipError
from unclip.interop import hub
from unclip.interop.hub import KNOWN, fetched, needed

from .fake_hub import stored

KARLO = "kakaobrain/karlo-v1-alpha"
PARTS = ("prior", "decoder")
FILES = (
    "model_index.json",
    "README.md",
    "all-in-one.ckpt",
    *(f"{part}/diffusion_pytorch_model{suffix}" for part in PARTS for suffix in (".safetensors", ".bin")),
    *(f"{part}/config.json" for part in PARTS),
    "tokenizer/merges.txt",
    "text_encoder/pytorch_model.bin",
    "image_encoder/model.fp16.safetensors",
)
NEEDED = {
    "model_index.json",
    "decoder/config.json",
    "decoder/diffusion_pytorch_model.safetensors",
    "prior/config.json",
    "prior/diffusion_pytorch_model.safetensors",
    "tokenizer/merges.txt",
    "text_encoder/pytorch_model.bin",
    "image_encoder/model.fp16.safetensors",
}
CONFIGS = {name for name in NEEDED if name.endswith((".json", ".txt"))}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and a hub that must not be asked."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", failing(AssertionError("the hub was asked")))
    return tmp_path / "cache"


def failing(error):
    def fail(*given, **named):
        raise error

    return fail


def answer(status, kind=errors.HfHubHTTPError):
    """What the library raises for an answer with this status."""
    request = httpx2.Request("GET", "https://hub/x")
    return kind("told\nin lines", response=httpx2.Response(status, request=request))


@pytest.fixture
def online(cache, monkeypatch):
    """A hub that lists FILES; gives what was downloaded. Of the library's own download only the cache is real."""
    asked = []
    real = huggingface_hub.snapshot_download

    def download(repo, local_files_only=False, **named):
        if local_files_only:
            return real(repo, local_files_only=True, **named)
        asked.append((repo, set(named["allow_patterns"])))
        return str(cache)

    listing = huggingface_hub.hf_api.ModelInfo(id=KARLO, siblings=[{"rfilename": name} for name in FILES])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *given, **named: listing)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def refused(told, name=KARLO, weights=True):
    with pytest.raises(UnclipError, match=told) as caught:
        fetched(name, weights=weights)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_folder_is_itself(tmp_path, monkeypatch):
    assert fetched(str(tmp_path)) == tmp_path
    monkeypatch.chdir(tmp_path)
    (tmp_path / "karlo").mkdir()
    assert fetched("karlo").resolve() == tmp_path / "karlo", "a folder comes before a short name"


@pytest.mark.parametrize(
    "name", ["karl", "", "a/b/c", "../x", "./x/y", "a b/c", "a--b/c", "a/b..c", "/nowhere", "ä/b", "a/b\n"]
)
def test_what_is_neither_a_folder_nor_a_hub_id_is_one_line(name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # elsewhere there might be a ../x
    with pytest.raises(UnclipError, match="neither a folder nor a hub id; give a folder, ORG/NAME") as caught:
        fetched(name)
    assert "\n" not in str(caught.value)


def test_a_file_is_one_line(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"x")
    refused("a file; expected a folder", str(tmp_path / "x.ckpt"))


def test_of_a_repository_only_what_is_read_is_needed():
    assert set(needed(FILES)) == NEEDED
    assert set(needed(FILES, ["prior"])) == {name for name in NEEDED if name.startswith(("prior/", "model_index"))}
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    assert needed([*shards, "model.bin", "flax_model.msgpack"]) == shards
    assert needed(["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]) == ["open_clip_model.safetensors"]
    clip = ["model.safetensors", "open_clip_config.json", "open_clip_pytorch_model.bin"]
    assert needed(clip) == clip[1:], "the safer file is transformers'"
    native = ["prior_fp16.ckpt", "ViT-L-14_stats.th", "picture.png"]
    assert set(needed(native)) == set(native[:2])
    assert needed(["mine.safetensors", "mine.ckpt"]) == ["mine.safetensors"]


@pytest.mark.parametrize("name", [KARLO, "karlo"])
def test_what_is_not_in_the_cache_is_downloaded(online, cache, name):
    assert fetched(name) == cache
    assert online == [(KARLO, NEEDED)]
    assert KNOWN["karlo"] == KARLO


def test_without_weights_only_configs_are_downloaded(online, cache):
    assert fetched("karlo", weights=False) == cache
    assert fetched(KARLO, ["prior"], weights=False) == cache
    assert online == [(KARLO, CONFIGS), (KARLO, {"model_index.json", "prior/config.json"})]


@pytest.mark.parametrize("tree", [FILES, None])
def test_configs_in_the_cache_are_enough_for_a_plan_and_not_to_draw(cache, online, tree):
    folder = stored(cache, KARLO, CONFIGS, tree)
    assert fetched("karlo", PARTS, weights=False) == folder
    assert not online
    assert fetched("karlo", PARTS) == cache
    assert online == [(KARLO, {"model_index.json", *(name for name in NEEDED if name.startswith(PARTS))})]


def test_weights_without_configs_give_no_plan(online, monkeypatch):
    files = ["prior_fp16.ckpt", "ViT-L-14_stats.th", "ViT-L-14.pt", "README.md"]
    listing = huggingface_hub.hf_api.ModelInfo(id=KARLO, siblings=[{"rfilename": name} for name in files])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *given, **named: listing)
    refused("no model_index.json there; .* draw once without --dry-run", weights=False)
    assert not online
    fetched(KARLO)
    assert online == [(KARLO, set(files[:3]))]


@pytest.mark.parametrize("offline", [True, False])
def test_what_is_in_the_cache_needs_no_network(cache, monkeypatch, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    folder = stored(cache, KARLO, NEEDED, FILES)
    assert fetched("karlo") == folder
    assert fetched(KARLO, ["prior"]) == folder


def test_a_part_in_the_cache_is_enough_for_who_asks_for_that_part(cache, online):
    folder = stored(cache, KARLO, [name for name in NEEDED if not name.startswith("decoder")], FILES)
    assert fetched(KARLO, ["prior"]) == folder
    assert not online
    assert fetched(KARLO) == cache
    assert fetched(KARLO, ["decoder"]) == cache
    assert [repo for repo, _ in online] == [KARLO, KARLO]


def test_a_cache_without_a_list_serves_if_each_part_is_there(cache, online):
    folder = stored(cache, KARLO, NEEDED, None)
    assert fetched(KARLO, ["prior", "decoder"]) == folder
    assert not online
    fetched(KARLO, ["prior", "nowhere"])
    assert len(online) == 1
    index = {"_class_name": "UnCLIPPipeline", "prior": ["diffusers", "x"], "safety_checker": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    assert fetched(KARLO) == folder
    (folder / "model_index.json").write_text(json.dumps(index | {"super_res_last": ["diffusers", "x"]}))
    assert fetched(KARLO) == cache
    (folder / "model_index.json").write_text("{")
    assert fetched(KARLO) == cache


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            httpx2.ConnectError("[Errno -2] Name or\nservice not known"),
            r"is not to be reached \(\[Errno -2\] Name or service",
        ),
        (httpx2.ConnectTimeout(""), r"is not to be reached \(ConnectTimeout\)"),
        (httpx2.ProxyError("403"), "is not to be reached"),
        (answer(401, errors.RepositoryNotFoundError), "no model of the hub that you may see"),
        (answer(403, errors.GatedRepoError), f"gated; accept its terms at https://huggingface.co/{KARLO}, then log in"),
        (answer(503), "answered with status 503"),
        (errors.OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE forbids downloads"),
    ],
)
def test_a_hub_that_fails_is_one_line(monkeypatch, error, told):
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", failing(error))
    refused(told)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "as another language has it"), "the disk is full"),
        (RuntimeError("Data processing error: No space left on device (os error 28)"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/cache"), "/cache: may not be written to"),
        (httpx2.ReadError("broken off"), r"is not to be reached \(broken off\)"),
        (answer(403, errors.GatedRepoError), "gated"),
        (errors.LocalEntryNotFoundError("Got: ConnectError\nand more"), "is not to be reached"),
    ],
)
def test_a_download_that_fails_is_one_line(online, monkeypatch, error, told):
    monkeypatch.setattr(hub, "_cached", lambda repo, parts, weights: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(error))
    refused(told)


def test_a_repository_without_weights_is_one_line(online, monkeypatch):
    listing = huggingface_hub.hf_api.ModelInfo(id=KARLO, siblings=[{"rfilename": "config.json"}])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *given, **named: listing)
    refused("no weights there that are read here")
    assert not online


def test_offline_with_an_empty_or_a_partial_cache_is_one_line(cache, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as HF_HUB_OFFLINE=1 has it from the start
    refused("not wholly in the cache .*HF_HUB_OFFLINE forbids downloads; unset it, or give a folder")
    stored(cache, KARLO, sorted(NEEDED)[1:], FILES)
    refused("not wholly in the cache .*HF_HUB_OFFLINE forbids downloads")


def test_a_hub_that_does_not_answer_is_not_waited_for(monkeypatch):
    assert hub.PATIENCE < 5
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *given, **named: time.sleep(2))
    start = time.monotonic()
    refused("is not to be reached .no answer within 0.2 s")
    assert time.monotonic() - start < 1.5
