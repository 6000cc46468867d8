"""Checkpoints: what is written comes back; damaged, altered and hostile files are refused with a sentence."""

import dataclasses
import hashlib
import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open

from DWISuperResLib import networks
from DWISuperResLib.checkpoints import Card, describe, load_checkpoint, read_card, save_checkpoint
from DWISuperResLib.checkpoints import files as checkpoints
from DWISuperResLib.errors import InputError, ProcessingError
from DWISuperResLib.networks.views import SliceView


@networks.register("tiny")
class Tiny(torch.nn.Module):
    """Stands for any architecture: a weight-normed convolution and a batch norm (an integer buffer)."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.view = SliceView()
        self.conv = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(1, width, 3, padding=1))
        self.norm = torch.nn.BatchNorm2d(width)
        self.gain = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, size):
        return self.norm(self.conv(x)).mean(1, keepdim=True) * self.gain


CARD = Card("tiny x2", "tiny", {"width": 4}, (2,), bvals=(0, 1000), voxel_sizes={"in_plane": [1.5, 2.5]})


@pytest.fixture
def network():
    torch.manual_seed(3)
    return Tiny()


@pytest.fixture
def saved(network, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, network.state_dict(), CARD)
    return path


def nested(levels):
    return [nested(levels - 1)] if levels else []


def raw_parts(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_raw(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def with_card(path, **changes):
    """The same file with fields of the card changed; `None` removes one."""
    header, data = raw_parts(path)
    card = json.loads(header["__metadata__"]["card"]) | changes
    card = {name: value for name, value in card.items() if value is not None}
    header["__metadata__"]["card"] = json.dumps(card)
    return write_raw(path, header, data)


def test_round_trip(saved, network):
    checkpoint = load_checkpoint(saved)
    for name, tensor in network.state_dict().items():
        assert torch.equal(checkpoint.weights[name], tensor)
    assert dataclasses.replace(checkpoint.card, view={}, sha256="") == CARD
    assert checkpoint.card.view == network.view.describe()
    loaded = checkpoint.network()
    x = torch.randn(2, 1, 5, 6)
    assert not loaded.training
    torch.testing.assert_close(loaded(x, (5, 6)), network.eval()(x, (5, 6)), rtol=1e-6, atol=1e-6)
    assert not any(torch.nn.utils.parametrize.is_parametrized(m) for m in loaded.modules())


def test_building_a_network_leaves_the_random_state(saved):
    checkpoint = load_checkpoint(saved)
    before = torch.get_rng_state()
    checkpoint.network()
    assert torch.equal(before, torch.get_rng_state())


def test_networks_do_not_share_weights(saved):
    checkpoint = load_checkpoint(saved)
    before = {name: weight.clone() for name, weight in checkpoint.weights.items()}
    with torch.no_grad():
        for parameter in checkpoint.network().parameters():
            parameter.add_(1)
    assert all(torch.equal(checkpoint.weights[name], weight) for name, weight in before.items())


def test_sha256_is_the_documented_one(saved):
    digest = hashlib.sha256()
    with safe_open(saved, "numpy") as file:
        for name in sorted(file.keys()):
            array = file.get_tensor(name)
            kind = {"float32": "F32", "int64": "I64"}[array.dtype.name]
            digest.update(f"{name}\0{kind}\0{','.join(map(str, array.shape))}\0".encode() + array.tobytes())
    assert read_card(saved).sha256 == digest.hexdigest()


def test_half_precision_storage(network, tmp_path):
    path = tmp_path / "half.safetensors"
    save_checkpoint(path, network.state_dict(), CARD, half=True)
    weights = load_checkpoint(path).weights
    for name, tensor in network.state_dict().items():
        expected = tensor.half().float() if tensor.ndim > 1 else tensor
        assert weights[name].dtype == tensor.dtype
        assert torch.equal(weights[name], expected)


def test_half_precision_that_overflows_is_refused(network, tmp_path):
    weights = network.state_dict()
    weights["conv.parametrizations.weight.original1"] = weights["conv.parametrizations.weight.original1"] + 1e6
    with pytest.raises(InputError, match="not finite"):
        save_checkpoint(tmp_path / "half.safetensors", weights, CARD, half=True)
    assert list(tmp_path.iterdir()) == []


def test_save_refuses_to_overwrite(saved, network):
    before = saved.read_bytes()
    with pytest.raises(InputError, match="exists"):
        save_checkpoint(saved, network.state_dict(), CARD)
    assert saved.read_bytes() == before
    save_checkpoint(saved, network.state_dict(), dataclasses.replace(CARD, name="new"), overwrite=True)
    assert read_card(saved).name == "new"


def test_save_refuses_odd_places(network, tmp_path):
    with pytest.raises(InputError, match=r"\.safetensors"):
        save_checkpoint(tmp_path / "a.pth", network.state_dict(), CARD)
    with pytest.raises(InputError, match="folder"):
        save_checkpoint(tmp_path / "no" / "a.safetensors", network.state_dict(), CARD)


def test_failed_write_leaves_nothing(network, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints.os, "replace", fail)
    with pytest.raises(ProcessingError, match="No space left"):
        save_checkpoint(tmp_path / "a.safetensors", network.state_dict(), CARD)
    assert list(tmp_path.iterdir()) == []


def test_card_is_read_without_torch(saved):
    code = f"""
