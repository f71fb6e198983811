"""Calibrations that were fitted to nothing, for tests of what is done with them."""

import json

from quals_fast.calibration import FORMAT, settings_of

CURVE = {"method": "logistic", "intercept": 1.0, "coefficients": {"score": 2.0, "n_pairs": 0.25}}


def content_for(signature, **changes):
    """Return what the file of a scorer's calibration holds."""
    return {
        "calibration_format": FORMAT,
        **CURVE,
        "settings": settings_of(signature),
        "documents": [],
    } | changes


def write_calibration(path, signature, **changes):
    path.write_text(json.dumps(content_for(signature, **changes)))
    return path
