"""The child that stays: many commands in one process, its end with Slicer's, and what it may import."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from DWISuperResLib.gui.warm_child import WarmChild
from DWISuperResLib.gui.worker import LOADED_FIRST
from DWISuperResLib.io import write_dwi
from DWISuperResLib.phantoms import phantom

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).parents[1] / "slicer_host" / "fake_child.py"
REQUIREMENTS = ROOT / "Resources/DWISuperRes-requirements.txt"


@pytest.fixture
def child(tmp_path):
    """The warm child with a fake worker, which starts at once."""
    environment = {**os.environ, "FAKE_CHILD_PIDS": str(tmp_path / "pids")}
    command = [sys.executable, "-S", str(FAKE), "-m", "DWISuperResLib.gui.worker"]
    child = WarmChild(lambda: command, lambda: environment, lambda: str(tmp_path))
    child.environment = environment
    yield child
    child.close()
    assert not list(tmp_path.glob("DWISuperRes-*"))


def wait(command, seconds=60):
    """All messages and the exit code."""
    messages, end = [], time.monotonic() + seconds
    while command.exit_code is None:
        messages += command.read()
        assert time.monotonic() < end
        time.sleep(0.01)
    return messages + command.read(), command.exit_code


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def ended(pids):
    """A busy system takes a moment to end what was killed."""
    end = time.monotonic() + 20
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def pid(child):
    return child._child._process.pid


def test_many_commands_in_one_process(child, tmp_path):
    (tmp_path / "a").write_text("x")
    pids = set()
    for n in range(3):
        command = child.run(["degrade", str(tmp_path / "a"), str(tmp_path / f"b{n}")])
        messages, code = wait(command)
        command.stop()
        assert code == 0
        assert [m["type"] for m in messages] == ["status", "progress", "result"]
        assert (tmp_path / f"b{n}").read_text() == "x"
        pids.add(pid(child))
    assert len(pids) == 1


@pytest.mark.parametrize(
    ("behaviour", "code", "stays"), [("error", 2, True), ("memory", 1, False), ("crash", 3, False)]
)
def test_only_refused_input_leaves_the_child_as_it_was(child, behaviour, code, stays):
    child.environment["FAKE_CHILD"] = behaviour
    command = child.run(["degrade", "a", "b"])
    assert wait(command)[1] == code
    if behaviour == "crash":
        assert "something odd" in command.said()
    command.stop()
    assert child.is_running == stays


@pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
def test_cancel_ends_it_and_the_next_command_starts_another(child, tmp_path):
    child.environment["FAKE_CHILD"] = "slow"
    command = child.run(["run", "a", "b"])
    while not (tmp_path / "pids").exists() or not command.read():
        time.sleep(0.02)
    pids = [int(p) for p in (tmp_path / "pids").read_text().split()]
    command.stop()
    ended(pids)
    child.environment["FAKE_CHILD"] = "error"
    assert wait(child.run(["run", "a", "b"]))[1] == 2


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_killed_while_it_worked_and_while_it_waited(child):
    child.environment["FAKE_CHILD"] = "killed"
    assert wait(child.run(["run", "a", "b"]))[1] == -signal.SIGKILL
    child.environment["FAKE_CHILD"] = "error"
    assert wait(child.run(["run", "a", "b"]))[1] == 2
    os.kill(pid(child), signal.SIGKILL)
    child._child._process.wait()
    assert wait(child.run(["run", "a", "b"]))[1] == 2


WORKER = [sys.executable, "-m", "DWISuperResLib.gui.worker"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_the_tree_ends_when_slicer_is_killed(tmp_path, busy):
    """The parent gets SIGKILL, so that nothing of it runs any more; the worker sees its input close."""
    scan = tmp_path / "scan.nrrd"
    write_dwi(phantom((64, 64, 20), (2.5, 2.5, 3), snr=None, supersampling=1, shells=((0, 2), (1000, 6))), scan)
    code = (
        f"import sys, time, pathlib; sys.path.insert(0, {str(ROOT)!r})\n"
        "from DWISuperResLib.gui.warm_child import WarmChild\n"
        f"child = WarmChild(lambda: {WORKER!r}, lambda: None, lambda: {str(tmp_path)!r})\n"
        "child.start()\n"
        f"command = child.run(['run', {str(scan)!r}, {str(tmp_path / 'o.nrrd')!r}, '--ensemble', '--device', 'cpu'])\n"
        "while not command.read(): time.sleep(.05)\n"
        if busy
        else f"import sys, time, pathlib; sys.path.insert(0, {str(ROOT)!r})\n"
        "from DWISuperResLib.gui.warm_child import WarmChild\n"
        f"child = WarmChild(lambda: {WORKER!r}, lambda: None, lambda: {str(tmp_path)!r})\n"
        "command = child.run(['probe', 'cpu'])\n"
        "while command.exit_code is None: time.sleep(.05)\n"
    )
    code += "print(child._child._process.pid, flush=True)\ntime.sleep(600)"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.kill()
    ended([worker])
    assert not (tmp_path / "o.nrrd").exists()


def closure(names):
    """Distributions and all that they depend on, as installed here."""
    found, queue = set(), [Requirement(name) for name in names]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            depends = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        queue += map(Requirement, depends)
    return found


@pytest.fixture(scope="module")
def importable():
    """Top-level modules of a fresh Slicer: the standard library, numpy, PyTorch, and what the module asks pip for."""
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    allowed = closure(["torch", "torchvision", "numpy", *lines])
    modules = {
        module
        for module, names in metadata.packages_distributions().items()
        if any(canonicalize_name(name) in allowed for name in names)
    }
    return sorted({*sys.stdlib_module_names, *modules, "DWISuperResLib"})


BLOCK = """
import sys
ALLOWED = {allowed!r}
class Fresh:
    '''Finds what one of Python's finders finds, as long as it may.'''
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ALLOWED or name.startswith("_sysconfigdata"):
            return self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Fresh, sys.meta_path)
