"""Fuzz the readers: python -m Testing.fuzz [--seconds 600] [--targets nrrd,card] [--output FOLDER].

Every target runs in a process of its own with limited memory: by atheris (libFuzzer, guided by the coverage of this
library's and pynrrd's code) where it is installed, else by mutations guided by new outcomes. Prints a table; exits 1 if
anything crashed, with the inputs under the output folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .targets import TARGETS, Outcome, import_readers, outcome_of, seeds

MEMORY = 1 << 30
"""Bytes a process may take beyond what it has after its imports."""
TOKENS = (
    b"\0", b"\n", b"\n\n", b" ", b",", b":=", b"nan", b"NaN", b"inf", b"-1", b"0", b"1e999", b"65535", b"4294967296",
    b"9223372036854775807", b"-9223372036854775808", b"\xff\xff\xff\xff", b"\x7f\xf0", b"\xef\xbb\xbf", b"[]", b"{}",
    b"null", b"true", b"[[[[[[[[", b"&a *a", b"!!python/object:os.system", b"../", b"%d", b"none", b"(nan,nan,nan)",
    b"gzip", b"hex", b"sizes: ", b"data file: ", b"LIST",
)  # fmt: skip
LONGEST_INPUT = 1 << 16
SHARED_MEMORY = Path("/dev/shm")
"""Where files cost least, if there is such a place."""


class Session:
    """Counts what happens to the inputs of one target, and keeps those that crash."""

    def __init__(self, name: str, seconds: float, output: Path, folder: Path) -> None:
        self.target, self.folder, self.output = TARGETS[name], folder, output
        self.deadline = time.monotonic() + seconds
        self.executions = 0
        self.outcomes: set[Outcome] = set()
        self.crashes: dict[str, str] = {}
        self._saved = 0.0

    def __call__(self, data: bytes) -> bool:
        """Run one input; True if its outcome is new. Ends the process when the time is over."""
        (self.folder / "current").write_bytes(data)  # stays if the process dies
        found = outcome_of(self.target, data, self.folder)
        self.executions += 1
        new = found not in self.outcomes
        self.outcomes.add(found)
        if new and found.kind == "crash":
            path = self.output / f"crash-{len(self.crashes)}"
            path.write_bytes(data)
            self.crashes[found.detail] = str(path)
        now = time.monotonic()
        if now > self._saved + 1 or now > self.deadline:
            self._saved = now
            self.save()
        if now > self.deadline:
            os._exit(0)  # libFuzzer never returns
        return new

    def save(self) -> None:
        """Write the counts where the parent finds them."""
        counts = {
            "executions": self.executions,
            "outcomes": sorted(f"{o.kind}: {o.detail}" for o in self.outcomes),
            "crashes": self.crashes,
        }
        temporary = self.output / "counts.tmp"
        temporary.write_text(json.dumps(counts), encoding="utf-8")
        temporary.replace(self.output / "counts.json")


def mutate(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """A few random changes: bits, bytes, tokens, pieces taken out, doubled, or put in from another input."""
    changed = bytearray(data)
    for _ in range(1 << rng.randrange(4)):
        at = rng.randrange(len(changed) + 1)
        length = min(1 << rng.randrange(8), len(changed) - at)
        choice = rng.randrange(6)
        if choice == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif choice == 1 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif choice == 2:
            changed[at : at + rng.choice((0, length))] = rng.choice(TOKENS)
        elif choice == 3:
            del changed[at : at + length]
        elif choice == 4:
            changed[at:at] = changed[at : at + length] * rng.randrange(1, 4)
        else:
            other = rng.choice(others)
            begin = rng.randrange(len(other) + 1)
            changed[at : at + length] = other[begin : begin + length]
    return bytes(changed[:LONGEST_INPUT])


def fuzz_by_mutation(run: Callable[[bytes], bool], corpus: list[bytes], seed: int) -> None:
    """Mutate the corpus for ever; inputs with a new outcome join it."""
    rng = random.Random(seed)
    for data in [b"", *corpus]:
        run(data)
    while True:
        data = mutate(rng.choice(corpus), rng, corpus)
        if run(data):
            corpus.append(data)


def work(name: str, seconds: float, output: Path, folder: Path, seed: int) -> None:
    """Fuzz one target in this process until it is stopped or the time is over."""
    corpus = seeds(name)
    guided = importlib.util.find_spec("atheris") is not None
    if guided:
        import atheris

        with atheris.instrument_imports(include=["DWISuperResLib", "nrrd"]):
            import_readers(name, folder)
    else:
        import_readers(name, folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEMORY, MEMORY))
    session = Session(name, seconds, output, folder)
    if not guided:
        fuzz_by_mutation(session, corpus, seed)
        return
    found, dictionary = output / "corpus", output / "dictionary"
    found.mkdir()
    for n, data in enumerate(corpus):
        (found / f"seed-{n}").write_bytes(data)
    escaped = ("".join(f"\\x{byte:02x}" for byte in token) for token in TOKENS)
    dictionary.write_text("".join(f'"{token}"\n' for token in escaped), encoding="ascii")
    options = [f"-dict={dictionary}", f"-max_len={LONGEST_INPUT}", f"-seed={seed + 1}", "-rss_limit_mb=0"]
    # Smaller inputs of the same coverage must not drive out whole files: most fields change no branch of Python's.
    options += [
        "-reduce_inputs=0",
        "-keep_seed=1",
        "-timeout=60",
        "-verbosity=0",
        f"-artifact_prefix={output}/libfuzzer-",
    ]

    def run(data: bytes) -> None:
        session(data)

    def mutated(data: bytes, longest: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return atheris.Mutate(data, longest)
        return mutate(rng.choice([data, *corpus]), rng, corpus)[:longest]

    atheris.Setup([sys.argv[0], str(found), *options], run, custom_mutator=mutated)
    atheris.Fuzz()


def fuzz(name: str, seconds: float, output: Path) -> dict:
    """Fuzz a target in child processes for so long; a child that dies counts as a crash, and another goes on."""
    executions, outcomes, crashes = 0, set(), {}
    end = time.monotonic() + seconds
    for attempt in range(100):
        left = end - time.monotonic()
        if left < 1:
            break
        place = output / name / str(attempt)
        place.mkdir(parents=True)
        with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
            command = [sys.executable, "-m", "Testing.fuzz", "--child", name, "--seconds", str(left)]
            command += ["--output", str(place), "--folder", folder, "--seed", str(attempt)]
            with (place / "log").open("wb") as log:
                try:
                    code = subprocess.run(command, stdout=log, stderr=log, timeout=left + 180).returncode
                    died = f"process ended with {code}" if code else None
                except subprocess.TimeoutExpired:
                    died = "process hung"
            if died and (current := Path(folder, "current")).is_file():
                shutil.copy(current, place / "current")
        if (place / "counts.json").is_file():
            counts = json.loads((place / "counts.json").read_text(encoding="utf-8"))
            executions += counts["executions"]
            outcomes |= set(counts["outcomes"])
            crashes |= counts["crashes"]
        if died:
            crashes[died] = str(place)
    return {"executions": executions, "outcomes": sorted(outcomes), "crashes": crashes}


def main() -> int:
    """Entry point; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m Testing.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="for all targets together")
    parser.add_argument("--targets", default=",".join(TARGETS), help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--output", type=Path, default=Path("fuzz"), help="a new folder, for inputs that crash")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        work(arguments.child, arguments.seconds, arguments.output, arguments.folder, arguments.seed)
        return 0
    names = arguments.targets.split(",")
    if unknown := set(names) - set(TARGETS):
        parser.error(f"unknown targets {sorted(unknown)}; choose from {', '.join(TARGETS)}")
    output = arguments.output / time.strftime("%Y%m%d-%H%M%S")
    engine = "atheris" if importlib.util.find_spec("atheris") else "mutations"
    print(f"engine: {engine}; {arguments.seconds:g} s over {len(names)} targets; inputs that crash: {output}")
    print(f"{'target':14}{'executions':>12}{'outcomes':>10}{'crashes':>9}", flush=True)
    crashed = False
    for name in names:
        result = fuzz(name, arguments.seconds / len(names), output.resolve())
        print(f"{name:14}{result['executions']:12}{len(result['outcomes']):10}{len(result['crashes']):9}", flush=True)
        for what, where in result["crashes"].items():
            print(f"    {what}: {where}", flush=True)
        crashed |= bool(result["crashes"])
    return int(crashed)


if __name__ == "__main__":
    sys.exit(main())
