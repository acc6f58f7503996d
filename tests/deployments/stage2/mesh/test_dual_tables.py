import numpy as np

from deployments.stage2.mesh.dual_tables import EDGES, dual_tables


def test_every_crossing_edge_belongs_to_exactly_one_group() -> None:
    tables = dual_tables()
    for case in range(256):
        inside = [case >> k & 1 for k in range(8)]
        crossing = [e for e, (a, b) in enumerate(EDGES) if inside[a] != inside[b]]
        listed = tables.groups[case][tables.groups[case] >= 0]
        assert sorted(listed) == crossing
        assert (tables.groups[case, :, 0] >= 0).sum() == tables.group_count[case]
        assert [e for e in range(12) if tables.group_of_edge[case, e] >= 0] == crossing


def test_a_group_surrounds_corners_of_one_kind() -> None:
    """A group has three edges at least, as a loop on the surface of the cube must."""
    tables = dual_tables()
    sizes = (tables.groups >= 0).sum(axis=2)
    assert set(np.unique(sizes[sizes > 0])) == {3, 4, 5, 6, 7}


def test_diagonal_corners_are_cut_off_one_by_one() -> None:
    tables = dual_tables()
    opposite = (1 << 0) | (1 << 3)  # inside corners across one face
    assert tables.group_count[opposite] == 2
    assert tables.groups[opposite, 0, :3].tolist() == [0, 3, 8]  # the three edges at corner 0


def test_thirty_six_cases_are_ambiguous() -> None:
    tables = dual_tables()
    assert tables.ambiguous.sum() == 36
    assert (np.abs(tables.ambiguous_face[tables.ambiguous]).sum(axis=1) == 1).all()
