"""The paper's network against its reference pipeline, and both networks against the processor's ceiling.

    python -m Testing.benchmarks.super_resolution [--repeats 5] [--quick] [--json FILE]

The reference pipeline is the public implementation of arXiv 2605.15895: slices of the scan to 16-bit PNG files, a
fastai Learner in float32 on three channels of the interpolated image, PNG files again, these to NIfTI. Ours: the same
weights through `super_resolve`, file to file. Both run in one warm process with as many threads as torch takes.

Published weights do not ship. These are random, attention on, with an output near the input as a trained network's is:
the head passes the image on, and all that is added is scaled to 9.4 % of the image's standard deviation in the
head (8.4 % come out, the phantom's foreground). So much did
a trained default network add to the interpolation of a measured brain at x2 (8.6, 9.6 and 10 % in three slices).
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from DWISuperResLib.checkpoints import Card, Checkpoint, read_card
from DWISuperResLib.dwi import DWI
from DWISuperResLib.inference.memory import buffers_reused
from DWISuperResLib.inference.predict import (
    MOST_WORKERS,
    SLICES_AT_ONCE,
    resolve_device,
    resolve_precision,
    super_resolve,
)
from DWISuperResLib.inference.threads import side_by_side
from DWISuperResLib.io import read_dwi, write_dwi
from DWISuperResLib.microstructure import brain_mask, compute_maps
from DWISuperResLib.networks import build, fold
from DWISuperResLib.networks.weights import from_fastai
from DWISuperResLib.phantoms import phantom
from Testing.benchmarks.ceilings import autocast, convolution_ceiling, operations, seconds
from Testing.benchmarks.harness import Result, compare, parser, report

SCALE = 2
SLICE = (86, 103)  # what HCP 7T slices of 172 x 206 become
FA_LIMIT = 1e-3
CEILING_SHARE = 0.6
ADDED_SHARE = 0.094  # see above
DEFAULT = read_card("default")
ARCHITECTURES = {
    "paper's network": ("dynamic_unet", {"upsampling": "paper"}),
    "default network": (DEFAULT.architecture, dict(DEFAULT.arguments)),
}


def main(argv: list[str] | None = None) -> list[Result]:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    arguments = options.parse_args(argv)
    shape, directions = ((26, 30, 1), 14) if arguments.quick else ((*SLICE, 8), 62)
    with tempfile.TemporaryDirectory() as folder:
        results = against_fastai(shape, directions, Path(folder), arguments.repeats)
    results += [against_ceiling(title, shape[:2], arguments.repeats) for title in ARCHITECTURES]
    report(results, arguments.json)
    return results


def against_fastai(shape: tuple[int, int, int], directions: int, folder: Path, repeats: int) -> list[Result]:
    """Time and FA of both from the same file."""
    task = "paper's network, file to file"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            import fastai
            import fastai.vision.all as vision
    except ImportError as error:
        return [Result(task, "fastai Learner", skipped=f"{error}; pip install fastai")]
    peer = f"fastai {fastai.__version__} Learner, float32, PNG"
    low = phantom(shape, (2, 2, 2.5), supersampling=1, shells=((0, 2), (1000, directions)))
    # Stored as the reference's data are, LAS: it takes slices as they lie in memory, ours however they are stored.
    low = replace(low, affine=low.affine @ np.diag([-1.0, 1, 1, 1]))
    write_dwi(low, folder / "low.nii.gz")
    model = random_model(vision, low)
    card = Card("reference", "dynamic_unet", {"upsampling": "paper"}, (SCALE,), normalisation="paper")
    checkpoint = Checkpoint(card, from_fastai(model.state_dict()))
    learner = vision.Learner(vision.DataLoaders([], []), model, loss_func=nn.L1Loss(), path=folder)

    def ours() -> None:
        result = super_resolve(read_dwi(folder / "low.nii.gz"), checkpoint, SCALE)
        write_dwi(result, folder / "ours.nii.gz", overwrite=True)

    slices = low.signal.shape[2] * low.n_volumes
    speed = compare(
        task,
        ours,
        peer,
        lambda: reference_pipeline(vision, learner, folder),
        repeats=repeats,
        goal=12,
        note=f"{slices} slices of {shape[0]} x {shape[1]}, x{SCALE}, {torch.get_num_threads()} threads",
    )
    mine = read_dwi(folder / "ours.nii.gz")
    theirs = DWI(nib.load(folder / "reference.nii.gz").get_fdata(dtype=np.float32), mine.affine, low.bvals, mine.bvecs)
    mask = brain_mask(mine)
    fa, fa_reference = (compute_maps(dwi, ("fa",), mask=mask)["fa"][mask] for dwi in (mine, theirs))
    difference = np.abs(fa - fa_reference)
    note = f"median {np.median(difference):.2g}, 99th percentile {np.quantile(difference, 0.99):.2g}, in the brain mask"
    agreement = Result(
        "  mean FA difference (not seconds)", "limit", [float(difference.mean())], [FA_LIMIT], goal=1, note=note
    )
    return [speed, agreement]


def random_model(vision, low: DWI) -> nn.Module:
    """The reference's network with calibrated random weights, see above."""
    torch.manual_seed(0)
    options = {"blur": True, "norm_type": vision.NormType.Weight, "self_attention": True, "y_range": (-3, 3)}
    size = tuple(n * SCALE for n in low.signal.shape[1::-1])
    model = vision.create_unet_model(vision.resnet18, 3, size, pretrained=False, **options)
    images = torch.from_numpy(low.signal[:, :, 0].T.copy()).unsqueeze(1)
    images = functional.interpolate(images / images.max(), size, mode="bilinear", align_corners=True)[::4]
    images = images.expand(-1, 3, -1, -1)
    features = []
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # statistics of these images
        model.layers[5].conv2[2].gamma.fill_(0.7)  # 0 at first: no attention
        model.train()(images)
        model.eval()
        model.layers[11].convpath[1][0].weight_g.mul_(0.03)
        hook = model.layers[12].register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
        model(images)
        hook.remove()
        head = model.layers[12][0]
        seen = features[0].as_subclass(torch.Tensor)
        inside = images[:, 0] > images.mean()
        moved = (seen[:, 96:].mean(1) - images[:, 0])[inside].std()
        weights = torch.randn(96, 1, 1)
        added = (seen[:, :96] * weights).sum(1)[inside]
        wanted = ADDED_SHARE * images[:, 0][inside].std()
        gain = 2 / 3 * (wanted.square() - moved.square()).clamp_min(0).sqrt() / added.std()
        # -3 + 6 sigmoid(x) is close to 1.5 x on the way from 0 at x = 0.
        row = torch.cat((gain * weights, torch.full((3, 1, 1), 2 / 9))).expand(3, -1, -1, -1)
        head.weight_v.copy_(row)
        head.weight_g.copy_(row.flatten(1).norm(dim=1).view(3, 1, 1, 1))
        head.bias.fill_(-float(gain * added.mean()))
    return model


