"""Two passages with questions, as the tests of training read them."""

BRIDGE = "The bridge was opened by Queen Anne. It cost forty four lives! A tower closed in 1969."
RIVER = "The river of the town was closed in 1962. King won a game of score. Queen lost."


def line(context, *answers, title="Town", **more):
    """A line of the JSON lines, with a question for each answer."""
    qas = [{"q": f"what {i} ?", "a": a, "s": context.find(a)} for i, a in enumerate(answers)]
    return {"source": "town-train", "title": title, "context": context, "qas": qas, **more}
