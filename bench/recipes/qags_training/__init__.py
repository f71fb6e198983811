"""Train, pack and measure the two small networks of the bundled reference QAGS."""