class _Slices(torch.utils.data.Dataset):
    """PNG files as the reference's loader gives them."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = torch.from_numpy(np.asarray(Image.open(self.files[index]), dtype=np.float32) / 65535)
        size = tuple(n * SCALE for n in image.shape)
        image = functional.interpolate(image.expand(1, 3, -1, -1), size, mode="bilinear", align_corners=True)[0]
        return image, image


def reference_pipeline(vision, learner, folder: Path) -> None:
    """low.nii.gz to reference.nii.gz, one PNG a slice before and after the network."""
    image = nib.load(folder / "low.nii.gz")
    signal = image.get_fdata(dtype=np.float32).transpose(1, 0, 2, 3)
    low, high = signal.min(), signal.max()
    scaled = ((signal - low) / (high - low) * 65535).astype(np.uint16)
    places = [(j, k) for j in range(signal.shape[3]) for k in range(signal.shape[2])]
    files = [folder / f"frame{j:03d}-slice{k:03d}.png" for j, k in places]
    for file, (j, k) in zip(files, places, strict=True):
        Image.fromarray(np.ascontiguousarray(scaled[:, :, k, j])).save(file)
    loader = vision.DataLoader(_Slices(files), batch_size=8, num_workers=0)
    with learner.no_bar(), learner.no_logging():
        predictions, _ = learner.get_preds(dl=loader)
    for file, prediction in zip(files, predictions[:, 0].clamp(0, 1).numpy(), strict=True):
        Image.fromarray((prediction * 65535).astype(np.uint16)).save(file.with_suffix(".sr.png"))
    result = np.empty((*predictions.shape[2:], *signal.shape[2:]), np.float32)
    for file, (j, k) in zip(files, places, strict=True):
        result[:, :, k, j] = np.asarray(Image.open(file.with_suffix(".sr.png")), dtype=np.float32) / 65535
    result = result * (high - low) + low
    nib.save(nib.Nifti1Image(result.transpose(1, 0, 2, 3), np.eye(4)), folder / "reference.nii.gz")


def against_ceiling(title: str, size: tuple[int, int], repeats: int) -> Result:
    """Rate of the whole network in the engine's precision against that of convolutions alone, in turn."""
    device = resolve_device()
    dtype = resolve_precision("auto", device)
    architecture, arguments = ARCHITECTURES[title]
    network = fold(build(architecture, **arguments)).to(device, memory_format=torch.channels_last)
    x = torch.rand(SLICES_AT_ONCE["cpu"], network.view.channels, *size, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    work = operations(network, x, SCALE)
    measure = convolution_ceiling(device, dtype or torch.float32)
    workers = min(torch.get_num_threads(), MOST_WORKERS) if device.type == "cpu" else 1
    batches = [x] * (3 * workers)

    def forward(batch: torch.Tensor) -> None:
        with autocast(device, dtype):
            network(batch, [SCALE * n for n in batch.shape[2:]])

    def all_batches() -> None:
        for _ in side_by_side(forward, batches, workers):
            pass

    ours, ceiling = [], []
    # As in the engine, weights are cast once, and buffers and threads are used alike.
    with torch.no_grad(), torch.autocast(device.type, enabled=False), buffers_reused():
        for _ in range(repeats):
            ours.append(seconds(all_batches, device, 3) / len(x) / len(batches))
            ceiling.append(work / measure() / len(x))
    rate = f"{work / len(x) / 1e9:.3g} GFLOP a slice, ceiling {work / len(x) / min(ceiling) / 1e9:.4g} GFLOP/s"
    return Result(
        f"share of the convolution ceiling, {title}",
        f"3 x 3 convolutions, {str(dtype or torch.float32).removeprefix('torch.')}",
        ours,
        ceiling,
        goal=CEILING_SHARE,
        note=f"{rate}, {torch.get_num_threads()} threads on {device}",
    )


if __name__ == "__main__":
    main()
