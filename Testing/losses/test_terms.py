"""Losses of intensities and of microstructure, and how terms are composed."""

import numpy as np
import pytest
import torch
from dipy.core.gradients import gradient_table
from dipy.data import get_sphere
from dipy.reconst.gqi import GeneralizedQSamplingModel
from scipy.ndimage import gaussian_filter

from DWISuperResLib.errors import InputError
from DWISuperResLib.losses import build_loss, losses, register_loss, registry


def images(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)


def reference_ssim(x, y, data_range):
    """SSIM with Gaussian weights, written out with scipy; per image mean, whole field of view."""

    def blur(a):
        return gaussian_filter(a, 1.5, truncate=3.5, mode="mirror")

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    contrast = (2 * cov + c2) / (vx + vy + c2)
    return (2 * mx * my + c1) / (mx**2 + my**2 + c1) * contrast, contrast


def test_pixel_losses_follow_their_formulas():
    x, y = images(2, 1, 20, 24)
    d = (x - y).numpy().astype(np.float64)
    total, parts = build_loss([{"name": "l1"}, {"name": "l2", "weight": 2.0}, {"name": "charbonnier", "epsilon": 0.1}])(
        x, y
    )
    expected = {
        "l1": np.abs(d).mean(),
        "l2": 2 * (d**2).mean(),
        "charbonnier": (np.sqrt(d**2 + 0.01) - 0.1).mean(),
    }
    assert {k: float(v) for k, v in parts.items()} == pytest.approx(expected, rel=1e-5)
    assert float(total) == pytest.approx(sum(expected.values()), rel=1e-5)


def test_charbonnier_of_equal_images_has_a_finite_gradient():
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    build_loss([{"name": "charbonnier"}])(x, x.detach())[0].backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("data_range", [1.0, 4.0])
def test_ssim_equals_the_formula(data_range):
    x, y = images(1, 1, 32, 40)
    y = 0.7 * x + 0.3 * y
    expected = reference_ssim(*(a[0, 0].double().numpy() for a in (x, y)), data_range)[0].mean()
    value = build_loss([{"name": "ssim", "data_range": data_range}])(x, y)[0]
    assert float(value) == pytest.approx(1 - expected, abs=1e-5)


def test_ms_ssim_equals_the_formula_on_two_scales():
    x, y = images(1, 1, 48, 48)
    y = 0.7 * x + 0.3 * y
    fine = [a[0, 0].double().numpy() for a in (x, y)]
    coarse = [(a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2]) / 4 for a in fine]
    border = 5  # torchmetrics leaves the border out of the contrast term, not out of the similarity
    contrast = reference_ssim(*fine, 1.0)[1][border:-border, border:-border].mean()
    similarity = reference_ssim(*coarse, 1.0)[0].mean()
    betas = np.array([0.0448, 0.2856]) / (0.0448 + 0.2856)
    expected = 1 - ((contrast + 1) / 2) ** betas[0] * ((similarity + 1) / 2) ** betas[1]
    value = build_loss([{"name": "ms-ssim", "scales": 2}])(x, y)[0]
    assert float(value) == pytest.approx(expected, abs=1e-5)


def test_ms_ssim_uses_the_scales_that_fit_and_survives_anticorrelation():
    x = images(1, 1, 64, 64)[0].requires_grad_()
    value, _ = build_loss([{"name": "ms_ssim"}])(x, 1 - x.detach())
    value.backward()
    assert torch.isfinite(x.grad).all()
    assert float(value.detach()) > 0.5
    with pytest.raises(InputError, match="too short"):
        build_loss([{"name": "ms_ssim", "scales": 5}])(x, x)


