"""A model of one layer each and its exports, made once: tracing takes most of the time."""

import pytest
import tiny_models

from quals_fast.export.exporter import export

TEXT = "queen anne opened the tower by the river in 1969 , forty won"


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    config = {**tiny_models.CONFIG, "encoder_layers": 1, "decoder_layers": 1}
    folder = tmp_path_factory.mktemp("m") / "tiny"
    return tiny_models.write_checkpoint(folder, config, trained_on=TEXT)


@pytest.fixture(scope="session")
def exported(model, tmp_path_factory):
    """The folders by type, and what their checks found."""
    found = {}
    for dtype in ("float32", "float16", "int8"):
        folder = tmp_path_factory.mktemp("exported") / dtype
        found[dtype] = folder, export(model, folder, dtype=dtype)
    return found
