"""One thread means one: torch's, and those of the libraries under NumPy and SciPy; and all of them come back."""

import numpy as np
import pytest
import scipy.linalg
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from bci_align.threads import one_thread


def pools() -> dict[str, int]:
    return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}


def test_every_pool_has_one_thread_inside_the_block_and_its_own_again_behind_it() -> None:
    scipy.linalg.svdvals(np.eye(3))  # its library is loaded now, if it was not
    before = torch.get_num_threads()
    with threadpool_limits(2):  # whatever OMP_NUM_THREADS says
        torch.set_num_threads(2)
        try:
            outside = pools()
            assert len(outside) >= 2
            with one_thread():
                assert torch.get_num_threads() == 1
                assert set(pools().values()) == {1}
            assert torch.get_num_threads() == 2
            assert pools() == outside
            with pytest.raises(ZeroDivisionError), one_thread():
                1 / 0  # noqa: B018
            assert torch.get_num_threads() == 2
            assert pools() == outside
        finally:
            torch.set_num_threads(before)


def test_it_decorates_functions() -> None:
    @one_thread()
    def inside() -> tuple[int, set[int]]:
        return torch.get_num_threads(), set(pools().values())

    assert inside() == (1, {1})
    assert inside() == (1, {1})
