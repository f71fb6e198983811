"""Settings that suit the tiny scorer of the training tests."""

from quals_fast import DecodingConfig

SETTINGS = {
    "device": "cpu",
    "dtype": "float32",
    "decoding": DecodingConfig(num_beams=12, num_beam_groups=12, min_length=2, max_length=12),
}
