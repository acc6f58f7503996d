from __future__ import annotations

import numpy as np

from deployments.stage2.gaussians import Gaussians


def gaussians(rotation: list[float], scale: list[float]) -> Gaussians:
    return Gaussians(
        xyz=np.zeros((1, 3), np.float32),
        scale=np.array([scale], np.float32),
        rotation=np.array([rotation], np.float32),
        opacity=np.ones(1, np.float32),
        color=np.ones((1, 3), np.float32),
    )


def test_covariance_of_an_unrotated_gaussian_is_its_squared_scales() -> None:
    subject = gaussians([1, 0, 0, 0], [0.1, 0.2, 0.3])
    assert len(subject) == 1
    np.testing.assert_allclose(subject.covariance()[0], np.diag([0.01, 0.04, 0.09]), atol=1e-7)


def test_a_quarter_turn_about_z_exchanges_x_and_y() -> None:
    half = np.sqrt(0.5)
    subject = gaussians([half, 0, 0, half], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(subject.covariance()[0], np.diag([0.04, 0.01, 0.09]), atol=1e-7)


def test_a_turn_about_a_diagonal_keeps_the_eigenvalues() -> None:
    axis = np.array([1, 2, 3]) / np.sqrt(14)
    subject = gaussians([np.cos(0.4), *(np.sin(0.4) * axis)], [0.1, 0.2, 0.3])
    values = np.linalg.eigvalsh(subject.covariance()[0])
    np.testing.assert_allclose(values, [0.01, 0.04, 0.09], atol=1e-6)