from DWISuperResLib.gui.worker import main
sys.exit(main())
"""


def test_every_command_runs_with_what_slicer_has(importable, tmp_path):
    """One worker, all its commands, every import outside of the requirements refused; DWI NRRD and NIfTI alike."""
    scan = tmp_path / "scan.nrrd"
    dwi = phantom((24, 24, 8), (5, 5, 6), snr=None, supersampling=1, shells=((0, 2), (1000, 12)))
    write_dwi(dwi, scan, compress=False)
    low, high, nifti = (str(tmp_path / name) for name in ("low.nrrd", "high.nrrd", "scan.nii.gz"))
    mask = np.ones(dwi.spatial_shape, np.uint8)
    from DWISuperResLib.io import write_image

    write_image(mask, dwi.affine, tmp_path / "mask.nrrd")
    commands = [
        ["probe", "auto"],
        ["degrade", str(scan), low, "--scale", "2", "--snr", "30", "--uncompressed"],
        [
            "run",
            low,
            high,
            "--scale",
            "2",
            "--device",
            "cpu",
            "--uncompressed",
            "--uncertainty",
            str(tmp_path / "u.nrrd"),
        ],
        ["run", low, nifti, "--scale", "2", "--method", "sinc"],
        ["maps", str(scan), str(tmp_path / "maps"), "--format", "nrrd"],
        ["compare", str(scan), high, str(tmp_path / "comparison"), "--maps", "fa,md,qa", "--format", "nrrd"],
        ["colours", str(scan), str(tmp_path / "c.npy"), str(tmp_path / "mask.nrrd")],
    ]
    lines = "".join(json.dumps({"arguments": command}) + "\n" for command in commands)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    program = tmp_path / "worker.py"
    program.write_text(BLOCK.format(allowed=importable))
    process = subprocess.Popen(
        [sys.executable, str(program)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    with process:
        process.stdin.write(lines)
        process.stdin.flush()
        codes, messages = [], []
        for line in process.stdout:  # its input stays open until it has answered
            messages.append(json.loads(line))
            if messages[-1]["type"] == "end":
                codes.append(messages[-1]["code"])
            if len(codes) == len(commands):
                break
        process.kill()
        said = process.stderr.read()
    errors = [m["message"] for m in messages if m["type"] == "error"]
    assert codes == [0] * len(commands), (errors, said[-2000:])
    assert not errors


@pytest.mark.parametrize("name", LOADED_FIRST)
def test_what_is_loaded_first_exists(name):
    assert find_spec(name)
