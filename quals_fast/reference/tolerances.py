"""How far a correct program may be from the reference, and from what was recorded."""

GOLDEN = 1e-4  # numbers that the original programs printed
TOKEN_LOGPROB = 1e-5  # float32 log-probability of one token, nats
QUALS = 1e-4  # float32 score of a summary, nats
NEAR_TIE = 2e-5  # two correct float32 programs may take a smaller margin either way
MAX_NEAR_TIES = 0.03  # share of summaries that may differ because of one
