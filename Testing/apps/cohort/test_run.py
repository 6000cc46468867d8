"""A data set on real Dask workers: the command, its exit codes and its table; a worker that is killed."""

import os
import signal
from pathlib import Path

import pytest
import torch

from DWISuperResLib.apps.cli import main
from DWISuperResLib.apps.cohort.command import _judge
from DWISuperResLib.apps.cohort.layout import find_scans
from DWISuperResLib.apps.cohort.participant import TABLE, read_table, write_table
from DWISuperResLib.apps.cohort.scan import Job, Record, process
from DWISuperResLib.apps.cohort.workers import process_all
from DWISuperResLib.errors import InputError, ProcessingError
from DWISuperResLib.inference.options import InferenceOptions

CPU = ("--device", "cpu", "--precision", "fp32", "--progress", "none")


def test_one_failing_scan_stops_no_other_and_a_second_run_skips_what_is_done(make_dataset, tmp_path, capsys, scheduler):
    root, output = make_dataset(*(f"sub-{n}/dwi/sub-{n}_dwi" for n in (1, 2))), tmp_path / "out"
    broken = root / "sub-1/dwi/sub-1_dwi.bvec"
    whole = broken.read_text()
    broken.write_text("1 2 3\n")
    command = ["bids", str(root), str(output), "participant", *CPU, "--scheduler", scheduler]
    assert main(command) == 1
    assert "1 of 2 scans failed" in capsys.readouterr().err
    rows = {row["participant_id"]: row for row in read_table(output / TABLE)}
    assert (rows["sub-1"]["status"], rows["sub-2"]["status"]) == ("failed", "done")
    assert "sub-1_dwi.bvec" in rows["sub-1"]["error"]
    broken.write_text(whole)
    assert main(command) == 0
    assert {row["participant_id"]: row["status"] for row in read_table(output / TABLE)} == {
        "sub-1": "done",
        "sub-2": "skipped",
    }
    assert main(["bids", str(root), str(output), "group", "--progress", "none"]) == 0
    assert (output / "superres_group.html").is_file()


def test_bad_input_exits_2_before_any_worker_starts(make_dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("DWISuperResLib.apps.cohort.participant.local_workers", None)
    root, output = make_dataset("sub-1/dwi/sub-1_dwi"), tmp_path / "out"
    for arguments, sentence in (
        ([str(tmp_path), str(output), "participant"], "no BIDS data set"),
        ([str(root), str(output), "participant", "--participant-label", "9"], "participant 9"),
        ([str(root), str(output), "participant", "--session-label", "9"], "session 9"),
        ([str(root), str(output), "participant", "--checkpoint", "absent"], "absent"),
        ([str(root), str(output), "participant", "--workers", "0"], "whole number"),
        ([str(root), str(output), "participant", "--workers", "1", "--scheduler", "tcp://x:1"], "exclude"),
        ([str(root), str(root), "participant"], "is the input"),
        ([str(root), str(output), "subject"], "expected participant or group"),
        ([str(root), str(output), "group"], "run the level participant first"),
        ([str(root), str(output), "group", "--scale", "3"], "--scale is for the level participant"),
    ):
        assert main(["bids", *arguments, "--progress", "none"]) == 2, arguments
        assert sentence in capsys.readouterr().err
    assert not list(tmp_path.rglob("*superres*"))


def test_what_the_exit_code_says():
    def record(status, kind=""):
        return Record("1", "", "sub-1/dwi/sub-1", status, error=kind and "It is so.", kind=kind)

    _judge([record("done"), record("skipped")])
    with pytest.raises(ProcessingError, match="1 of 2 scans failed: It is so"):
        _judge([record("done"), record("failed", "InputError")])
    with pytest.raises(ProcessingError, match="1 of 1"):
        _judge([record("failed", "KilledWorker")])
    with pytest.raises(InputError, match="None of the 2"):
        _judge([record("failed", "InputError")] * 2)


def test_a_killed_worker_loses_and_doubles_nothing(make_dataset, tmp_path, scheduler):
    """Its scan goes to another; every file equals that of a run without workers, voxel for voxel."""
    from distributed import Client

    from Testing.benchmarks.cohort import results

    root = make_dataset(*(f"sub-{n}/dwi/sub-{n}_dwi" for n in range(3)))
    scans = find_scans(root)
    options = InferenceOptions(device="cpu", precision="fp32")
    serial, killed = (Job(str(tmp_path / name), inference=options) for name in ("serial", "killed"))
    records: list[Record] = []
    with Client(scheduler, set_as_default=False) as client:
        client.wait_for_workers(2)
        victim = next(iter(client.run(os.getpid).values()))

    def each(record):
        records.append(record)
        if len(records) == 1:
            os.kill(victim, signal.SIGKILL)

    process_all(scans, killed, scheduler, each)
    assert sorted(record.stem for record in records) == sorted(scan.stem for scan in scans)
    assert {record.status for record in records} <= {"done", "skipped"}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers have: sums of another number of threads round differently
    try:
        for scan in scans:
            process(scan, serial)
    finally:
        torch.set_num_threads(threads)
    assert results(Path(killed.output)) == results(Path(serial.output))
    assert not list(Path(killed.output).rglob(".*"))


def test_a_scheduler_that_is_not_there_is_bad_input(make_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("DWISuperResLib.apps.cohort.workers.CONNECT_SECONDS", 1)
    root = make_dataset("sub-1/dwi/sub-1_dwi")
    with pytest.raises(InputError, match="No Dask scheduler answers"):
        process_all(find_scans(root), Job(str(tmp_path)), "tcp://127.0.0.1:9", print)


def test_tables_of_several_runs_are_one(tmp_path):
    path = tmp_path / TABLE
    first = Record("1", "a", "sub-1/a", "failed", error="A sentence\twith a tab.")
    write_table(path, [first, Record("2", "", "sub-2/b", "done", 1.25, ("It warns.",))])
    write_table(path, [Record("1", "a", "sub-1/a", "done")])
    rows = read_table(path)
    assert [(row["participant_id"], row["session_id"], row["status"]) for row in rows] == [
        ("sub-1", "ses-a", "done"),
        ("sub-2", "n/a", "done"),
    ]
    assert (rows[1]["warnings"], rows[1]["error"]) == ("It warns.", "n/a")
    path.write_text("other\n1\n")
    with pytest.raises(InputError, match="other columns"):
        read_table(path)