@pytest.mark.parametrize("name", [n for n in losses() if n not in ("feature", "log_ratio", "fa", "qa")])
def test_equal_images_cost_nothing(name):
    x, _ = images(1, 1, 32, 32)
    assert float(build_loss([{"name": name}])(x, x)[0]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], "no terms"),
        ([{"name": "l3"}], "'l3' is unknown; choose from .*l1"),
        ([{"weight": 1}], "'' is unknown"),
        ([{"name": "l1", "weight": 0}], "number above 0"),
        ([{"name": "l1", "weight": float("nan")}], "number above 0"),
        ([{"name": "l1", "weight": "big"}], "number above 0"),
        ([{"name": "l1"}, {"name": "l1"}], "Two loss terms"),
        ([{"name": "l1", "reduction": "sum"}], "'l1' do not fit.*'reduction'"),
        ([{"name": "charbonnier", "eps": 1}], "do not fit.*'eps'"),
        ([{"name": "charbonnier", "epsilon": -1}], "above 0"),
        ([{"name": "ssim", "data_range": 0}], "above 0"),
        ([{"name": "ms_ssim", "scales": 6}], "1 to 5"),
        ([{"name": "log_ratio", "floor": 2}], "between 0 and 1"),
        ([{"name": "fa", "fit": "nlls"}], "ols or wls"),
    ],
)
def test_bad_composition_is_one_sentence(terms, message):
    with pytest.raises(InputError, match=message):
        build_loss(terms)


def test_a_term_registered_in_one_place_composes_and_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(registry, "_TERMS", dict(registry._TERMS))

    @register_loss("power_error")
    class PowerError(torch.nn.Module):
        needs_float32 = True

        def __init__(self, power: float = 4.0) -> None:
            super().__init__()
            self.power = power

        def forward(self, prediction, target):
            return ((prediction - target).abs() ** self.power).mean()

    assert "power_error" in losses()
    x, y = images(1, 1, 8, 8)
    loss = build_loss([{"name": "l1"}, {"name": "power-error", "power": 3}])
    assert loss.needs_float32
    assert not loss.needs_gradients
    assert float(loss(x, y)[1]["power_error"]) == pytest.approx(float(((x - y).abs() ** 3).mean()))
    assert loss.description[1] == {"name": "power_error", "weight": 1.0, "label": "power_error", "power": 3}
    with pytest.raises(ValueError, match="already"):
        register_loss("power_error")(PowerError)


@pytest.mark.parametrize(
    ("name", "gradients_needed", "float32_needed"),
    [
        *(("l1", False, False), ("charbonnier", False, False), ("untrained", False, False)),
        *(("ssim", False, True), ("ms_ssim", False, True), ("log_ratio", True, True), ("fa", True, True)),
        ("qa", True, True),
    ],
)
def test_losses_say_what_they_need(name, gradients_needed, float32_needed):
    loss = build_loss([{"name": name}])
    assert (loss.needs_gradients, loss.needs_float32) == (gradients_needed, float32_needed)


def test_labels_tell_terms_of_one_name_apart():
    x, y = images(1, 1, 16, 16)
    loss = build_loss([{"name": "l1"}, {"name": "l1", "label": "again", "weight": 3}])
    _, parts = loss(x, y)
    assert float(parts["again"]) == pytest.approx(3 * float(parts["l1"]))
    assert [d["label"] for d in loss.description] == ["l1", "again"]


def test_shapes_must_agree():
    with pytest.raises(InputError, match="one shape"):
        build_loss([{"name": "l1"}])(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 5))


# --- microstructure
# ---------------------------------------------------------------------------------------------

BVALS = torch.tensor([0.0, 5.0] + [1000.0] * 12, dtype=torch.float64)


@pytest.fixture
def gradients():
    golden = np.pi * (3 - np.sqrt(5))
    i = np.arange(12)
    z = 1 - (i + 0.5) / 12
    r = np.sqrt(1 - z**2)
    bvecs = np.zeros((14, 3))
    bvecs[2:] = np.stack([r * np.cos(golden * i), r * np.sin(golden * i), z], 1)
    return torch.where(BVALS < 50, 0.0, BVALS), torch.from_numpy(bvecs)


def tensor_signal(gradients, axial, radial, s0, shape=(1, 6, 6)):
    """(B, N, H, W) signal of an axially symmetric tensor along z."""
    bvals, bvecs = gradients
    attenuation = torch.exp(-bvals * (radial + (axial - radial) * bvecs[:, 2] ** 2))
    b, h, w = shape
    return (s0 * attenuation)[None, :, None, None].expand(b, len(bvals), h, w).clone().float()


def symmetric_fa(axial, radial):
    return (axial - radial) / np.sqrt(axial**2 + 2 * radial**2)