import sys
from DWISuperResLib import networks
networks._HOMES["tiny"] = "tiny"
from DWISuperResLib.checkpoints import read_card, shipped_checkpoints, describe
describe(read_card({str(saved)!r})); shipped_checkpoints()
print([m for m in ("torch", "numpy", "safetensors", "nibabel") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_shipped_names_resolve(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "CATALOGUE", tmp_path)
    assert checkpoints.shipped_checkpoints() == ["tiny"]
    assert read_card("tiny").name == "tiny x2"
    with pytest.raises(InputError, match=r"'nothing'.*\(tiny\)"):
        load_checkpoint("nothing")


def test_every_shipped_checkpoint_loads():
    names = checkpoints.shipped_checkpoints()
    assert "default" in names
    for name in names:
        checkpoint = load_checkpoint(name)
        assert checkpoint.card.licence
        assert checkpoint.card.provenance


def test_describe_names_the_facts():
    card = dataclasses.replace(CARD, licence="Apache-2.0", scores={"rmse": 0.01}, sha256="0" * 64)
    text = describe(card)
    for fact in (
        "tiny x2",
        "x2 in-plane",
        "tiny(width=4)",
        "in-plane 1.5 to 2.5 mm",
        "0 to 1000",
        "Apache-2.0",
        "rmse 0.01",
    ):
        assert fact in text
    assert "SNR" not in text


def test_describe_gives_facts_of_their_own_a_line():
    card = dataclasses.replace(
        CARD, scores={"scans": {"one x2": {"rmse": 1.5, "fa": 0.1}, "two x2": {}}, "test": "all"}
    )
    lines = describe(card).splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("Scores"))
    found = [line.strip() for line in lines[start : start + 4]]
    assert found == ["Scores         test all", "scans:", "one x2: rmse 1.5; fa 0.1", "two x2:"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "nonsense"}, "architecture is 'nonsense'"),
        ({"architecture": 3}, "printable text"),
        ({"name": "a\nb"}, "one line"),
        ({"name": "\x1b[31mred"}, "printable"),
        ({"task": "mining"}, "task"),
        ({"normalisation": "none"}, "normalisation"),
        ({"format_version": 3}, "newer release"),
        ({"format_version": True}, "format version"),
        ({"format_version": None}, "lacks format_version"),
        ({"sha256": "xyz"}, "sha256"),
        ({"sha256": "0" * 64}, "sha256"),
        ({"sha256": ""}, "sha256"),
        ({"factors": []}, "at least one"),
        ({"factors": [0.5]}, "in-plane factors, or three"),
        ({"factors": [2**70]}, "in-plane factors, or three"),
        ({"factors": [[2, 2]]}, "in-plane factors, or three"),
        ({"factors": [[2, 2, "1"]]}, "in-plane factors, or three"),
        ({"factors": "22"}, "a list of three"),
        ({"factors": 2}, "a list of three"),
        ({"factors": [2] * 2000}, "a list of three"),
        ({"format_version": 1, "scales": [2.5]}, "whole in-plane"),
        ({"format_version": 1, "scales": "22"}, "whole in-plane"),
        ({"format_version": 1}, "lacks scales"),
        ({"view": {"kind": "block"}}, "its card shows the network"),
        ({"arguments": {"width": 4, "guidance": ["mean_b0"] * 20000}}, "cannot be built"),
        ({"bvals": [1000, 0]}, "lowest"),
        ({"bvals": ["0", "1000"]}, "lowest"),
        ({"snr": 5}, "lowest"),
        ({"voxel_sizes": {"in_plane": [0, 2]}}, "between 0.001 and 1000"),
        ({"voxel_sizes": {"in_plane": []}}, "in_plane and slice"),
        ({"voxel_sizes": {"oblique": [1, 2]}}, "in_plane and slice"),
        ({"training": [1]}, "an object"),
        ({"arguments": [4]}, "an object"),
        ({"arguments": {"width": 10**12}}, "at most 8192"),
        ({"arguments": {"width": [[10**12]]}}, "at most 8192"),
        ({"arguments": {"width": [4096] * 64}}, "at most 8192"),
        ({"arguments": {"width": nested(300)}}, "16 levels"),
        ({"statistics": {"a": nested(300)}}, "16 levels"),
        ({"factors": nested(300)}, "in-plane factors"),
        ({"arguments": {"width": 4096}}, "has shape"),
        ({"arguments": {"width": -1}}, "cannot be built"),
        ({"arguments": {"width": "4"}}, "cannot be built"),
        ({"arguments": {"depth": 4}}, "cannot be built"),
        ({"arguments": {"width": 5}}, "has shape"),
        ({"extra": 1}, "unknown fields"),
    ],
)
def test_impossible_cards_are_refused(saved, changes, message):
    with pytest.raises(InputError, match=message):
        load_checkpoint(with_card(saved, **changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSON"),
        ("[]", "a JSON list"),
        ("null", "NoneType"),
        ('{"name": NaN}', "JSON"),
        ("[" * 100_000, "JSON"),
    ],
)
def test_cards_that_are_no_json_object_are_refused(saved, text, message):
    header, data = raw_parts(saved)
    header["__metadata__"]["card"] = text
    with pytest.raises(InputError, match=message):
        read_card(write_raw(saved, header, data))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header claims"),
        (b"\x80\x04pickle", "header claims"),
        (struct.pack("<Q", 2**63) + b"{}", "header claims"),
        (struct.pack("<Q", 100) + b"{}", "header claims"),
        (struct.pack("<Q", 5 * 2**20) + b" " * (5 * 2**20), "header claims"),
        (struct.pack("<Q", 2) + b"{]", "not valid JSON"),
        (struct.pack("<Q", 2) + b"\xff\xfe", "not valid JSON"),
        (struct.pack("<Q", 2) + b"[]", "no metadata"),
        (struct.pack("<Q", 2) + b"{}", "no metadata"),
        (struct.pack("<Q", 19) + b'{"__metadata__":{}}', "no card"),
        (struct.pack("<Q", 200_000) + b"[" * 200_000, "not valid JSON"),
    ],
)
def test_files_that_are_no_checkpoint_are_refused(tmp_path, content, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_card(path)


@pytest.mark.parametrize(
    "entry",
    [
        3,
        {"dtype": "F32"},
        {"dtype": "X", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]},
        {"dtype": [], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
        {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]},
    ],
)
def test_impossible_tensor_tables_are_refused(saved, entry):
    header, data = raw_parts(saved)
    header["gain"] = entry
    with pytest.raises(InputError, match="impossible type"):
        load_checkpoint(write_raw(saved, header, data))


