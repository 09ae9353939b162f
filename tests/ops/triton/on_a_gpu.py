"""The kernels on a CUDA device; run by test_triton.py where there is one."""

import pytest
import torch
from test_selective_scan import SEQUENCES, assert_close, inputs, run

from dnadiff.ops import selective_scan_fn
from dnadiff.ops.check import check_kernels


def test_every_kernel_passes_its_self_check_and_auto_takes_triton():
    checks = list(check_kernels("cuda"))
    assert not [check for check in checks if check.wrong]
    assert all(check.automatic == (check.backend == "triton") for check in checks)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 8e-3), (torch.float16, 2e-3)],
    ids=str,
)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [{}, {"channels": 64}, {"groups": 4, "batch": 1}], ids=str)
def test_scan_of_many_tiles(dtype, tolerance, reverse, shape):
    given = inputs(**{"channels": 236, "length": 1500, "states": 16} | shape)
    expected = run(given, torch.float64, "reference", delta_softplus=True, reverse=reverse)
    given = {
        k: t.to("cuda", dtype if k in SEQUENCES else torch.float32).requires_grad_()
        for k, t in given.items()
    }
    results = scan(given, reverse)
    assert all(torch.equal(x, y) for x, y in zip(results, scan(given, reverse), strict=True))
    assert_close(
        {k: x.cpu() for k, x in zip(("out", "last", *given), results, strict=True)},
        expected,
        tolerance,
    )


def scan(given, reverse):
    """Returns what `run` does, on the device of the inputs."""
    out, last = selective_scan_fn(
        **given, delta_softplus=True, return_last_state=True, reverse=reverse
    )
    weight = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view(out.shape).to(out.device)
    total = (out.double() * weight).sum() + last.double().square().sum()
    return [out.detach(), last.detach(), *torch.autograd.grad(total, given.values())]
