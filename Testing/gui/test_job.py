"""Jobs and child processes: success, failures in words, cancel with all that was started, nothing left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from Testing.conftest import oracle

oracle("slicer")

from DWISuperResLib.errors import Cancelled, InputError, ProcessingError
from DWISuperResLib.gui import child as child_module
from DWISuperResLib.gui import probe
from DWISuperResLib.gui.child import ChildProcess
from DWISuperResLib.gui.dependencies import torch_words
from DWISuperResLib.gui.job import Job, Step, check_space, make_folder

from .test_worker import alive

FAKE = Path(__file__).parents[1] / "slicer_host" / "fake_child.py"
CHILD = [sys.executable, "-S", str(FAKE), "-m", "DWISuperResLib"]


def python(code: str) -> Step:
    return Step(lambda _: [sys.executable, "-S", "-c", code])


def fake(*arguments: str) -> Step:
    return Step(lambda _: [*CHILD, *arguments])


def make_job(tmp_path, steps, finish=len, behaviour="succeed", **options) -> Job:
    environment = {**os.environ, "FAKE_CHILD": behaviour, "FAKE_CHILD_PIDS": str(tmp_path / "pids")}

    def launch(command, folder):
        return ChildProcess(command, folder, environment)

    job = Job(steps, make_folder(tmp_path), finish, launch=launch, **options)
    job.start()
    return job


def folders(tmp_path) -> list[Path]:
    return list(tmp_path.glob("DWISuperRes-*"))


def test_results_of_all_steps(tmp_path):
    print_result = "import json; print(json.dumps(dict(type='result', n={})), flush=True)"
    seen = []
    steps = [
        python(print_result.format(1)),
        Step(lambda results: [sys.executable, "-S", "-c", print_result.format(results[0]["n"] + 1)], weight=3),
    ]
    job = make_job(tmp_path, steps, lambda results: [r["n"] for r in results], on_finished=seen.append)
    assert job.wait() == [1, 2]
    assert job.state == "finished"
    assert job.fraction == 1
    assert seen == [job]
    assert not folders(tmp_path)


def test_progress_is_weighted(tmp_path):
    say = "import json,time; print(json.dumps(dict(type='progress', fraction=.5, eta=9, message='half')), flush=True)"
    result = "; print(json.dumps(dict(type='result')), flush=True)"
    fractions = []
    steps = [python(say + result), Step(lambda _: [sys.executable, "-S", "-c", say + "; time.sleep(.4)" + result], 3)]
    job = make_job(tmp_path, steps, on_progress=lambda job: fractions.append(job.fraction))
    job.wait()
    assert (1 + 3 * 0.5) / 4 in fractions


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        ("error", "no b0 volume"),
        ("memory", "memory ran out"),
        ("killed", "memory ran out"),
        ("silent", "without a result"),
        ("crash", "code 3"),
        ("full", "is full"),
    ],
)
def test_failures_in_words(tmp_path, behaviour, sentence):
    job = make_job(tmp_path, [fake("degrade", "a", "b")], behaviour=behaviour)
    with pytest.raises((InputError, ProcessingError), match=sentence) as caught:
        job.wait()
    assert isinstance(caught.value, InputError) == (behaviour == "error")
    assert job.state == "failed"
    assert "\n" not in str(caught.value)
    if behaviour == "crash":
        assert "something odd" in job.details
    assert not folders(tmp_path)


def test_garbage_on_stdout_is_no_protocol(tmp_path):
    (tmp_path / "ein gabe ü").write_text("x")
    target = tmp_path / "aus gabe ü"
    job = make_job(tmp_path, [fake("degrade", str(tmp_path / "ein gabe ü"), str(target))], behaviour="garbage")
    assert job.wait() == 1
    assert target.read_text() == "x"


@pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
@pytest.mark.parametrize("how", ["cancel", "interrupt"])
def test_cancel_ends_the_whole_tree(tmp_path, how, monkeypatch):
    job = make_job(tmp_path, [fake("run", "a", "b")], behaviour="slow")
    end = time.monotonic() + 20
    while not (tmp_path / "pids").exists() or job.fraction == 0:
        job.poll()
        assert time.monotonic() < end
        time.sleep(0.02)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert all(map(alive, pids))
    assert job.eta == 75
    if how == "cancel":
        job.cancel()
        with pytest.raises(Cancelled):
            job.wait()
    else:

        def interrupt(_seconds):
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            job.wait()
    assert job.state == "cancelled"
    end = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(alive, pids))
    assert not folders(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
def test_exit_of_the_parent_ends_the_child(tmp_path):
    """As when Slicer quits: what still runs is ended by atexit."""
    root = str(Path(__file__).parents[2])
    code = (
        f"import sys, time, pathlib; sys.path.insert(0, {root!r})\n"
        "from DWISuperResLib.gui.child import ChildProcess\n"
        f"folder, sleep = pathlib.Path({str(tmp_path)!r}), 'import time; time.sleep(600)'\n"
        "child = ChildProcess([sys.executable, '-S', '-c', sleep], folder)\n"
        "print(child._process.pid)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not alive(int(out.stdout))


def test_a_child_that_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(child_module, "SECONDS_TO_STOP", 0.2)
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        'print(\'{"type": "status"}\', flush=True); time.sleep(600)'
    )
    child = ChildProcess([sys.executable, "-S", "-c", code], tmp_path)
    while not child.read():
        time.sleep(0.02)
    child.stop()
    assert child.exit_code == -9


def test_messages_in_pieces(tmp_path):
    """A line that arrives in two reads is one message."""
    code = (
        "import sys, time\nfor part in ('{\"type\": \"sta', 'tus\"}\\n'):\n"
        " sys.stdout.write(part); sys.stdout.flush(); time.sleep(.3)"
    )
    child = ChildProcess([sys.executable, "-S", "-c", code], tmp_path)
    messages = []
    while child.exit_code is None:
        messages += child.read()
        time.sleep(0.05)
    assert messages + child.read() == [{"type": "status"}]


def test_result_that_cannot_be_taken_over(tmp_path):
    def finish(_results):
        raise KeyError("surprise")

    job = make_job(tmp_path, [python('print(\'{"type": "result"}\')')], finish)
    with pytest.raises(ProcessingError, match="surprise"):
        job.wait()
    assert "KeyError" in job.details
    assert not folders(tmp_path)


def test_executable_that_does_not_exist(tmp_path):
    job = make_job(tmp_path, [Step(lambda _: [str(tmp_path / "no python")])])
    with pytest.raises(ProcessingError, match="could not be started"):
        job.wait()
    assert not folders(tmp_path)


def test_no_room_for_temporary_files(tmp_path):
    with pytest.raises(ProcessingError, match="GB free"):
        check_space(tmp_path, 1e18)
    check_space(tmp_path, 1)
    with pytest.raises(ProcessingError, match="choose another"):
        make_folder(tmp_path / "absent")


class Torch:
    """A torch with or without a GPU."""

    __version__ = "2.9.0"

    def __init__(self, built=None, gpu=False, kernel_error=None, total=324.0):
        names = ("version", "cuda", "backends", "mps", "nn", "functional")
        self.version, self.cuda, self.backends, mps, self.nn, functional = (type(n, (), {})() for n in names)
        self.version.cuda = built
        self.cuda.is_available = lambda: gpu
        self.cuda.get_device_name = lambda: "RTX 5090"
        self.backends.mps, mps.is_available = mps, lambda: False
        self.nn.functional = functional
        self._error = kernel_error

        def conv2d(*_):
            if kernel_error:
                raise RuntimeError(kernel_error)
            return type("T", (), {"sum": lambda _self: total})()

        functional.conv2d = conv2d

    def ones(self, *_shape, device):
        return device


@pytest.mark.parametrize(
    ("torch", "device", "expected"),
    [
        (Torch(), "cpu", "cpu"),
        (Torch(), "auto", "cpu"),
        (Torch(), "cuda", "built for processors only"),
        (Torch(built="12.8"), "cuda", "update the NVIDIA driver"),
        (Torch(built="12.8"), "auto", "cpu"),
        (Torch(built="12.8", gpu=True), "auto", "cuda"),
        (
            Torch("11.8", True, "CUDA error: no kernel image is available for execution\nmore"),
            "cuda",
            "no kernel image",
        ),
        (Torch("11.8", True, "CUDA error: no kernel image is available"), "auto", "cpu"),
        (Torch("12.8", True, total=3.0), "cuda", "wrong numbers"),
    ],
)
def test_probe_diagnoses_torch(monkeypatch, torch, device, expected):
    monkeypatch.setitem(sys.modules, "torch", torch)
    answer = probe.main(device)
    if expected in ("cpu", "cuda"):
        assert (answer["type"], answer["device"]) == ("result", expected)
        assert ("does not work with this GPU" in torch_words(answer)) == (torch._error is not None)
    else:
        assert (answer["type"], answer["kind"]) == ("error", "MissingDependencyError")
        assert expected in torch_words(answer)


def test_probe_of_a_half_installed_torch(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)  # records what to restore, if only its absence
    for content, sentence in (
        ("raise OSError('libtorch_cpu.so: file too short')", "only partly installed (libtorch_cpu.so"),
        ("import not_there_either", "No module named 'not_there_either'"),
        ("", "only partly installed"),
    ):
        (tmp_path / "torch.py").write_text(content)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        answer = probe.main("auto")
        assert answer["type"] == "error"
        assert sentence in torch_words(answer)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
