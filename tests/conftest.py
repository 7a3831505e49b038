"""What all tests share: one thread, shapes that are checked while they run, and a system of tiny random nets."""

import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
# before a test imports any part of unclip that has shapes; other processes do without
install_import_hook("unclip", "beartype.beartype")

import pytest  # noqa: E402

from .systems import write_system  # noqa: E402


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A system on disk; not to be written to."""
    return write_system(tmp_path_factory.mktemp("system"))


@pytest.fixture(scope="session")
def system(folder):
    """The system, opened; whoever changes a part puts it back."""
    from unclip.system import UnCLIP

    return UnCLIP.from_pretrained(folder, device="cpu")
