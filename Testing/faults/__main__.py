"""A matrix of faults: python -m Testing.faults [--kills 50] [--commands run,maps] [--faults kill,full,...].

Kills at random moments, full disks, read-only folders, too little memory, two runs at once; prints how many of each
were tried, survived, and lost. Lost is: an input altered, an output half-written or gone, something left over that the
next run does not clear, a hang, a traceback, a wrong exit code or no sentence.
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .commands import COMMANDS, Command, Ended, Running, fingerprints, half_written, left_over, make_inputs

DISK = 48 * 1024
"""Bytes of the full disk: less than any command writes."""


class Case:
    """One command's inputs and outputs, and what was wrong with them so far."""

    def __init__(self, command: Command, folder: Path, rng: random.Random) -> None:
        self.command, self.folder, self.rng = command, folder, rng
        self.inputs, self.outputs = folder / "inputs", folder / "outputs"
        make_inputs(self.inputs)
        self.outputs.mkdir()
        self.untouched = fingerprints(self.inputs)
        ended = self.start().wait()
        if ended.code != 0:
            raise SystemExit(f"{command.name} fails without any fault: {ended.said}")
        self.seconds = ended.seconds
        self.whole = set(fingerprints(self.outputs))

    def start(self, outputs: Path | None = None, prepare: Callable[[], None] | None = None, log: str = "") -> Running:
        """The command, with another folder for its outputs if wanted."""
        line = self.command.line(self.inputs, outputs or self.outputs)
        return Running(line, self.folder / f"stderr{log}", prepare)

    def wrong(self, outputs: Path) -> list[str]:
        """What is wrong on disk whatever happened."""
        found = [] if fingerprints(self.inputs) == self.untouched else ["an input was altered"]
        return found + [f"half-written: {name}" for name in half_written(outputs)]

    def kill(self) -> list[str]:
        """Killed somewhere on its way, half of the times while something unfinished lies on the disk."""
        number = self.rng.choice((signal.SIGKILL, signal.SIGTERM))
        before = set(fingerprints(self.outputs)) - set(left_over(self.outputs))
        running = self.start()
        moment = time.monotonic() + self.rng.uniform(0, self.seconds)
        while time.monotonic() < moment and running.process.poll() is None:
            time.sleep(0.002)
        if self.rng.random() < 0.5:
            while not left_over(self.outputs) and running.process.poll() is None:
                time.sleep(0.001)
            time.sleep(self.rng.uniform(0, 0.05))
        running.process.send_signal(number)
        ended = running.wait()
        found = self.wrong(self.outputs)
        # What a killed run had set aside is put back by the next.
        kept = set(fingerprints(self.outputs)) | {name for name in before if self._is_aside(name)}
        found += [f"gone: {name}" for name in sorted(before - kept)] if not self.command.lasting else []
        if number == signal.SIGTERM:
            found += self._wrongly_terminated(ended)
        elif ended.code not in (0, -signal.SIGKILL):
            found.append(f"exit code {ended.code} after SIGKILL")
        return [f"{number.name}: {what}" for what in found]

    def _is_aside(self, name: str) -> bool:
        path = self.outputs / name
        return any(path.parent.glob(f".{path.name}.*.old")) if path.parent.is_dir() else False

    def _wrongly_terminated(self, ended: Ended) -> list[str]:
        # At its end, or before it began, or while it left with all done.
        if ended.code == 0 or (ended.code == -signal.SIGTERM and (not ended.said or "Wrote" in ended.result)):
            return []
        found = [] if ended.code == 143 else [f"exit code {ended.code}: {ended.sentence}"]
        found += ["traceback"] if ended.traceback else []
        found += [] if "ancelled" in ended.said else [f"no sentence: {ended.sentence!r}"]
        return found + [f"left over: {name}" for name in left_over(self.outputs)]

    def end_kills(self) -> list[str]:
        """A run after all the killed ones."""
        return self._next_run("after kills")

    def _next_run(self, when: str) -> list[str]:
        ended = self.start().wait()
        found = self.wrong(self.outputs) + [f"left over: {name}" for name in left_over(self.outputs)]
        found += [f"exit code {ended.code}: {ended.sentence}"] if ended.code != 0 else []
        found += [f"missing: {name}" for name in sorted(self.whole - set(fingerprints(self.outputs)))]
        return [f"{when}: {what}" for what in found if not (self.command.lasting and what.startswith("missing"))]

    def full_disk(self, size: int) -> list[str]:
        """Outputs on a file system that is too small."""
        with mounted(self.folder / "small", f"size={size}") as place:
            return self._refused(self.start(place).wait(), place, (1,), "No space left")

    def read_only(self) -> list[str]:
        """Outputs on a file system that may not be written."""
        with mounted(self.folder / "fixed", "ro") as place:
            return self._refused(self.start(place).wait(), place, (1, 2), str(place))

    def little_memory(self, share: float, peak: int) -> list[str]:
        """An address space smaller than what the command took; where it gets by with that, its result is whole."""
        limit = int(share * peak)
        place = self.folder / "scarce"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        ended = self.start(place, lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))).wait()
        if ended.code == 0:
            found = self.wrong(place) + [f"left over: {name}" for name in left_over(place)]
        else:
            found = self._refused(ended, place, (1, 2), "")
        return [f"{share:.0%} of {peak >> 20} MB: {what}" for what in found]

    def peak(self) -> int:
        """Address space (bytes) of the command."""
        running, peak = self.start(), 0
        status = Path(f"/proc/{running.process.pid}/status")
        while running.process.poll() is None:
            lines = status.read_text().splitlines() if status.exists() else []
            peak = max([peak, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmPeak"))])
            time.sleep(0.01)
        return peak

    def two_at_once(self) -> list[str]:
        """The same command twice: one works, the other says that it may not; never both."""
        place = self.folder / "both"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        first = self.start(place)
        time.sleep(self.rng.uniform(0, 0.3))
        both = [running.wait() for running in (self.start(place, log="2"), first)]
        found = self.wrong(place) + [f"left over: {name}" for name in left_over(place)]
        codes = sorted(-1 if ended.code is None else ended.code for ended in both)
        if codes != [0, 2]:
            found.append(f"exit codes {codes}: {[ended.sentence for ended in both]}")
        found += ["traceback" for ended in both if ended.traceback]
        made, wanted = (
            {re.sub(r"\d{5,}.*", "", name) for name in names} for names in (fingerprints(place), self.whole)
        )
        return found + [f"missing: {name}" for name in sorted(wanted - made)][:1]

    def _refused(self, ended: Ended, place: Path, codes: tuple[int, ...], sentence: str) -> list[str]:
        if ended.code == 0:
            return ["it ended well, so the fault did not happen"]
        found = self.wrong(place) + [f"left over: {name}" for name in left_over(place)]
        found += [] if ended.code in codes else [f"exit code {ended.code}: {ended.sentence}"]
        found += ["traceback"] if ended.traceback else []
        return found + ([] if sentence in ended.said and ended.sentence else [f"it said {ended.sentence!r}"])


@contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """A small file system in memory, at a new folder."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True, capture_output=True)
        place.rmdir()


def can_mount(folder: Path) -> bool:
    """Whether this user may mount file systems."""
    try:
        with mounted(folder / "probe", f"size={DISK}"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


class Table:
    """Tried, survived, lost: a row for each fault of each command."""

    def __init__(self) -> None:
        self.lost = 0
        print(f"{'command':10}{'fault':16}{'tried':>7}{'survived':>10}{'lost':>6}", flush=True)

    def row(self, command: str, fault: str, results: list[list[str]]) -> None:
        """Print one; what went wrong below it."""
        lost = sum(map(bool, results))
        self.lost += lost
        print(f"{command:10}{fault:16}{len(results):7}{len(results) - lost:10}{lost:6}", flush=True)
        for what in dict.fromkeys(what for result in results for what in result):
            print(f"    {what[:300]}", flush=True)


def main() -> int:
    """Entry point; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m Testing.faults", description=__doc__.splitlines()[0])
    faults = ("kill", "full", "read-only", "memory", "two")
    parser.add_argument("--kills", type=int, default=50, help="in all, over the commands")
    parser.add_argument("--commands", default=",".join(COMMANDS), help=f"of {', '.join(COMMANDS)}")
    parser.add_argument("--faults", default=",".join(faults), help=f"of {', '.join(faults)}")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    names, wanted = arguments.commands.split(","), arguments.faults.split(",")
    table = Table()
    with tempfile.TemporaryDirectory() as root:
        mounting = can_mount(Path(root))
        for number, name in enumerate(names):
            kills = (arguments.kills + number) // len(names)
            rng = random.Random(f"{arguments.seed} {name}")
            case = Case(COMMANDS[name], Path(root) / name, rng)
            if "kill" in wanted:
                table.row(name, "killed", [case.kill() for _ in range(kills)])
                table.row(name, "next run", [case.end_kills()])
            if {"full", "read-only"} & set(wanted) and not mounting:
                print(f"{name:10}full disk and read-only folder: skipped, as only root may mount file systems")
            elif mounting:
                if "full" in wanted:
                    table.row(name, "full disk", [case.full_disk(size) for size in (4096, DISK)])
                if "read-only" in wanted:
                    table.row(name, "read-only", [case.read_only()])
            if "memory" in wanted:
                peak = case.peak()
                table.row(
                    name, "out of memory", [case.little_memory(share, peak) for share in (0.15, 0.25, 0.35, 0.5, 0.7)]
                )
            if "two" in wanted:
                table.row(name, "two at once", [case.two_at_once()])
    print(f"seed {arguments.seed}; lost: {table.lost}")
    return int(table.lost > 0)


if __name__ == "__main__":
    sys.exit(main())
