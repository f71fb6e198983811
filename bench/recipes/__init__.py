"""How models are made: training, growing, averaging, bundling."""
