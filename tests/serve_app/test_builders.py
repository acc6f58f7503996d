"""serve_app/app.py: Serve has to see which model each builder takes."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve import Application
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as call_builder

from serve_app import app
from serve_app.settings import AllArgs, FrontArgs, SettingsBase, Stage1Args, Stage2Args

BUILDERS = [
    (app.front, FrontArgs),
    (app.stage1, Stage1Args),
    (app.stage2, Stage2Args),
    (app.build, AllArgs),
]


@pytest.mark.parametrize(("builder", "model"), BUILDERS)
def test_the_args_of_a_file_become_the_builders_model(
    builder: Any, model: type[SettingsBase]
) -> None:
    (parameter,) = inspect.signature(builder).parameters.values()
    assert parameter.annotation is model, "a text here would make Serve pass a plain dict"
    assert isinstance(call_builder(builder, yaml.safe_load("{restart_token: '1'}")), Application)
    with pytest.raises(ValidationError, match="no_such_setting"):
        call_builder(builder, {"no_such_setting": 1})
