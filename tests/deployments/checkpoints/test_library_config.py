from __future__ import annotations

import pytest

from deployments.checkpoints.library_config import read_sizes
from deployments.errors import CheckpointError

FIXED = {"act": "silu", "blocks": ["a", "b"]}


def test_sizes_are_what_the_network_knows_with_lists_as_tuples() -> None:
    values = {"widths": [16, 32], "dropout": 0.1, "act": "silu", "blocks": ("a", "b")}
    found = read_sizes(values, ["widths", "heads"], network="a network", fixed=FIXED)
    assert found == {"widths": (16, 32)}


@pytest.mark.parametrize("change", [{"act": "relu"}, {"blocks": ["a"]}, {"blocks": None}])
def test_a_file_of_another_network_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="of a network: ") as caught:
        read_sizes(change, [], network="a network", fixed=FIXED)
    assert caught.value.code == "checkpoint_config"
