import numpy as np

from deployments.stage2.mesh.solidify import enclosed_pockets


def _box_with_cavity() -> np.ndarray:
    occupied = np.zeros((40, 40, 40), bool)
    occupied[6:34, 6:34, 6:34] = True
    occupied[12:28, 12:28, 12:28] = False
    return occupied


def test_a_sealed_cavity_is_filled_completely() -> None:
    occupied = _box_with_cavity()
    pockets = enclosed_pockets(occupied)
    assert pockets.sum() == 16**3
    assert not (pockets & occupied).any()


def test_a_cavity_with_pinholes_is_filled() -> None:
    occupied = _box_with_cavity()
    occupied[6:12, 20:23, 20:23] = False
    occupied[20:22, 28:34, 14:16] = False
    pockets = enclosed_pockets(occupied)
    assert pockets[12:28, 12:28, 12:28].all()


def test_a_wide_opening_keeps_its_cavity() -> None:
    occupied = _box_with_cavity()
    occupied[6:12, 16:25, 16:25] = False
    assert not enclosed_pockets(occupied)[14:26, 14:26, 14:26].any()


def test_a_narrow_slit_between_two_limbs_stays_open() -> None:
    occupied = np.zeros((40, 40, 40), bool)
    occupied[6:18, 10:30, 6:34] = True
    occupied[20:32, 10:30, 6:34] = True  # two voxels of air between them
    assert not enclosed_pockets(occupied).any()
