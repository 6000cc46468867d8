"""Batches side by side: in order, a few ahead, and nothing of torch is left as the workers need it."""

import threading

import numpy as np
import pytest
import torch

import DWISuperResLib as dsr
from DWISuperResLib.inference.threads import side_by_side


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_although_later_jobs_end_first(four_threads):
    last = threading.Event()

    def work(n):
        if n == 0:
            assert last.wait(10)
        if n == 3:
            last.set()
        return n

    assert list(side_by_side(work, range(6), 2)) == list(range(6))


def test_no_more_jobs_are_made_than_can_be_worked_on_soon(four_threads):
    made = []
    found = side_by_side(lambda n: n, (made.append(n) or n for n in range(100)), 2)
    next(found)
    assert len(made) <= 6
    found.close()
    assert len(made) <= 6


def test_each_worker_has_its_share_of_the_threads_and_no_gradients(four_threads):
    seen = set(side_by_side(lambda n: (torch.get_num_threads(), torch.is_grad_enabled()), range(20), 2))
    assert seen == {(2, False)}
    assert torch.get_num_threads() == 4
    assert torch.is_grad_enabled()
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [4]


def test_an_error_of_a_worker_is_the_callers(four_threads):
    def work(n):
        if n == 3:
            raise ValueError("the fourth")
        return n

    found = side_by_side(work, range(10), 2)
    with pytest.raises(ValueError, match="the fourth"):
        list(found)
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_scan_is_the_same_by_one_thread_and_by_four(small_dwi, four_threads, precision):
    options = {"device": "cpu", "precision": precision, "batch_size": 4}
    several = dsr.super_resolve(small_dwi, "default", 2, **options)
    torch.set_num_threads(1)
    one = dsr.super_resolve(small_dwi, "default", 2, **options)
    np.testing.assert_allclose(several.signal, one.signal, rtol=1e-6, atol=1e-4 * one.signal.max())
