"""`quals-fast serve`: scores over HTTP. `service.py` has the routes; it needs no torch."""
