"""Speaks the child's protocol without computing anything; the environment variable FAKE_CHILD says how it behaves.

Runs as `python fake_child.py -m DWISuperResLib.gui.worker` and reads commands as the worker does, or as
`python fake_child.py -m DWISuperResLib COMMAND ...` for one; with the standard library alone, so it starts at once.
"""

import array
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def say(**message):
    print(json.dumps(message), flush=True)


def succeed(command, arguments):
    if command in ("run", "degrade"):
        shutil.copy(arguments[0], arguments[1])
        if "--uncertainty" in arguments:
            shutil.copy(arguments[0], arguments[arguments.index("--uncertainty") + 1])
        found = ["The result shows a grid pattern of period 2."] if command == "run" else []
        check = {
            "name": "grid artefacts (dB)",
            "value": 13.0,
            "threshold": 10.0,
            "fired": True,
            "advice": "Do not use.",
        }
        say(type="result", output=arguments[1], warnings=found, checks=[check] if command == "run" else [])
    elif command == "colours":
        sizes = spatial_sizes(arguments[0])
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({', '.join(map(str, sizes))}, 3), }}".encode()
        header += b" " * (-(len(header) + 11) % 64) + b"\n"
        voxels = bytes([200, 100, 50]) * (sizes[0] * sizes[1] * sizes[2])
        Path(arguments[1]).write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + voxels)
        say(type="result", output=arguments[1])
    elif command == "compare":
        folder = Path(arguments[2])
        folder.mkdir()
        sizes = spatial_sizes(arguments[0])
        for index, name in enumerate(arguments[arguments.index("--maps") + 1].split(",")):
            for part, value in (("reference", 0.4), ("test", 0.5 + 0.1 * index), ("difference", 0.1)):
                write_map(folder / f"{name}_{part}.nrrd", sizes, value)
        (folder / "statistics.tsv").write_text("map\tregion\tn\tmae\nfa\tbrain\t48\t0.1\n")
        (folder / "report.html").write_text("<html></html>")
        say(type="result", outdir=str(folder))


def spatial_sizes(path):
    header = Path(path).read_bytes().split(b"\n\n")[0].decode()
    sizes = [int(n) for n in re.search(r"sizes: (.*)", header)[1].split()]
    return sizes[:3] if "none" in header.split("space directions:")[1].splitlines()[0].split()[-1] else sizes[1:]


def write_map(path, sizes, value):
    count = sizes[0] * sizes[1] * sizes[2]
    header = (
        "NRRD0004\ntype: float\ndimension: 3\nspace: right-anterior-superior\n"
        f"sizes: {' '.join(map(str, sizes))}\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
        "kinds: domain domain domain\nendian: little\nencoding: raw\nspace origin: (0,0,0)\n\n"
    )
    path.write_bytes(header.encode() + array.array("f", [value + 0.001 * (i % 9) for i in range(count)]).tobytes())


def main():
    module, *arguments = sys.argv[sys.argv.index("-m") + 1 :]
    if module != "DWISuperResLib.gui.worker":
        return run(*arguments)
    for line in sys.stdin:
        code = run(*json.loads(line)["arguments"])
        say(type="end", code=code)
    return 0


def run(command, *arguments):
    behaviour = os.environ.get("FAKE_CHILD", "succeed")
    if command == "probe":
        say(type="result", device="cpu", found="processor", version="0")
        return 0
    say(type="status", message="Loading the network")
    if behaviour == "slow":
        grandchild = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        Path(os.environ["FAKE_CHILD_PIDS"]).write_text(f"{os.getpid()} {grandchild.pid}")
        for step in range(6000):
            say(type="progress", fraction=min(0.9, step / 100), eta=75, message="Slice 3 of 9")
            time.sleep(0.05)
    elif behaviour == "garbage":
        sys.stdout.buffer.write(b"warning: \xff\xfe not JSON\n{broken\n[1, 2]\n")
        sys.stdout.flush()
        succeed(command, arguments)
    elif behaviour == "error":
        say(type="error", message="The scan has no b0 volume; give one.", kind="InputError")
        return 2
    elif behaviour == "memory":
        print("MemoryError", file=sys.stderr)
        return 1
    elif behaviour == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif behaviour == "silent":
        return 0
    elif behaviour == "full":
        print("OSError: [Errno 28] No space left on device", file=sys.stderr)
        return 1
    elif behaviour == "crash":
        print("Traceback: something odd", file=sys.stderr)
        return 3
    else:
        say(type="progress", fraction=0.5, eta=1.5, message="Slice 5 of 9")
        succeed(command, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
