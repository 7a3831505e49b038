"""What a folder of diffusers' says of its parts: the index of a pipeline, and how pictures are prepared."""

from typing import Any

from unclip.clip import ClipConfig

UNCLIP = ("unclip", "UnCLIPTextProjModel")  # as the released index spells it; diffusers from 0.38 on can read neither


def index(prior: bool) -> dict[str, Any]:
    """model_index.json of the pipeline from texts, or of that from pictures where there is no prior."""
    parts: dict[str, tuple[str, str]] = {
        "decoder": ("diffusers", "UNet2DConditionModel"),
        "decoder_scheduler": ("diffusers", "UnCLIPScheduler"),
    }
    if prior:
        parts |= {"prior": ("diffusers", "PriorTransformer"), "prior_scheduler": ("diffusers", "UnCLIPScheduler")}
    else:
        parts |= {
            "feature_extractor": ("transformers", "CLIPImageProcessor"),
            "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
        }
    parts |= {
        "super_res_first": ("diffusers", "UNet2DModel"),
        "super_res_last": ("diffusers", "UNet2DModel"),
        "super_res_scheduler": ("diffusers", "UnCLIPScheduler"),
        "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
        "text_proj": UNCLIP,
        "tokenizer": ("transformers", "CLIPTokenizer"),
    }
    kind = "UnCLIPPipeline" if prior else "UnCLIPImageVariationPipeline"
    return {"_class_name": kind, "_diffusers_version": "0.15.0.dev0", **parts}


def preprocessor(clip: ClipConfig) -> dict[str, Any]:
    """The config of the CLIPImageProcessor that prepares pictures for this CLIP."""
    side = clip.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": {"height": side, "width": side},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(clip.mean),
        "image_std": list(clip.std),
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": side},
    }
