"""The training configuration: one YAML file, typed, validated before training, overridable key by key."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from pydantic import ValidationError as PydanticError

from ..errors import InputError
from ..resampling import MAX_FACTOR
from ..resampling.degradation import DEGRADATIONS
from .monitors import monitors

Term = dict[str, Any]
_MAX_WORKERS = 256


def _three_factors(value: Any) -> Any:
    """2 -> (2, 2, 1), in-plane; "1x1x3" -> (1, 1, 3): along both axes of the slice and the slice axis."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (value, value, 1)
    return value.split("x") if isinstance(value, str) and "x" in value else value


_Factor = Annotated[float, Field(ge=1, le=MAX_FACTOR, allow_inf_nan=False)]
Width = Annotated[float, Field(gt=0, le=10)]
Gap = Annotated[float, Field(ge=0, le=0.9)]
Percent = Annotated[float, Field(ge=0, le=100)]
Gain = Annotated[float, Field(gt=0, le=100)]
Exponent = Annotated[float, Field(gt=0, le=10)]
Alpha = Annotated[float, Field(ge=0.5, le=2)]
"""Below a half, the window would turn the sign of the highest frequencies."""
Factors = Annotated[tuple[_Factor, _Factor, _Factor], BeforeValidator(_three_factors)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values cannot change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for name, value in self:
            pair = isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, int | float) for v in value)
            if pair and value[0] > value[1]:
                raise ValueError(f"{name} is {list(value)}; expected [low, high]")
        return self


def _pattern(text: str | None) -> str | None:
    try:
        re.compile(text or "")
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression ({error})") from error
    return text


class Network(Section):
    """Which network: a registered architecture and its arguments."""

    architecture: str = "sr_unet"
    arguments: dict[str, Any] = {}
    start_from: str | None = Field(
        default=None, description="checkpoint, by name or file, whose weights training starts from"
    )
    imagenet: str | None = Field(default=None, description="encoder's ImageNet weights: a file, or `download`")


class Degradation(Section):
    """How low-resolution data are made from high-resolution data; ranges are drawn from uniformly."""

    models: dict[str, PositiveFloat] = Field(
        default={"kspace": 1.0}, min_length=1, description="degradations and how often each is drawn"
    )
    fwhm: tuple[Width, Width] = Field(
        default=(0.8, 1.2),
        description="width of the gaussian model, in low-resolution voxels, and of the slice profile, in what the gap "
        "leaves of one",
    )
    gap: tuple[Gap, Gap] = Field(
        default=(0.0, 0.0), description="between slices, of the profile model, in low-resolution voxels"
    )
    noise: tuple[Percent, Percent] = Field(
        default=(0.0, 0.0), description="Rician noise, standard deviation in percent of the scan's b0 level"
    )

    @field_validator("models")
    @classmethod
    def _registered(cls, models: dict[str, float]) -> dict[str, float]:
        if unknown := set(models) - set(DEGRADATIONS):
            raise ValueError(f"{min(unknown)!r} is no degradation; choose from {', '.join(DEGRADATIONS)}")
        return models


class Augmentation(Section):
    """What changes from patch to patch besides place, volume and degradation."""

    flips: bool = True
    rotations: bool = Field(default=True, description="by multiples of 90 degrees")
    intensity: tuple[Gain, Gain] = Field(default=(0.9, 1.1), description="factor on network input and target")
    contrast: tuple[Exponent, Exponent] = Field(
        default=(0.8, 1.25), description="exponent of the signal, relative to its level"
    )
    resample: tuple[_Factor, _Factor] = Field(
        default=(1.0, 1.0), description="coarsen slices by a factor from here first: other voxel sizes"
    )
    window: tuple[Alpha, Alpha] = Field(
        default=(1.0, 1.0),
        description="alpha of the generalised Hamming window on half of the slabs' k-space: other scanners' filters",
    )


class Structural(Section):
    """Structural images of one head, of which diffusion-weighted scans are simulated."""

    images: list[str] = Field(min_length=1, description="one or more on one grid")
    coarser: tuple[_Factor, _Factor] = Field(
        default=(1.0, 1.4),
        description="factor by which voxels become larger within slices; from what brings an interpolated image down "
        "to what it holds",
    )


def _structural(value: object) -> object:
    """A file, or a list of them, as the mapping it is short for."""
    if isinstance(value, str):
        return {"images": [value]}
    return {"images": value} if isinstance(value, list) else value


