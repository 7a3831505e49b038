"""One golden per stage of the shipped weights, each made from the golden before it: python -m tests.demo_goldens

Run it after the weights were replaced, look at the pictures, and commit them.
"""

from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from unclip.choosing import likeness
from unclip.conditioning import decoder_cond, read
from unclip.drawing import noise_of, unconditional
from unclip.images import to_pil, to_tensor
from unclip.priors import finish
from unclip.system import UnCLIP
from unclip.upsampling import upsample

FOLDER = Path(__file__).parent / "goldens"
PROMPT, SEED = "a red cube on top of a blue cube", 0
CORNER, SIDE = 96, 64  # the square of the 256 px picture that the last upsampler enlarges: a whole one takes seconds


def text_emb(system):
    """CLIP's embedding of the prompt [1, d]."""
    return read(system.clip, [PROMPT]).text.emb


def image_emb(system):
    """The image embedding that the prior draws [1, d]."""
    return system.prior.draw(read(system.clip, [PROMPT]), [SEED])


def small(system, emb):
    """The 64 px picture of an image embedding [1, 3, 64, 64]."""
    prompts = read(system.clip, [PROMPT])
    cond = decoder_cond(system.decoder.net, system.clip, prompts, emb)
    uncond = unconditional(system, prompts, emb, [SEED])
    return finish(system.decoder, system.decoder.run(cond, noise_of(system.decoder, [SEED]), uncond))


def enlarged(system, number, picture):
    """What an upsampler makes of a picture."""
    return upsample(system.upsamplers[number], picture, [SEED], 1)


def square(picture):
    """The square of a 256 px picture that is enlarged further."""
    return picture[:, :, CORNER : CORNER + SIDE, CORNER : CORNER + SIDE]


def like(system, drawn, emb):
    """How well a small picture fits its embedding and the prompt, by CLIP and matcher [3]."""
    return likeness(system.clip, [(drawn, emb)], read(system.clip, [PROMPT]), system.matching).flatten()


def picture(name):
    """A golden picture [1, 3, h, w] in [-1, 1]."""
    return to_tensor(Image.open(FOLDER / f"{name}.png"))[None]


def embeddings():
    """The golden embeddings, and the golden likeness."""
    return load_file(FOLDER / "embeddings.safetensors")


def make():
    """Writes all goldens anew."""
    FOLDER.mkdir(exist_ok=True)
    system = UnCLIP.from_pretrained("demo", "cpu")
    emb = image_emb(system)
    to_pil(small(system, emb)[0]).save(FOLDER / "decoder.png")
    told = {"text": text_emb(system), "image": emb, "like": like(system, picture("decoder"), emb)}
    save_file(told, FOLDER / "embeddings.safetensors")
    to_pil(enlarged(system, 0, picture("decoder"))[0]).save(FOLDER / "upsampler-256.png")
    to_pil(enlarged(system, 1, square(picture("upsampler-256")))[0]).save(FOLDER / "upsampler-1024.png")


if __name__ == "__main__":
    torch.set_num_threads(1)
    make()
