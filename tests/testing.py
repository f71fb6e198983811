"""Tolerances, in one place; they depend on nothing but what is compared."""

GOLDEN = 1e-4  # numbers that the original programs printed
TOKEN_LOGPROB = 1e-5  # fp32 log-probability of one token, nats
QUALS = 1e-4  # fp32 score of a summary, nats
NEAR_TIE = 2e-5  # a smaller margin may be decided either way by two correct fp32 programs