class Data(Section):
    """Scans, their division into subjects, and how patches are drawn from them."""

    scans: Annotated[
        list[str],
        Field(
            min_length=1,
            description="DWI files, folders searched for them, or glob patterns; files of structural images",
        ),
    ]
    validation: float | list[str] = Field(
        default=0.2, description="fraction of subjects held out, below 1, or files, folders, patterns"
    )
    exclude: list[str] = Field(default=[], description="files, folders or patterns left out of `scans`")
    subject: Annotated[str | None, AfterValidator(_pattern)] = Field(
        default=None,
        description="regular expression; scans whose paths match to the same text are one subject",
    )
    structural: list[Annotated[Structural, BeforeValidator(_structural)]] = Field(
        default=[],
        description="structural images, several of one head on one grid as a list, of which scans of random contrast "
        "are simulated: references finer than DWI ever is; or a mapping of `images` and `coarser`",
    )
    simulations: PositiveInt = Field(default=2, description="scans simulated of each of `structural`")
    guide: str | dict[str, str] | None = Field(
        default=None,
        description="structural image of each scan, for guided networks: a pattern relative to the scan's folder, "
        "{name} being its name ({name}_T1w.nii.gz), or a mapping of scans to files",
    )
    cache: Path | None = Field(default=None, description="folder of the memory-mapped copies; default: <output>/cache")
    native: bool = Field(
        default=True,
        description="take interpolated scans down to the matrix they hold; leave out those resampled at an angle",
    )
    axes: Literal["acquisition", "all"] = Field(
        default="acquisition", description="planes that networks of slices train on: as acquired, or all three"
    )
    weighting: Literal["scan", "size"] = Field(
        default="scan", description="draw scans evenly, or by their slices x volumes"
    )
    slabs: PositiveInt = Field(default=4, description="slabs (a slice, its neighbours, all volumes) in a batch")
    patches: PositiveInt = Field(default=4, description="patches drawn from each slab")
    patch: PositiveInt | None = Field(
        default=96, description="patch edge in high-resolution pixels; None: whole slices, a batch from one scan"
    )
    volumes: PositiveInt | None = Field(
        default=None,
        description="volumes of one place drawn together, for losses across volumes; None: all, where needed",
    )
    margin: NonNegativeInt = Field(
        default=0,
        description="pixels along the border of what the network is shown (low-resolution ones, unless these are "
        "interpolated) that the loss leaves out: they lack context",
    )
    b0: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="share of b0 among the volumes drawn one by one; None: as in the scan"
    )
    brain: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.9, description="fraction of patches centred in the brain"
    )
    workers: Annotated[int, Field(ge=0, le=_MAX_WORKERS)] = 1

    @field_validator("validation")
    @classmethod
    def _leaves_some(cls, held_out: float | list[str]) -> float | list[str]:
        if isinstance(held_out, float) and not 0 <= held_out < 1:
            raise ValueError(f"the share held out is {held_out:g}; expected 0 to below 1, or a list of scans")
        return held_out


class Schedule(Section):
    """Length and shape of training."""

    epochs: PositiveInt = 50
    steps_per_epoch: PositiveInt = 200
    max_minutes: PositiveFloat | None = Field(
        default=None, description="time budget; the schedule ends by then at the latest"
    )
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: PositiveFloat = 1e-3
    bias_ratio: PositiveFloat = Field(default=1.0, description="learning rate of biases / that of weights")
    beta2: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.99, description="decay of Adam's second moment")
    epsilon: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    shape: Literal["cosine", "one-cycle", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.05, description="rising part of the schedule")
    final: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.01, description="last learning rate / highest, of the cosine"
    )
    freeze_epochs: NonNegativeInt = Field(default=0, description="first epochs, encoder frozen except for batch norm")
    encoder_ratio: PositiveFloat = Field(
        default=1.0, description="highest / lowest learning rate over the parameter groups (fastai's fine_tune: 100)"
    )
    clip: PositiveFloat | None = Field(default=1.0, description="largest norm of the gradient")
    accumulate: PositiveInt = 1
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(default=0.999, description="decay of the averaged weights")
    patience: PositiveInt | None = Field(default=None, description="stop after this many epochs without improvement")

    @model_validator(mode="after")
    def _freezing_leaves_time(self) -> Self:
        if self.freeze_epochs >= self.epochs:
            raise ValueError(f"freeze_epochs is {self.freeze_epochs}; expected fewer than epochs ({self.epochs})")
        return self


