"""Outputs appear whole or not at all: existing files, full disks, interruptions, folders."""

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from DWISuperResLib import io
from DWISuperResLib.dwi import DWI
from DWISuperResLib.errors import InputError, ProcessingError
from DWISuperResLib.io import streams

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr")
FILES = {
    ".nii": {"scan.nii", "scan.bval", "scan.bvec"},
    ".nii.gz": {"scan.nii.gz", "scan.bval", "scan.bvec"},
    ".nrrd": {"scan.nrrd"},
    ".nhdr": {"scan.nhdr", "scan.raw.gz"},
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture
def noisy_dwi(small_dwi) -> DWI:
    """4 MB that do not compress."""
    signal = np.random.default_rng(0).random((64, 64, 25, 10), dtype=np.float32)
    return replace(small_dwi, signal=signal)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_exactly_the_files_promised(suffix, small_dwi, tmp_path):
    io.write_dwi(small_dwi, tmp_path / f"scan{suffix}")
    assert set(contents(tmp_path)) == FILES[suffix]
    umask = os.umask(0)
    os.umask(umask)
    assert {stat.S_IMODE(f.stat().st_mode) for f in tmp_path.iterdir()} == {0o666 & ~umask}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_same_scan_same_bytes(suffix, noisy_dwi, tmp_path):
    io.write_dwi(noisy_dwi, tmp_path / f"scan{suffix}")
    before = contents(tmp_path)
    io.write_dwi(noisy_dwi, tmp_path / f"scan{suffix}", overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("suffix", "file"), [(s, f) for s in SUFFIXES for f in sorted(FILES[s])])
def test_existing_files_are_kept(suffix, file, small_dwi, tmp_path):
    (tmp_path / file).write_text("mine")
    refused = pytest.raises(InputError, match="already exists; choose another name or allow overwriting")
    with refused, io.scan_outputs([tmp_path / f"scan{suffix}"]):
        pytest.fail("what could not be written was computed")
    with pytest.raises(InputError, match=f"{file} already exists"):
        io.write_dwi(small_dwi, tmp_path / f"scan{suffix}")
    assert contents(tmp_path) == {file: b"mine"}
    io.write_dwi(small_dwi, tmp_path / f"scan{suffix}", overwrite=True)
    assert set(contents(tmp_path)) == FILES[suffix]
    io.read_dwi(tmp_path / f"scan{suffix}")


def test_a_scan_may_replace_itself(small_dwi, tmp_path):
    io.write_dwi(small_dwi, tmp_path / "scan.nii")
    io.write_dwi(io.read_dwi(tmp_path / "scan.nii"), tmp_path / "scan.nii", overwrite=True)
    np.testing.assert_array_equal(io.read_dwi(tmp_path / "scan.nii").signal, small_dwi.signal)


def test_places_that_cannot_hold_a_file(small_dwi, tmp_path):
    with pytest.raises(InputError, match=r"folder .* does not exist"):
        io.write_dwi(small_dwi, tmp_path / "nowhere" / "scan.nii")
    (tmp_path / "scan.nii").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        io.write_dwi(small_dwi, tmp_path / "scan.nii", overwrite=True)
    for name in ("scan", "scan.img", "scan.gz", "scan.mha"):
        with pytest.raises(InputError, match=r"expected one of \.nii\.gz"):
            io.write_dwi(small_dwi, tmp_path / name)
    assert io.image_suffix("SCAN.NII.GZ") == ".nii.gz"
    assert not contents(tmp_path)


def test_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == tmp_path and mode == os.W_OK))
    with pytest.raises(InputError, match="may not be written to"), io.scan_outputs([tmp_path / "scan.nii"]):
        pass
    with pytest.raises(InputError, match="may not be written to"), io.output_directory(tmp_path / "out"):
        pass


