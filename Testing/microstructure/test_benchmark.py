"""The benchmark of microstructure and the harness that all benchmarks share."""

import json

import pytest

from Testing.benchmarks import harness, microstructure


def test_ratios_come_from_neighbouring_runs_and_scale_the_peer(capsys, tmp_path):
    calls = []
    result = harness.compare(
        "task", lambda: calls.append("ours"), "peer", lambda: calls.append("theirs"), repeats=3, share=0.5
    )
    assert calls == ["ours", "theirs"] * 4
    assert len(result.ours) == len(result.theirs) == 3
    fixed = harness.Result("task", "peer", [1.0, 2.0, 1.0], [4.0, 4.0, 3.0], goal=3)
    assert fixed.ratios == [4, 2, 3]
    skipped = harness.Result("other", "absent", skipped=harness.missing_programs("no-such-program"))
    harness.report([fixed, skipped], tmp_path / "table.json")
    printed = capsys.readouterr().out
    assert "3x" in printed
    assert "2 to 4" in printed
    assert "3 met" in printed
    assert "skipped: not on the path: no-such-program" in printed
    assert json.loads((tmp_path / "table.json").read_text())["results"][0]["ratios"] == [4, 2, 3]


def test_commands_that_fail_say_why():
    with pytest.raises(RuntimeError, match="no such"):
        harness.run_command("sh", "-c", "echo no such thing >&2; exit 3")


def test_the_benchmark_runs_on_a_scan(shared_data, tmp_path, monkeypatch):
    monkeypatch.setattr(microstructure, "DIPY_VOXELS", 100)
    scan = shared_data / "uih_dir16" / "uih_dir16.nii.gz"
    results = microstructure.main([str(scan), "--repeats", "1", "--json", str(tmp_path / "table.json")])
    assert [result.task for result in results][:2] == ["QA, whole brain", "FA by WLS, whole brain"]
    assert all(result.skipped or min(result.ratios) > 0 for result in results)
