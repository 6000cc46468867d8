"""Checkpoints of strangers: what they ask for costs nothing before it is refused, what they compute is their fault."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from DWISuperResLib.checkpoints import Card, Checkpoint, save_checkpoint
from DWISuperResLib.errors import InputError
from DWISuperResLib.inference.predict import super_resolve
from DWISuperResLib.networks import build

ARGUMENTS = {"scales": [2], "width": 4, "blocks": [1]}
MEASURED = """
import resource, sys
import torch
from DWISuperResLib.checkpoints import load_checkpoint
from DWISuperResLib.errors import InputError
from DWISuperResLib.networks import build
build("sr_unet")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_checkpoint(sys.argv[1])
except InputError as error:
    print(len(str(error)), "more than once" in str(error), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux counts it")
def test_guidance_repeated_20000_times_takes_no_memory(tmp_path):
    card = Card("hostile", "sr_unet", ARGUMENTS | {"guidance": ["mean_b0"] * 20_000}, (2,), sha256="0" * 64)
    header = {"__metadata__": {"card": card.to_json()}, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    path = tmp_path / "hostile.safetensors"
    # The digest is checked before anything is built, so it has to be right: name, type, shape and data of one tensor.
    text = text.replace(b"0" * 64, hashlib.sha256(b"w\0F32\x001\0" + bytes(4)).hexdigest().encode())
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    length, named, kilobytes = done.stdout.split()
    assert int(length) < 1000
    assert named == "True"
    assert int(kilobytes) < 100_000


def test_weights_that_overflow_are_the_checkpoints_fault(small_dwi, tmp_path):
    network = build("sr_unet", **ARGUMENTS)
    weights = {name: torch.full_like(weight, 1e30) for name, weight in network.state_dict().items()}
    card = save_checkpoint(tmp_path / "a.safetensors", weights, Card("too large", "sr_unet", ARGUMENTS, (2,)))
    with pytest.raises(InputError, match=r"'too large' cannot be used: its weights.* not finite in float32"):
        super_resolve(small_dwi, Checkpoint(card, weights), 2, device="cpu", precision="fp32")
    with pytest.raises(InputError, match="--precision fp32"):
        super_resolve(small_dwi, Checkpoint(card, weights), 2, device="cpu", precision="bf16")
