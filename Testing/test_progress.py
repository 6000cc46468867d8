"""Progress: the time that remains, how often lines come, and what goes to which stream."""

import json

import pytest

from DWISuperResLib import progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines(capfd):
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_eta_is_that_of_a_steady_rate_from_the_first_report(clock, capfd):
    with progress.reporter("json") as report:
        report(0.2, "begin")
        clock[0] += 10
        report(0.4, "going")
        clock[0] += 10
        report(0.6, "going")
    assert [line["eta"] for line in lines(capfd)] == [None, pytest.approx(30), pytest.approx(20)]


def test_lines_in_quick_succession_are_dropped_but_never_the_last(clock, capfd):
    with progress.reporter("json") as report:
        for step in range(1000):
            clock[0] += 0.001
            report(step / 999, "working")
    fractions = [line["fraction"] for line in lines(capfd)]
    assert len(fractions) <= 8
    assert fractions[-1] == 1


def test_a_part_maps_its_own_fractions_into_the_whole(clock, capfd):
    with progress.reporter("json") as report:
        part = report.part(0.5, 0.9)
        for fraction in (0.0, 0.5, 1.0):
            part(fraction, "step")
            clock[0] += 1
    assert [line["fraction"] for line in lines(capfd)] == [0.5, 0.7, 0.9]


@pytest.mark.parametrize("mode", ["auto", "rich", "none"])
def test_only_results_go_to_standard_output(mode, capfd):
    with progress.reporter(mode) as report:
        report.status("Reading [brackets] and größe")
        report(0.5, "half")
        report(1.0, "done")
        report.result("Wrote out.nii.gz", output="out.nii.gz")
        report.error("It broke.", "ProcessingError")
    captured = capfd.readouterr()
    assert captured.out.strip() == "Wrote out.nii.gz"
    assert "dwi-superres: It broke." in captured.err
    assert ("Reading [brackets] and größe" in captured.err) == (mode != "none")


def test_json_mode_gives_standard_output_back(capfd):
    with progress.reporter("json"):
        print("not a JSON line")
    print("after")
    captured = capfd.readouterr()
    assert captured.out == "after\n"
    assert captured.err == "not a JSON line\n"