def test_log_ratio_loss_is_b_times_the_diffusivity_error(gradients):
    target = tensor_signal(gradients, 1e-3, 1e-3, 2.0)
    prediction = tensor_signal(gradients, 1.2e-3, 1.2e-3, 3.0)  # another S0 makes no difference to the ratio
    loss = build_loss([{"name": "log_ratio"}])
    assert loss.needs_gradients
    assert float(loss(prediction, target, gradients)[0]) == pytest.approx(1000 * 0.2e-3, rel=1e-4)


@pytest.mark.parametrize("fit", ["ols", "wls"])
def test_fa_loss_is_the_difference_of_fa(gradients, fit):
    target, prediction = (tensor_signal(gradients, *d, 1.5) for d in ((1.6e-3, 0.4e-3), (1.3e-3, 0.6e-3)))
    expected = symmetric_fa(1.6, 0.4) - symmetric_fa(1.3, 0.6)
    value = build_loss([{"name": "fa", "fit": fit}])(prediction, target, gradients)[0]
    assert float(value) == pytest.approx(expected, rel=1e-3)


def test_qa_loss_is_the_share_by_which_dipys_qa_differs(gradients):
    table = gradient_table(gradients[0].numpy(), bvecs=gradients[1].numpy())
    model = GeneralizedQSamplingModel(table, method="standard", sampling_length=1.25)
    target, noise = images(2, 14, 3, 5)
    found, wanted = (
        np.ptp(model.fit(x.movedim(1, -1).double().numpy()).odf(get_sphere(name="repulsion724")), axis=-1)
        for x in (target + 0.2 * noise, target)
    )
    value = build_loss([{"name": "qa"}])(target + 0.2 * noise, target, gradients)[0]
    assert float(value) == pytest.approx(np.abs(found - wanted).sum() / wanted.sum(), rel=1e-4)


def test_background_does_not_count(gradients):
    target = tensor_signal(gradients, 1e-3, 1e-3, 1.0)
    prediction = tensor_signal(gradients, 1.1e-3, 1.1e-3, 1.0)
    whole = build_loss([{"name": "log_ratio"}])(prediction, target, gradients)[0]
    target[..., 3:] = 0
    prediction[..., 3:] = torch.rand_like(prediction[..., 3:]) * 0.01
    assert float(build_loss([{"name": "log_ratio"}])(prediction, target, gradients)[0]) == pytest.approx(float(whole))


@pytest.mark.parametrize("name", ["log_ratio", "fa", "qa"])
def test_microstructure_gradients_match_finite_differences(gradients, name):
    target = tensor_signal(gradients, 1.5e-3, 0.5e-3, 1.0, (1, 2, 2)).double()
    generator = torch.Generator().manual_seed(1)
    x = target * (1 + 0.05 * torch.randn(target.shape, generator=generator, dtype=torch.float64))
    x.requires_grad_()
    loss = build_loss([{"name": name}])
    loss(x, target, gradients)[0].backward()
    step = torch.randn(x.shape, generator=generator, dtype=torch.float64) * 1e-6
    with torch.no_grad():
        difference = loss(x + step, target, gradients)[0] - loss(x - step, target, gradients)[0]
    assert float((x.grad * step).sum() * 2) == pytest.approx(float(difference), rel=1e-3)


@pytest.mark.parametrize("name", ["log_ratio", "fa", "qa"])
def test_zero_and_negative_signals_stay_finite(gradients, name):
    x = torch.zeros(1, 14, 4, 4)
    x[:, :, 2:] = -1.0
    x.requires_grad_()
    value, _ = build_loss([{"name": name}])(x, tensor_signal(gradients, 1e-3, 1e-3, 1.0, (1, 4, 4)), gradients)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(x.grad).all()


def test_microstructure_loss_needs_a_table_that_fits(gradients):
    x = tensor_signal(gradients, 1e-3, 1e-3, 1.0)
    loss = build_loss([{"name": "log_ratio"}])
    with pytest.raises(InputError, match="gradient table"):
        loss(x, x)
    with pytest.raises(InputError, match="do not fit"):
        loss(x[:, :5], x[:, :5], gradients)
    with pytest.raises(InputError, match="0 of 12 volumes are b0"):
        loss(x[:, 2:], x[:, 2:], tuple(g[2:] for g in gradients))
