"""The report: pictures stand the way the page says, the verdict follows the numbers, and the page stands alone."""

import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from DWISuperResLib.errors import InputError
from DWISuperResLib.evaluation import drawing, pictures, plots, report
from DWISuperResLib.evaluation.evaluate import assess, evaluate
from DWISuperResLib.evaluation.selfchecks import Check
from DWISuperResLib.evaluation.summary import summary_table, verdict
from DWISuperResLib.phantoms import phantom
from Testing.conftest import oblique_affine, oracle

CHECKS = [
    Check("grid artefacts", 0.4, 3.0, False, "Nothing to do."),
    Check("consistency <b>", 3.2, 1.5, True, "Check scale & checkpoint."),
]


@pytest.fixture(scope="module")
def evaluation():
    scan = phantom((38, 46, 4), (4.0, 4.0, 6.0), seed=1)
    return evaluate(scan, 2, (), methods=("nearest", "linear", "sinc"), distances=())


@pytest.fixture(scope="module")
def page(evaluation, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    return report.write_report(evaluation, path, run={"command": "dwi-superres evaluate <scan>"}, checks=CHECKS)


class Links(HTMLParser):
    """Everything on a page that could load something, and its open elements."""

    def __init__(self):
        super().__init__()
        self.loads, self.open, self.tags = [], [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in ("meta", "br", "img", "link", "input"):
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset", "action", "data") and value:
                self.loads.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_page_stands_alone_and_is_well_formed(page):
    text = page.read_text(encoding="utf-8")
    links = Links()
    links.feed(text)
    assert links.open == []
    assert "script" not in links.tags
    assert all(value.startswith(("data:", "#")) for value in links.loads)
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    identifiers = set(re.findall(r'id="([^"]+)"', text))
    assert {v[1:] for v in links.loads if v.startswith("#")} <= identifiers


def test_page_says_what_was_run_and_escapes_it(page, evaluation):
    text = page.read_text(encoding="utf-8")
    assert "dwi-superres evaluate &lt;scan&gt;" in text
    assert "consistency &lt;b&gt;" in text
    assert "radiological" in text
    for value in evaluation.conditions["sha256"].values():
        assert value in text
    for candidate in evaluation.candidates:
        assert f"{evaluation.score(candidate.name, 'fa', 'mae'):.4f}" in text
    assert drawing.INK not in text


def test_verdict_follows_the_numbers(evaluation):
    def with_network(factor):
        network = replace(evaluation.candidates[-1], name="net", kind="checkpoint")
        rows = [{**r, "method": "net", "kind": "checkpoint"} for r in evaluation.scores if r["method"] == "sinc"]
        better = [{**r, "value": r["value"] * factor} for r in rows]
        return replace(evaluation, candidates=(*evaluation.candidates, network), scores=evaluation.scores + better)

    best = min(("nearest", "linear", "sinc"), key=lambda n: evaluation.score(n, "fa", "mae"))
    sentence = verdict(with_network(0.5))[0]
    assert "comes closer to the original than every" in sentence
    change = 100 * (1 - 0.5 * evaluation.score("sinc", "fa", "mae") / evaluation.score(best, "fa", "mae"))
    assert f"FA error {change:.1f} % lower ({best})" in sentence
    assert "does not come closer" in verdict(with_network(2))[0]
    assert "% higher" in verdict(with_network(2))[0]
    seen = replace(evaluation, conditions=evaluation.conditions | {"trained on": {"net": "a.nii.gz, b.nii.gz"}})
    assert verdict(seen, run={"scan": "/data/b.nii.gz"})[-1].startswith("The checkpoint net was trained on b.")
    assert verdict(seen, run={"scan": "/data/c.nii.gz"}) == verdict(evaluation)
    assert verdict(evaluation, CHECKS)[-1] == "Self-checks that warn: consistency <b>; see below what to do."
    assert verdict(evaluation, CHECKS[:1])[-1] == "None of the 1 self-checks warns."


def test_best_of_a_column_is_marked(evaluation):
    table = summary_table(evaluation)
    column = next(i for i, heading in enumerate(table["header"]) if heading.startswith("FA MAE"))
    marked = [row["name"] for row in table["rows"] if row["cells"][column]["best"]]
    assert marked == [min((c.name for c in evaluation.candidates), key=lambda n: evaluation.score(n, "fa", "mae"))]


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("plane", [0, 1, 2])
def test_pictures_are_radiological_for_any_affine(flips, order, plane):
    affine = oblique_affine((2.0, 2.5, 3.0), (0.1, -0.1, 0.05), flips)
    affine[:, :3] = affine[:, list(order)]
    shape = (20, 22, 24)
    ras = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
    mask = np.ones(shape, bool)
    view = pictures.View.of_plane(affine, plane, 8, mask)
    right, front, up = (view.picture(ras[..., i]) for i in range(3))
    across, upwards = {0: (front, up), 1: (right, up), 2: (right, front)}[plane]
    assert (np.diff(across, axis=1) < 0).all(), "right (or the front) is on the left of the picture"
    assert (np.diff(upwards, axis=0) > 0).all(), "up (or the front) is at the top: pictures are drawn upwards"
    assert np.diff(upwards, axis=0).mean() == pytest.approx(view.sizes[0], rel=0.05)
    assert -np.diff(across, axis=1).mean() == pytest.approx(view.sizes[1], rel=0.05)


def test_zoom_is_on_fibres_that_run_sideways(evaluation):
    whole, zoom = pictures.choose_views(evaluation)
    assert pictures.PLANES[whole.plane] == "axial"
    sideways = np.abs(evaluation.reference.direction[..., 0]) * evaluation.reference.maps["fa"]
    assert zoom.picture(sideways).mean() > whole.picture(sideways).mean()
    assert zoom.picture(sideways).shape == (14, 14)


def test_differences_share_one_symmetric_bound():
    differences = [np.linspace(-1, 1, 1001), np.full(5, np.nan), np.linspace(0, 3, 1001)]
    expected = np.quantile(np.abs(np.concatenate([differences[0], differences[2]])), 0.99)
    assert pictures.symmetric_bound(differences) == pytest.approx(expected)
    assert pictures.symmetric_bound([np.zeros(4)]) > 0


def test_figures_are_the_same_every_time_and_leave_matplotlib_as_it_was(evaluation):
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert plots.spectrum_figure(evaluation, "fa") == plots.spectrum_figure(evaluation, "fa")
    assert dict(matplotlib.rcParams) == before


def test_comparison_of_two_scans(tmp_path):
    scan = phantom((38, 46, 4), (4.0, 4.0, 6.0), seed=1)
    noisy = phantom((38, 46, 4), (4.0, 4.0, 6.0), seed=1, snr=15)
    result = report.write_comparison_report(scan, noisy, tmp_path / "r.html", names=("first", "second"), distances=())
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert f"FA differs by {result.score('second', 'fa', 'mae'):.3f} on average" in text
    assert "second against first" in text
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_report_needs_its_folder(evaluation, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        report.write_report(evaluation, tmp_path / "absent" / "r.html")


def test_a_scan_without_b0_can_be_compared(tmp_path):
    scan = phantom((38, 46, 4), (4.0, 4.0, 6.0), seed=1, shells=((500, 10), (1500, 10)))
    result = assess(scan, scan, distances=())
    assert result.shells == ["b500", "b1500"]
    report.write_report(result, tmp_path / "r.html")


# ------------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def chromium():
    return oracle("chromium")


def render(chromium, page, target, *options):
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options]
    profile = f"--user-data-dir={target.parent / 'profile'}"
    subprocess.run([*command, profile, page.as_uri()], check=True, capture_output=True, timeout=120)
    return target


@pytest.mark.parametrize(("mode", "width"), [("light", 1280), ("light", 480), ("dark", 1280), ("dark", 480)])
def test_page_in_chromium(chromium, page, tmp_path, mode, width):
    from matplotlib.image import imread

    shot = tmp_path / "shot.png"
    dark = ["--force-dark-mode"] if mode == "dark" else []
    render(chromium, page, shot, f"--window-size={width},3000", f"--screenshot={shot}", *dark)
    image = imread(shot)[..., :3]
    assert image.shape[:2] == (3000, width)
    paper = image[2, 2].mean()
    assert paper > 0.95 if mode == "light" else paper < 0.15
    ink = np.abs(image.mean(-1) - paper)
    assert (ink[:300] > 0.6).mean() > 0.005, "the title and the verdict can be read"
    assert (ink[:, -4:] < 0.05).all(), "nothing runs over the right edge"


def test_page_on_paper(chromium, page, tmp_path):
    pdf = tmp_path / "page.pdf"
    render(chromium, page, pdf, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", "--force-dark-mode")
    content = pdf.read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    assert 4 <= pages <= 30
    boxes = {tuple(map(float, box.split())) for box in re.findall(rb"/MediaBox\s*\[([^\]]+)\]", content)}
    assert all(abs(w - 595) < 2 and abs(h - 842) < 2 for _, _, w, h in boxes), "A4"
