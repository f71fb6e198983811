"""What a model's scores are worth, and what the settings are worth."""
