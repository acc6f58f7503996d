import numpy as np
from scipy import ndimage

from deployments.stage2.mesh.pockets import enclosed_pockets


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


def test_random_clutter_is_filled_as_whole_grid_operations_fill_it() -> None:
    rng = np.random.default_rng(0)
    occupied = np.zeros((60, 50, 70), bool)
    blocks = rng.random((9, 7, 11)) < 0.35
    occupied[5:50, 5:40, 5:60] = blocks.repeat(5, 0).repeat(5, 1).repeat(5, 2)
    occupied[6:45, 6:35, 6:50] |= rng.random((39, 29, 44)) < 0.1

    free, cross = ~occupied, ndimage.generate_binary_structure(3, 1)
    blocked = ndimage.binary_dilation(occupied, cross, iterations=2)
    spaces, _ = ndimage.label(~blocked)
    outside = ndimage.binary_dilation(spaces == spaces[0, 0, 0], cross, iterations=2, mask=free)
    pockets, count = ndimage.label(free & ~outside)
    contact = np.bincount(pockets[ndimage.binary_dilation(outside)], minlength=count + 1)
    fill = contact <= 0.1 * np.bincount(pockets.ravel())
    fill[0] = False
    assert 0 < fill.sum() < count  # both kinds occur
    assert np.array_equal(enclosed_pockets(occupied), fill[pockets])
