"""Makes a checkpoint of a released CLIP, for training and sampling with it: python -m tools.import_clip SOURCE OUT"""

from pathlib import Path

from cyclopts import App

from unclip.cli.shell import run
from unclip.errors import UnclipError

app = App(help=__doc__, help_format="plaintext", help_formatter="plain")


@app.default
def import_clip(source: str, out: Path) -> None:
    """Write the CLIP called SOURCE to OUT.

    Parameters
    ----------
    source
        MODEL:TAG, one of open_clip's pretrained tags (downloads), such as ViT-L-14-quickgelu:openai; MODEL:FILE, a local
        state dict of that architecture; or a folder with open_clip_config.json and open_clip_model.safetensors.
    out
        The checkpoint (.safetensors).
    """
    if out.exists():
        raise UnclipError(f"{out} exists; give another name")
    from unclip.interop.clips import import_open_clip

    import_open_clip(source, out)
    print(out)


if __name__ == "__main__":
    run(app)
