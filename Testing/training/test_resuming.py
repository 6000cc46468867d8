"""Runs that end before their time: killed, interrupted, out of disk, or with files that are damaged."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from DWISuperResLib import io
from DWISuperResLib.checkpoints import load_checkpoint
from DWISuperResLib.errors import InputError, ProcessingError
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.training import load_configuration, train, validated
from DWISuperResLib.training.cache import open_scan

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Two small phantom scans."""
    root = tmp_path_factory.mktemp("cohort")
    for n in range(2):
        dwi = phantom((24, 30, 4), (6.0, 6.0, 6.0), seed=n, supersampling=1, shells=((0, 1), (1000, 6)))
        io.write_dwi(dwi, root / f"sub-{n}_dwi.nii.gz")
    return root


def tree(scans: Path, output: Path, epochs: int, **sections) -> dict:
    return {
        "output": str(output),
        "data": {
            "scans": [str(scans)],
            "validation": [str(scans / "sub-1_dwi.nii.gz")],
            "cache": str(scans / "cache"),
            "slabs": 1,
            "patches": 1,
            "patch": 16,
            "workers": 0,
        },
        "network": {"architecture": "sr_unet", "arguments": {"width": 4, "blocks": [1], "scales": [2]}},
        "schedule": {"epochs": epochs, "steps_per_epoch": 2, "ema": 0.9},
        "validation": {"slices": 1, "images": False},
        "machine": {"accelerator": "cpu", "precision": "fp32", "progress": False},
        **sections,
    }


