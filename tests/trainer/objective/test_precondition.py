"""The linear part of the flow: against the general formula for Gaussian data, and at the ends of
the noise scale.
"""

import numpy as np
import pytest
import torch

from moescope.trainer.objective.precondition import LinearPart, cosine_basis


def test_the_cosine_basis_is_orthonormal_and_starts_with_the_mean() -> None:
    basis = cosine_basis(8)
    torch.testing.assert_close(basis @ basis.T, torch.eye(8), atol=1e-6, rtol=0)
    # row 0 of n equal entries of length one: 1 / sqrt(8)
    assert basis[0].tolist() == pytest.approx([8**-0.5] * 8)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 0.95])
def test_it_is_the_conditional_mean_of_data_with_its_spectrum(sigma: float) -> None:
    part = LinearPart((6,), rms=0.8, edge=0.1)
    basis = cosine_basis(6).double().numpy()
    covariance = basis.T @ np.diag(part.std.double().numpy() ** 2) @ basis
    # for jointly Gaussian v = eps - x and z = (1 - sigma) x + sigma eps: E[v|z] = cov(v, z) cov(z,
    # z)^-1 z
    with_z = sigma * np.eye(6) - (1 - sigma) * covariance
    of_z = sigma**2 * np.eye(6) + (1 - sigma) ** 2 * covariance
    z = np.random.default_rng(0).standard_normal((3, 6))
    want = z @ np.linalg.solve(of_z, with_z).T
    got, rest = part(torch.from_numpy(z).float(), torch.full((3,), sigma))
    np.testing.assert_allclose(got.numpy(), want, atol=1e-5)
    # the rest: trace of cov(v, v) - cov(v, z) cov(z, z)^-1 cov(z, v), per value
    left = np.eye(6) + covariance - with_z @ np.linalg.solve(of_z, with_z)
    np.testing.assert_allclose(rest.numpy(), np.sqrt(np.trace(left) / 6), rtol=1e-4)


def test_at_the_ends_it_says_what_is_certain() -> None:
    part = LinearPart((2, 4, 4), rms=0.8, edge=0.04)
    z = torch.randn(2, 3, 2, 4, 4)
    pure_noise, _ = part(z, torch.ones(2))
    # all of z is noise and nothing is known of the data: v = eps - 0
    torch.testing.assert_close(pure_noise, z, atol=1e-5, rtol=0)
    pure_data, rest = part(z, torch.zeros(2))
    # all of z is data and nothing is known of the noise: v = 0 - x, and the rest is the noise's 1
    torch.testing.assert_close(pure_data, -z, atol=1e-5, rtol=0)
    assert rest.flatten().tolist() == pytest.approx([1.0, 1.0])


def test_the_spectrum_falls_from_the_mean_to_the_finest_grain() -> None:
    std = LinearPart((8, 8), rms=0.8, edge=0.04).std
    assert float(std[0, 0]) == pytest.approx(0.8 * 8)  # the mean of 64 alike values: rms * sqrt(64)
    assert float(std[0, 4]) == pytest.approx(0.04 / 0.25)  # two axes: edge / f, f = 4 / 16
    assert bool((std[0].diff() <= 0).all())