@pytest.mark.parametrize("threaded", [True, False])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_full_disk_leaves_what_was_there(suffix, threaded, noisy_dwi, small_dwi, tmp_path, monkeypatch):
    resource = pytest.importorskip("resource", reason="limits on file size are POSIX")
    if not threaded:
        monkeypatch.setattr(streams, "igzip_threaded", None)
    io.write_dwi(small_dwi, tmp_path / f"scan{suffix}")
    before = contents(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        for overwrite, name in ((True, f"scan{suffix}"), (False, f"new{suffix}")):
            with pytest.raises(ProcessingError, match="nothing was written: free space") as caught:
                io.write_dwi(noisy_dwi, tmp_path / name, overwrite=overwrite)
            chain: list[BaseException | None] = [caught.value]
            while chain[-1] is not None:
                chain.append(chain[-1].__context__)
                assert chain[-1] not in chain[:-1]  # a cycle makes contextlib.ExitStack spin for ever
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert contents(tmp_path) == before


def test_a_set_that_cannot_be_moved_whole_is_undone(small_dwi, tmp_path, monkeypatch):
    """As on Windows, where a file that another program holds open cannot be replaced."""
    io.write_dwi(small_dwi, tmp_path / "scan.nii")
    (tmp_path / "scan.bvec").unlink()
    before = contents(tmp_path)
    move = os.replace

    def refuse(source, target):
        if Path(target).name == "scan.nii":
            raise PermissionError(13, "Permission denied")
        move(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ProcessingError, match=r"scan\.nii failed \(Permission denied\)"):
        io.write_dwi(replace(small_dwi, signal=small_dwi.signal * 2), tmp_path / "scan.nii", overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_interruption_leaves_nothing(suffix, small_dwi, tmp_path, monkeypatch):
    def interrupt(file, voxels, dtype):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(f"DWISuperResLib.io.{'nifti' if 'nii' in suffix else 'nrrd'}.write_voxels", interrupt)
    with pytest.raises(KeyboardInterrupt):
        io.write_dwi(small_dwi, tmp_path / f"scan{suffix}")
    assert not contents(tmp_path)


def fill(folder: Path):
    (folder / "figures").mkdir()
    (folder / "report.html").write_text("new")
    (folder / "figures" / "fa.png").write_text("new")


def fill_and_fail(folder: Path):
    fill(folder)
    raise OverflowError


def test_directory_appears_on_success(tmp_path):
    with io.output_directory(tmp_path / "out") as folder:
        fill(folder)
        assert folder.parent == tmp_path
        assert not (tmp_path / "out").exists()
    assert contents(tmp_path) == {"out/report.html": b"new", "out/figures/fa.png": b"new"}


def test_directory_vanishes_on_failure(tmp_path):
    with pytest.raises(OverflowError), io.output_directory(tmp_path / "out") as folder:
        fill_and_fail(folder)
    assert not any(tmp_path.iterdir())


def test_empty_directory_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    with io.output_directory(tmp_path / "out") as folder:
        fill(folder)
    assert set(contents(tmp_path)) == {"out/report.html", "out/figures/fa.png"}


def test_other_files_of_a_directory_stay(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").write_text("old")
    (tmp_path / "out" / "thesis.doc").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(InputError, match="is not empty"), io.output_directory(tmp_path / "out"):
        pass
    with pytest.raises(OverflowError), io.output_directory(tmp_path / "out", overwrite=True) as folder:
        fill_and_fail(folder)
    assert contents(tmp_path) == before
    with io.output_directory(tmp_path / "out", overwrite=True) as folder:
        fill(folder)
    assert contents(tmp_path) == {"out/report.html": b"new", "out/thesis.doc": b"mine", "out/figures/fa.png": b"new"}
    assert len(list(tmp_path.iterdir())) == 1


def test_places_that_cannot_hold_a_directory(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"), io.output_directory(tmp_path / "file", overwrite=True):
        pass
    with pytest.raises(InputError, match="does not exist"), io.output_directory(tmp_path / "no" / "where"):
        pass


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_second_run_into_one_output_is_refused_while_the_first_goes_on(suffix, small_dwi, tmp_path):
    target = tmp_path / f"scan{suffix}"
    with io.scan_outputs([target]) as write:
        with pytest.raises(InputError, match=rf"Another run \(process {os.getpid()}\) is writing .*wait until"):
            io.write_dwi(small_dwi, target, overwrite=True)
        write(target, small_dwi)
    assert set(contents(tmp_path)) == FILES[suffix]
    io.write_dwi(small_dwi, target, overwrite=True)


@pytest.mark.parametrize("existing", [False, True])
def test_a_second_run_into_one_folder_is_refused_while_the_first_goes_on(existing, tmp_path):
    if existing:
        (tmp_path / "out").mkdir()
    with io.output_directory(tmp_path / "out") as folder:
        with (
            pytest.raises(InputError, match=r"Another run .* is writing"),
            io.output_directory(tmp_path / "out", overwrite=True),
        ):
            pass
        fill(folder)
    assert set(contents(tmp_path)) == {"out/report.html", "out/figures/fa.png"}


def test_a_run_that_waits_finds_what_the_other_has_written(tmp_path):
    seen = []

    def second():
        try:
            with io.output_directory(tmp_path / "out", wait=True):
                seen.append("wrote")
        except InputError as error:
            seen.append(str(error))

    thread = threading.Thread(target=second)
    with io.output_directory(tmp_path / "out") as folder:
        thread.start()
        fill(folder)
        thread.join(0.5)
        assert not seen
    thread.join(30)
    assert "is not empty" in seen[0]
    assert contents(tmp_path) == {"out/report.html": b"new", "out/figures/fa.png": b"new"}


def test_scans_that_would_share_a_file_are_refused_before_anything_is_computed(tmp_path):
    for first, second in (("a.nii.gz", "a.nii"), ("a.nrrd", "a.nrrd"), ("a.nii", "sub/../a.nii")):
        (tmp_path / "sub").mkdir(exist_ok=True)
        refused = pytest.raises(InputError, match="Two outputs would both be written")
        with refused, io.scan_outputs([tmp_path / first, tmp_path / second]):
            pytest.fail("it went on")


def test_several_scans_appear_together_or_not_at_all(small_dwi, tmp_path):
    paths = [tmp_path / "deviation.nii", tmp_path / "scan.nrrd"]

    def write_one_and_fail():
        with io.scan_outputs(paths) as write:
            write(paths[0], small_dwi)
            raise OverflowError

    with pytest.raises(OverflowError):
        write_one_and_fail()
    assert not contents(tmp_path)
    with io.scan_outputs(paths) as write:
        for path in paths:
            write(path, small_dwi)
        assert not any(path.exists() for path in paths)
    assert set(contents(tmp_path)) == FILES[".nrrd"] | {"deviation.nii", "deviation.bval", "deviation.bvec"}


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from DWISuperResLib import io
from DWISuperResLib.dwi import DWI
kind, place = sys.argv[1], Path(sys.argv[2])
move = os.replace
def die(source, target):
    if kind == "moving" and not str(target).endswith(".old"):
        os.kill(os.getpid(), signal.SIGKILL)
    move(source, target)
os.replace = die
def fill(path, text):
    Path(path).write_text(text)
    if kind == "writing":
        os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "files":
    with io.output_files([place / "scan.bval", place / "scan.nii"], overwrite=True) as files:
        for file in files:
            fill(file, "new")
else:
    with io.output_directory(place, overwrite=True) as folder:
        for name in ("scan.bval", "scan.nii"):
            fill(folder / name, "new")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("kind", ["writing", "moving"])
@pytest.mark.parametrize("way", ["files", "folder"])
def test_the_next_run_removes_what_a_killed_one_left_and_puts_back_what_it_took_away(kind, way, tmp_path):
    for name in ("scan.bval", "scan.nii", ".hidden.tmp"):
        (tmp_path / name).write_text("mine")
    command = [sys.executable, "-c", KILLED, kind, str(tmp_path), way]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL
    left = [path.name for path in tmp_path.iterdir() if path.name.endswith((".tmp", ".old"))]
    assert any(re.search(r"\.\d+-[0-9a-f]{8}\.tmp$", name) for name in left)

    if way == "files":
        again = io.output_files([tmp_path / "scan.bval", tmp_path / "scan.nii"], overwrite=True)
    else:
        again = io.output_directory(tmp_path, overwrite=True)
    with pytest.raises(OverflowError), again:  # a next run that fails itself: all is as it was
        raise OverflowError
    expected = dict.fromkeys(("scan.bval", "scan.nii", ".hidden.tmp"), b"mine")
    assert contents(tmp_path) == expected
    assert {path.name for path in tmp_path.iterdir()} == set(expected)


def test_a_folder_that_is_a_file_system_of_its_own(tmp_path, monkeypatch):
    """As a mount point in a container is: nothing can be renamed into it from outside."""
    target = tmp_path / "out"
    target.mkdir()
    move = os.replace

    def within(source, place):
        if (target in Path(source).parents) != (target in Path(place).parents):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        move(source, place)

    monkeypatch.setattr(os, "replace", within)
    with io.output_directory(target) as folder:
        fill(folder)
    assert set(contents(tmp_path)) == {"out/report.html", "out/figures/fa.png"}


def test_an_empty_folder_of_ones_own_under_a_parent_that_is_not(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    make = Path.mkdir

    def refuse(path, *arguments, **options):
        if path.parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        make(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with io.output_directory(tmp_path / "out") as folder:
        fill(folder)
    assert set(contents(tmp_path)) == {"out/report.html", "out/figures/fa.png"}


def test_names_at_the_limit_of_the_file_system(small_dwi, tmp_path):
    longest = f"{'ü' * 124}.nrrd"  # 253 bytes
    io.write_dwi(small_dwi, tmp_path / longest)
    assert set(contents(tmp_path)) == {longest}
    with pytest.raises(InputError, match="is too long for this file system; shorten it"):
        io.write_dwi(small_dwi, tmp_path / f"{'x' * 300}.nrrd")
    with pytest.raises(InputError, match="is too long"), io.output_directory(tmp_path / ("x" * 300)):
        pass


def test_reading_nifti_loads_nothing_heavy(small_dwi, tmp_path):
    io.write_dwi(small_dwi, tmp_path / "scan.nii.gz")
    code = (
        "import sys, DWISuperResLib as dsr; dsr.read_dwi(sys.argv[1]);"
        "print([m for m in ('torch', 'dipy', 'scipy.ndimage', 'matplotlib', 'nrrd') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "scan.nii.gz")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert result.stdout.strip() == "[]"