def test_overlapping_tensors_are_refused(saved):
    header, data = raw_parts(saved)
    header["norm.weight"]["data_offsets"] = header["norm.bias"]["data_offsets"]
    with pytest.raises(InputError, match="cannot be used"):
        load_checkpoint(write_raw(saved, header, data))


def test_altered_weights_are_refused(saved):
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    saved.write_bytes(data)
    with pytest.raises(InputError, match="sha256"):
        load_checkpoint(saved)


def test_truncated_weights_are_refused(saved):
    saved.write_bytes(saved.read_bytes()[:-4])
    with pytest.raises(InputError, match="cannot be used"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("gain"), "lack 1 tensors"),
        (lambda w: w.update(more=torch.zeros(1)), "extra 1 tensors"),
        (lambda w: w["gain"].fill_(np.nan), "not finite"),
        (lambda w: w["norm.running_var"].fill_(np.inf), "not finite"),
        (lambda w: w.update(gain=torch.zeros(2)), "has shape"),
        (lambda w: w.update(gain=torch.zeros((), dtype=torch.int64)), "is torch.int64"),
        (lambda w: w.update(gain=torch.zeros((), dtype=torch.complex64)), "complex64"),
    ],
)
def test_weights_that_are_not_the_architectures_are_refused(network, tmp_path, change, message):
    weights = network.state_dict()
    change(weights)
    with pytest.raises(InputError, match=message):
        save_checkpoint(tmp_path / "a.safetensors", weights, CARD)
    assert list(tmp_path.iterdir()) == []


def test_cards_of_format_1_are_read_as_in_plane(saved):
    fields = json.loads(raw_parts(saved)[0]["__metadata__"]["card"])
    old = {k: v for k, v in fields.items() if k not in ("factors", "view")}
    header, data = raw_parts(saved)
    header["__metadata__"]["card"] = json.dumps(old | {"format_version": 1, "scales": [3, 2], "snr": [5, 20]})
    card = load_checkpoint(write_raw(saved, header, data)).card
    assert card.factors == ((2, 2, 1), (3, 3, 1))
    assert card.scales == (2, 3)
    assert card.snr == ()  # measured otherwise then
    assert card.bvals == (0, 1000)


def test_a_card_serves_the_whole_voxels_nearest_to_its_factors():
    card = dataclasses.replace(CARD, factors=(2, (1, 1, 2.5)))
    assert card.serves((40, 41, 20), (80, 82, 20), axis=2)
    assert card.serves((40, 41, 20), (80, 81, 20), axis=2)
    assert card.serves((20, 40, 41), (20, 80, 81), axis=0)
    assert card.serves((40, 40, 20), (40, 40, 50), axis=2)
    for fine in ((80, 84, 20), (80, 82, 21), (80, 80, 20), (120, 123, 20)):
        assert not card.serves((40, 41, 20), fine, axis=2)
