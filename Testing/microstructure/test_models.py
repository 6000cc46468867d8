"""The registry of maps: one registered model is found everywhere that maps are."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from DWISuperResLib.errors import InputError
from DWISuperResLib.microstructure import (
    MapInfo,
    MapModel,
    compute_maps,
    display_window,
    map_info,
    map_models,
    map_names,
    models,
    register_map_model,
)


@dataclass(frozen=True)
class MeanOptions:
    power: float = field(default=1.0, metadata={"help": "exponent of the mean"})

    def __post_init__(self):
        if self.power <= 0:
            raise InputError(f"The power is {self.power}; expected a positive number.")


def mean_fit(bvals, bvecs, wanted, options):
    weighted = bvals > 50
    return lambda signal: {"mean_dwi": signal[weighted].mean(0) ** options.power}


def normalise(maps, options):
    maps["mean_dwi"] /= maps["mean_dwi"].max()


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(models, "_MODELS", dict(models._MODELS))
    info = MapInfo("mean_dwi", "mean DWI", "mean of the diffusion-weighted signals", window=(0.0, 2.0))
    return register_map_model(MapModel("mean", (info,), mean_fit, MeanOptions, finish=normalise))


def test_a_model_registered_in_one_place_makes_its_map_beside_the_others(toy, small_dwi):
    assert map_names()[-1] == "mean_dwi"
    assert map_info("mean_dwi").label == "mean DWI"
    assert display_window("mean_dwi", np.ones(3)) == (0.0, 2.0)
    maps = compute_maps(small_dwi, ("mean_dwi", "fa"), power=2.0, fit="ols")
    expected = small_dwi.signal[..., ~small_dwi.is_b0].mean(-1) ** 2
    np.testing.assert_allclose(maps["mean_dwi"], expected / expected.max(), rtol=1e-5)
    np.testing.assert_array_equal(maps["fa"], compute_maps(small_dwi, ("fa",), fit="ols")["fa"])
    with pytest.raises(InputError, match="power is -1"):
        compute_maps(small_dwi, ("mean_dwi",), power=-1)


def test_names_are_given_once(toy):
    for clash in (
        MapModel("mean", (), mean_fit),
        MapModel("other", (MapInfo("fa", "FA", "another"),), mean_fit),
        MapModel("other", (MapInfo("new", "new", "new"),), mean_fit, MeanOptions),
    ):
        with pytest.raises(ValueError, match="already"):
            register_map_model(clash)


def test_every_map_has_what_people_read_and_every_option_a_line():
    for name in map_names():
        info = map_info(name)
        assert info.label
        assert info.title
        assert info.components == 1
    for model in map_models():
        for option in model.options.__dataclass_fields__.values():
            assert option.metadata["help"]
    assert {name for name in map_names() if map_info(name).unit == "mm²/s"} == {"md", "ad", "rd"}
    with pytest.raises(InputError, match="no map 'nope'"):
        map_info("nope")


def test_windows_are_shared_and_ignore_the_background():
    first, second = np.array([0.0, 0.0, 1.0]), np.array([0.0, 3.0])
    low, high = display_window("md", first, second)
    assert low == 0
    assert high == pytest.approx(np.percentile([1.0, 3.0], 99))
    assert display_window("md", np.zeros(3)) == (0.0, 1.0)