class Machine(Section):
    """Where training runs; passed on to Lightning."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: PositiveInt | Literal["auto"] | Annotated[list[NonNegativeInt], Field(min_length=1)] = Field(
        default=1, description="how many, which (GPUs by number), or auto: all"
    )
    nodes: PositiveInt = 1
    strategy: Literal["auto", "ddp"] = Field(default="auto", description="ddp: a process for each device")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    deterministic: bool = True
    compile: bool = Field(
        default=False, description="by torch.compile, a graph for each extent of patches; needs a C++ compiler"
    )
    progress: bool = Field(default=True, description="show a progress bar")


class Validation(Section):
    """What is measured every epoch on the subjects held out."""

    every: PositiveInt = Field(default=1, description="epochs between validations")
    slices: PositiveInt = Field(default=6, description="slices of each scan, spread over the brain")
    monitor: str = Field(default="nrmse", description="what `best` means, see `monitors`")
    images: bool = True

    @field_validator("monitor")
    @classmethod
    def _is_measured(cls, name: str) -> str:
        if name not in monitors():
            raise ValueError(f"the score is {name!r}; expected one of {', '.join(monitors())}")
        return name


class Configuration(Section):
    """Everything a training run depends on.

    Examples
    --------
    >>> validated({"data": {"scans": ["scan.nii.gz"]}, "scales": [2, "1x1x3"]}).scales
    ((2.0, 2.0, 1.0), (1.0, 1.0, 3.0))
    """

    name: str = Field(default="model", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    output: Path = Path("training")
    task: Literal["super-resolution", "denoising", "ssfd"] = "super-resolution"
    scales: tuple[Factors, ...] = Field(
        default=((2, 2, 1),),
        description="factors to train, in-plane (2) or for both axes of the slice and the slice axis (1x1x3); one "
        "listed twice is drawn twice as often; drawn for each slab where the network is shown interpolated images, "
        "else for each batch",
    )
    normalisation: Literal["volume", "paper"] = "volume"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    resume: bool = Field(
        default=False, description="continue from the last epoch in `output`, or start where there is none"
    )
    data: Data
    network: Network = Network()
    degradation: Degradation = Degradation()
    augmentation: Augmentation = Augmentation()
    loss: Annotated[list[Term], Field(min_length=1)] = [{"name": "charbonnier", "weight": 1.0}]
    schedule: Schedule = Schedule()
    machine: Machine = Machine()
    validation: Validation = Validation()
    licence: str = ""
    provenance: str = ""

    @property
    def served(self) -> tuple[tuple[float, float, float], ...]:
        """The factors, each once."""
        return tuple(sorted(set(self.scales)))

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if not self.scales:
            raise ValueError("scales is empty; expected at least one factor")
        if self.task == "super-resolution" and min(map(max, self.scales)) == 1:
            raise ValueError(f"super-resolution needs scales above 1, up to {MAX_FACTOR}")
        if self.task != "super-resolution" and self.served != ((1, 1, 1),):
            raise ValueError(f"{self.task} keeps the grid, so scales must be [1]")
        if self.task == "denoising" and self.degradation.noise[1] <= 0:
            raise ValueError("denoising needs degradation.noise above 0 percent")
        largest = max(map(max, self.scales))
        if self.data.patch is not None and self.data.patch < 8 * largest:
            raise ValueError(f"data.patch is {self.data.patch}; expected at least {8 * largest:g} pixels")
        if self.data.margin and (self.data.patch is None or self.data.patch < 4 * self.data.margin * largest):
            raise ValueError(f"data.margin is {self.data.margin}; expected at most a quarter of data.patch / scale")
        return self


def load_configuration(path: str | Path, overrides: Sequence[str] = ()) -> Configuration:
    """Read a YAML file and apply `key=value` overrides with dotted keys.

    Values are YAML: ``schedule.epochs=5``, ``scales=[2,3]``, ``loss.0.weight=2``. Relative paths start at the
    working directory.

    Raises
    ------
    InputError
        One sentence naming the key, what was found and what was expected.

    Examples
    --------
    >>> from DWISuperResLib.resources import RESOURCES
    >>> configuration = load_configuration(RESOURCES / "Configurations/default.yaml", ["schedule.epochs=3"])
    >>> configuration.task, configuration.schedule.epochs
    ('super-resolution', 3)
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"The configuration {path} cannot be read: {_one_line(error)}.") from error
    if not isinstance(tree, dict):
        raise InputError(f"The configuration {path} holds no keys; see Resources/Configurations for examples.")
    for override in overrides:
        _apply(tree, override)
    return validated(tree, str(path))


def validated(tree: dict[str, Any], source: str = "") -> Configuration:
    """Configuration from plain data; InputError names the first key that is wrong, and the file it is from.

    Examples
    --------
    >>> validated({"data": {"scans": ["scan.nii.gz"]}, "scales": [2, "1x1x3"]}).served
    ((1.0, 1.0, 3.0), (2.0, 2.0, 1.0))
    >>> validated({"data": {"scans": ["scan.nii.gz"]}, "schedule": {"epochs": 0}})
    Traceback (most recent call last):
    DWISuperResLib.errors.InputError: Configuration: schedule.epochs: Input should be greater than 0 (found 0).
    """
    try:
        return Configuration.model_validate(tree)
    except PydanticError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        found = "" if first["type"] in ("missing", "value_error") else f" (found {reprlib.repr(first['input'])})"
        message = first["msg"].removeprefix("Value error, ")
        more = f" and {error.error_count() - 1} more" if error.error_count() > 1 else ""
        where = ": ".join(part for part in (f"Configuration {source}".strip(), key, f"{message}{found}{more}") if part)
        raise InputError(f"{where}.") from error


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise InputError(f"The override {override!r} is not of the form key=value, for instance schedule.epochs=5.")
    try:
        value = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"The value of the override {override!r} is not YAML: {_one_line(error)}.") from error
    *parents, last = key.split(".")
    node: Any = tree
    for part in parents:
        node = _child(node, part, override)
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise InputError(f"The override {override!r} reaches into a value that has no keys.")


def _child(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, override)]
    if not isinstance(node, dict):
        raise InputError(f"The override {override!r} reaches into a value that has no keys.")
    if node.get(part) is None:
        node[part] = {}
    return node[part]


def _index(node: list, part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise InputError(f"The override {override!r} needs an index below {len(node)} in place of {part!r}.")
    return int(part)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
