"""Messages by what they say (what was expected, what came, what to do), not by their phrasing."""

import re


def says(parts):
    """Return a pattern for the parts that … separates, in this order."""
    return ".*".join(map(re.escape, parts.split(" … ")))
