"""A factual-consistency classifier by FactCC's recipe."""
