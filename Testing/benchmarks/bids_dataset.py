"""A synthetic BIDS data set: crops of real scans, their gradient tables inherited from every level."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

SOURCES = {
    "ortho": "siemens_prisma_dti_ortho",
    "canon": "canon10_axial",
    "uih": "uih_dir16",
    "xa": "siemens_xa30_ap",
    "decub": "siemens_decub_hfs",
}
"""By the `acq` label that tells their gradient tables apart."""
OF_THE_DATASET, OF_PARTICIPANTS = ("ortho", "uih"), ("canon",)
"""Tables of these lie in the root, or in the participant's folder; the others beside the image."""


def write_dataset(root: Path, data: Path, scans: int, shape: Sequence[int] = (32, 32, 8), seed: int = 0) -> list[Path]:
    """Write so many scans, two of three participants with two sessions; return their images."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True)
    description = {"Name": "Crops", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    loaded = {label: nib.load(data / name / f"{name}.nii.gz") for label, name in SOURCES.items()}
    images: list[Path] = []
    participant = 0
    while len(images) < scans:
        participant += 1
        sessions = ["_ses-1", "_ses-2"] if participant % 3 else [""]
        for session in sessions[: scans - len(images)]:
            label = list(SOURCES)[len(images) % len(SOURCES)]
            folder = root / f"sub-{participant:02d}" / session.removeprefix("_") / "dwi"
            folder.mkdir(parents=True)
            image = folder / f"sub-{participant:02d}{session}_acq-{label}_dwi.nii.gz"
            nib.save(_crop(loaded[label], shape, rng), image)
            name = SOURCES[label]
            place = folder / image.name.removesuffix(".nii.gz")
            if label in OF_THE_DATASET:
                place = root / f"acq-{label}_dwi"
            elif label in OF_PARTICIPANTS:
                place = root / f"sub-{participant:02d}" / f"sub-{participant:02d}_acq-{label}_dwi"
            for suffix in (".bval", ".bvec"):
                shutil.copy(data / name / f"{name}{suffix}", f"{place}{suffix}")
            images.append(image)
    return images


def _crop(image: nib.Nifti1Image, shape: Sequence[int], rng: np.random.Generator) -> nib.Nifti1Image:
    """A block near the middle of the head, a few voxels to and fro."""
    corner = [
        max(0, (n - wanted) // 2 + int(rng.integers(-4, 5))) for n, wanted in zip(image.shape, shape, strict=False)
    ]
    block = tuple(slice(first, first + n) for first, n in zip(corner, shape, strict=True))
    return image.slicer[block]
