"""The test of "55 times as fast": arms, measurement, and the page that tells the outcome."""