def begin(tmp_path: Path, configuration: dict, module="DWISuperResLib.train", *overrides: str) -> subprocess.Popen:
    """`dwi-superres train` in a process of its own."""
    path = tmp_path / f"{Path(configuration['output']).name}.yaml"
    path.write_text(yaml.safe_dump(configuration))
    command = [sys.executable, "-m", *module.split(), "--config", str(path), *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    limit = time.monotonic() + 200
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.mark.timeout(600)
def test_a_killed_run_goes_on_from_its_last_epoch_to_the_same_weights(scans, tmp_path):
    epochs = 12
    whole = tmp_path / "whole"  # a process as well: the last bits depend on the number of threads
    beside = begin(tmp_path, tree(scans, whole, epochs))
    killed = tmp_path / "killed"
    configuration = tree(scans, killed, epochs)
    configuration["data"]["workers"] = 1
    process = begin(tmp_path, configuration)
    wait_for(killed / "last.ckpt", process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    reached = torch.load(killed / "last.ckpt", weights_only=True)
    assert 2 <= reached["global_step"] < 2 * epochs
    assert not (killed / "model.safetensors").exists()
    process = begin(tmp_path, configuration, "DWISuperResLib.train", "resume=true")
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    trained = [int(line.split()[1].rstrip(",")) for line in output.splitlines() if line.startswith("epoch ")]
    assert trained == list(range(reached["global_step"] // 2, epochs))
    _, errors = beside.communicate(timeout=400)
    assert beside.returncode == 0, errors
    expected, found = (load_checkpoint(path / "model.safetensors").weights for path in (whole, killed))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    expected, found = (torch.load(path / "last.ckpt", weights_only=True) for path in (whole, killed))
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(expected[part][name], found[part][name]) for name in expected[part])
    assert not [path.name for path in killed.iterdir() if path.name.endswith((".tmp", ".part"))]


@pytest.mark.timeout(600)
def test_a_second_run_is_refused_while_one_lasts_and_an_interrupted_one_says_so_and_can_be_resumed(scans, tmp_path):
    cases = [(signal.SIGINT, 130, "DWISuperResLib.train"), (signal.SIGTERM, 143, "DWISuperResLib train")]
    outputs = [tmp_path / number.name for number, *_ in cases]
    processes = [
        begin(tmp_path, tree(scans, output, 10**6), module) for output, (*_, module) in zip(outputs, cases, strict=True)
    ]
    try:
        for output, process, (number, code, _) in zip(outputs, processes, cases, strict=True):
            wait_for(output / "last.ckpt", process)
            with pytest.raises(InputError, match=f"process {process.pid}.*{output}"):
                train(validated(tree(scans, output, 1, resume=True)))
            process.send_signal(number)
            _, errors = process.communicate(timeout=100)
            assert process.returncode == code, errors
            assert "resume=true goes on" in errors
            assert "Traceback" not in errors
            torch.load(output / "last.ckpt", weights_only=True)
            assert not list(output.glob("*.safetensors"))
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_program_of_its_own_is_told_where_to_go_on(scans, tmp_path, monkeypatch):
    """Lightning would end the whole program, with a code of its own."""
    from DWISuperResLib.training.module import Training

    begins = Training.on_train_epoch_start

    def interrupt(self):
        if self.current_epoch == 2:
            raise KeyboardInterrupt
        begins(self)

    monkeypatch.setattr(Training, "on_train_epoch_start", interrupt)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(validated(tree(scans, tmp_path / "out", 5)))
    assert "after epoch 2 of 5 is in" in caught.value.__notes__[0]
    assert signal.getsignal(signal.SIGINT) is before


def test_resuming_nothing_is_said(scans, tmp_path, capfd):
    train(validated(tree(scans, tmp_path / "out", 1, resume=True)))
    assert "Nothing to resume" in capfd.readouterr().err


def fill(path: Path, left: int) -> None:
    """Write until `left` bytes of the disk are."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(path, path.stat().st_size - left)


def test_a_full_disk_leaves_the_last_epoch_whole(scans, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        train(validated(tree(scans, disk / "out", 1)))
        last = disk / "out" / "last.ckpt"
        before = last.read_bytes()
        fill(disk / "filler", left=len(before) // 2)
        with pytest.raises(ProcessingError, match=r"No space left.*after epoch 1 of 3.*resume=true") as caught:
            train(validated(tree(scans, disk / "out", 3, resume=True)))
        assert "\n" not in str(caught.value)
        assert last.read_bytes() == before
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_write_error_leaves_the_last_epoch_whole(scans, tmp_path, monkeypatch):
    from DWISuperResLib.training import saving

    synced = []

    def full(file):
        synced.append(file)
        if len(synced) > 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving.os, "fsync", full)
    with pytest.raises(ProcessingError, match=r"No space left.*after epoch [1-4] of 5.*resume=true") as caught:
        train(validated(tree(scans, tmp_path / "out", 5)))
    epoch = int(re.search(r"after epoch (\d)", str(caught.value))[1])
    assert torch.load(tmp_path / "out" / "last.ckpt", weights_only=True)["global_step"] == 2 * epoch
    monkeypatch.undo()
    train(validated(tree(scans, tmp_path / "out", 5, resume=True)))


# Damaged files


@pytest.fixture(scope="module")
def finished(scans, tmp_path_factory) -> Path:
    return train(validated(tree(scans, tmp_path_factory.mktemp("run") / "out", 1))).parent


def _foreign(path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(2)}, "epoch": 3}, path)


def _other_network(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["state_dict"].popitem()
    torch.save(state, path)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("last.ckpt", lambda path: path.write_bytes(path.read_bytes()[:-2000])),
        ("last.ckpt", lambda path: path.write_bytes(b"")),
        ("last.ckpt", lambda path: path.write_bytes(b"not torch's")),
        ("last.ckpt", lambda path: torch.save([1, 2], path)),
        ("last.ckpt", _foreign),
        ("last.ckpt", _other_network),
        ("configuration.yaml", lambda path: path.write_text("")),
        ("configuration.yaml", lambda path: path.write_text(path.read_text()[:200])),
        ("configuration.yaml", lambda path: path.write_bytes(b"\xff\xfe\x00")),
        ("configuration.yaml", lambda path: path.unlink()),
    ],
)
def test_what_is_damaged_is_named_before_training(scans, finished, tmp_path, name, damage):
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    damage(output / name)
    with pytest.raises(InputError, match=name.replace(".", r"\.")) as caught:
        train(validated(tree(scans, output, 2, resume=True)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("signal.npy", b""),
        ("signal.npy", b"\x93NUMPY"),
        ("signal.npy", None),
        ("mask.npy", b"not NumPy's"),
        ("scan.json", b""),
        ("scan.json", b"[]"),
        ("scan.json", b'{"axis": 2}'),
        ("scan.json", b"[" * 100_000),
        ("scan.json", None),
    ],
)
def test_a_damaged_copy_of_a_scan_is_named(scans, tmp_path, name, content):
    path = scans / "sub-0_dwi.nii.gz"
    file = open_scan(path, tmp_path, "volume").folder / name
    file.write_bytes(file.read_bytes()[:-8] if content is None else content)
    with pytest.raises(InputError, match=r"sub-0_dwi-.* is damaged .*delete") as caught:
        open_scan(path, tmp_path, "volume")
    assert "\n" not in str(caught.value)


def test_a_copy_that_another_process_is_writing_is_waited_for(scans, tmp_path):
    """As on a cluster, where nodes share the folder."""
    path = scans / "sub-0_dwi.nii.gz"
    folder = open_scan(path, tmp_path, "volume").folder
    away = folder.rename(tmp_path / "away")
    with ThreadPoolExecutor(1) as pool:
        with io.output_directory(folder) as written:
            waiting = pool.submit(open_scan, path, tmp_path, "volume")
            time.sleep(0.3)
            assert not waiting.done()
            shutil.copytree(away, written, dirs_exist_ok=True)
        stamp = (folder / "signal.npy").stat().st_mtime_ns
        assert waiting.result(timeout=60).count == 7
    assert (folder / "signal.npy").stat().st_mtime_ns == stamp


def test_parts_of_two_copies_are_no_copy(scans, tmp_path):
    first = open_scan(scans / "sub-0_dwi.nii.gz", tmp_path, "volume").folder
    io.write_dwi(phantom((12, 12, 3), (9, 9, 9), supersampling=1, shells=((0, 1),)), tmp_path / "other.nii.gz")
    second = open_scan(tmp_path / "other.nii.gz", tmp_path, "volume").folder
    shutil.copy(second / "signal.npy", first / "signal.npy")
    with pytest.raises(InputError, match="do not belong together"):
        open_scan(scans / "sub-0_dwi.nii.gz", tmp_path, "volume")


def test_a_corrected_gradient_table_is_another_scan(scans, tmp_path):
    for suffix in ("nii.gz", "bval", "bvec"):
        shutil.copy(scans / f"sub-0_dwi.{suffix}", tmp_path)
    path = tmp_path / "sub-0_dwi.nii.gz"
    before = open_scan(path, tmp_path / "cache", "volume")
    table = tmp_path / "sub-0_dwi.bvec"
    rows = table.read_text().splitlines()
    table.write_text("\n".join([" ".join(str(-float(x)) for x in rows[0].split()), *rows[1:]]) + "\n")
    after = open_scan(path, tmp_path / "cache", "volume")
    flipped = io.read_dwi(path).bvecs
    assert abs(after.bvecs - flipped).max() < 1e-12
    assert abs(after.bvecs - before.bvecs).max() > 0.1


# What is refused without Lightning


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.validation=5", "data.validation"),
        ("data.validation=-1", "data.validation"),
        ("data.validation=.nan", "data.validation"),
        ("augmentation.window=[-1, 1]", "augmentation.window"),
        ("augmentation.resample=[0, 0]", "augmentation.resample"),
        ("augmentation.intensity=[0, 1]", "augmentation.intensity"),
        ("augmentation.contrast=[.nan, 1]", "augmentation.contrast"),
        ("degradation.noise=[-5, 1]", "degradation.noise"),
        ("degradation.noise=[0, .inf]", "degradation.noise"),
        ("degradation.fwhm=[-1, 1]", "degradation.fwhm"),
        ("schedule.learning_rate=.inf", "schedule.learning_rate"),
        ("schedule.max_minutes=.nan", "schedule.max_minutes"),
        ("scales=[.nan]", "scales"),
        ("data.subject='('", "data.subject"),
        ("data.workers=100000", "data.workers"),
        ("seed=99999999999", "seed"),
        ("machine.accelerator=tpu", "machine.accelerator"),
        ("machine.strategy=horovod", "machine.strategy"),
        ("machine.devices=0", "machine.devices"),
        ("machine.devices=[]", "machine.devices"),
        ("machine.devices=many", "machine.devices"),
        ("name=2024-99-99", "not YAML"),
    ],
)
def test_ranges_are_checked(scans, tmp_path, override, says):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree(scans, tmp_path / "out", 1)))
    with pytest.raises(InputError, match=says) as caught:
        load_configuration(path, [override])
    assert "\n" not in str(caught.value)


REFUSED_WITHOUT_LIGHTNING = """
import sys
from DWISuperResLib.train import main
for override in sys.argv[2:]:
    assert main(["--config", sys.argv[1], "--progress", "none", override]) == 2, override
    assert "lightning" not in sys.modules, override
"""


def test_refusals_come_before_lightning_and_before_any_file(scans, tmp_path):
    path = tmp_path / "run.yaml"
    configuration = tree(scans, tmp_path / "out", 1)
    configuration["data"]["cache"] = str(tmp_path / "cache")
    path.write_text(yaml.safe_dump(configuration))
    overrides = [
        *("data.validation=5", "augmentation.resample=[0,0]", "machine.strategy=tpu", "data.scans=[nowhere]"),
        *("machine.devices=[0]", "scales=['2x2x2']", "scales=[3]", "loss=[{name: l3}]", "network.architecture=alexnet"),
    ]
    if not torch.cuda.is_available():
        overrides += ["machine.accelerator=gpu"]
    done = subprocess.run(
        [sys.executable, "-c", REFUSED_WITHOUT_LIGHTNING, str(path), *overrides],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == len(overrides), done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.yaml"]
