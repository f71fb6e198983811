"""What bench/MODEL.md says of a model and of its settings, and the plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.shared.plots import figure
from bench.shared.tables import interval, percent, table, where, with_spread
from bench.shared.weights import listed
from bench.studies.model.quality import is_split
from bench.studies.model.settings import DEFAULT, selected

# Pearson correlation with the same human judgements. Wang et al. 2020 for the first three; the
# others as their authors report them. AlignScore's are Spearman's.
PUBLISHED = {
    "QAGS (large models)": (0.545, 0.175),
    "ROUGE-1 (against the reference summary)": (0.287, 0.132),
    "BERTScore": (0.276, 0.025),
    "QuestEval": (0.51, 0.23),
    "SummaC-ZS": (0.57, 0.44),
    "QAFactEval": (0.68, 0.44),
    "BARTScore": (0.73, 0.17),
    "AlignScore-large (Spearman)": (0.74, 0.57),
}
AIMS = {"qags_cnndm": 0.55, "qags_xsum": 0.20}


def page(
    model: dict[str, Any],
    settings: dict[str, Any] | None,
    choices: dict[str, Any] | None,
) -> str:
    """Return the whole page.

    Args:
        model: what `python -m bench.model` measured.
        settings: what it measured with ``--settings``; None if it has not.
        choices: what `python -m bench.choices` measured; None if it has not.
    """
    parts = [
        "# What the model and its settings are worth",
        "Written by `python -m bench.model` from its measurements; do not edit. Odd rows of QAGS "
        "are for choosing (between models, settings, definitions), even rows for reporting; a "
        "row's number is its line in the file. FRANK's rows are for reporting only. Intervals are "
        "95 % bootstrap intervals.",
        f"`{model['signature']}`",
        *([f"**A trial run: {model['rows']} rows of each set only.**"] if model["rows"] else []),
        "## What the model is worth",
        _perplexity(model["perplexity"]),
        _generation(model["generation"]),
        _examples(model["examples"]),
        _with_people(model["with_people"]),
        "Published, with large models and on all rows of QAGS (Pearson, CNN/DM and XSum):\n\n"
        + table(
            [
                {"metric": name, "QAGS-CNN/DM": f"{cnndm:g}", "QAGS-XSum": f"{xsum:g}"}
                for name, (cnndm, xsum) in PUBLISHED.items()
            ]
        ),
        "## Published metrics on the same summaries",
        _rivals(model["rivals"]),
        "## What definitions of the score are worth",
        _definitions(model["definitions"]),
        "## What the settings are worth",
        _settings(settings),
        "## What choices in training are worth",
        _choices(choices),
        "## Machine",
        where(model),
    ]
    return "\n\n".join(parts) + "\n"


def _perplexity(result: dict[str, Any]) -> str:
    rows = [
        {
            "source": name,
            "perplexity": f"{result[name]['perplexity']:.2f}",
            "nats a token": f"{result[name]['nats_per_token']:.3f}",
            "tokens": f"{result[name]['tokens']:,}",
        }
        for name in ("passages", "windows")
    ]
    return (
        f"Perplexity a token of people's question-answer pairs, {result['questions']:,} questions "
        f"of {result['data']} (windows: the sentences around the answer, as short as a summary):"
        f"\n\n{table(rows)}"
    )


def _generation(result: dict[str, Any]) -> str:
    rows = [
        {
            "summaries of": name,
            "n": str(one["summaries"]),
            "answers that occur in the summary": percent(one["answers_in_summary"], 1),
            "distinct pairs": f"{one['distinct_pairs']:.1f}",
            "distinct answers": f"{one['distinct_answers']:.1f}",
            "pairs kept (`max_pairs` 10)": f"{one['kept_pairs']:.1f}",
            "without a pair": str(one["no_pairs"]),
            "round trip: answers agree": percent(trip["share_f1_at_least_half"], 1),
            "mean F1": f"{trip['mean_f1']:.3f}",
            "no answer found": percent(trip["no_answer"], 1),
        }
        for name, one in result.items()
        for trip in [one["round_trip"]]
    ]
    return (
        "What is generated from a summary. Round trip: the extractive network of "
        "bench/qags_models answers the kept questions from the summary; answers agree from a "
        f"word F1 of one half.\n\n{table(rows)}"
    )


def _examples(result: dict[str, Any]) -> str:
    kinds = ", ".join(f"{kind} {n} of {total}" for kind, (n, total) in result["by_change"].items())
    return (
        f"The faithful summary scores above the altered one for {result['faithful_higher']} of the "
        f"{result['documents']} example documents ({kinds}); the aim is 18."
    )


def _with_people(result: dict[str, Any]) -> str:
    blocks = ["Agreement with human judgement:"]
    for title, parts in result.items():
        for part in ("even", "odd", "all") if is_split(title) else ("all",):
            rows = [
                {
                    f"{title}, {part} rows, n = {parts[part][0]['n']}": one["name"],
                    **_three(one),
                }
                for one in parts[part]
            ]
            blocks.append(table(rows))
        aim = next((aim for key, aim in AIMS.items() if key in title), None)
        reached = parts["all"][0]["pearson"]
        if aim is not None and reached["value"] is not None:
            verdict = "reached" if reached["value"] >= aim else "missed"
            blocks.append(f"The aim, Pearson {aim:.2f} on all rows, is {verdict}.")
    return "\n\n".join(blocks)


def _rivals(result: dict[str, Any]) -> str:
    blocks = [
        "Scores that FRANK's authors published (Pagnoni et al. 2021), and QUALS with the bundled "
        "model, on the summaries for which there are all. A label is the share of a summary's "
        "sentences in which most annotators found no error; for the AUC, a summary is consistent "
        "if this holds for all of them. The last column is the Pearson correlation minus that of "
        "QUALS as published, with a paired interval. BERTScore, ROUGE, BLEU and METEOR compare "
        "with the reference summary, those with `Art` with the article. The last row is computed "
        "here."
    ]
    for title, metrics in result.items():
        first = metrics[0]
        head = f"{title}, n = {first['n']} ({first['left_out']} left out)"
        blocks.append(
            table(
                [
                    {
                        head: one["name"],
                        **_three(one),
                        "minus QUALS": "-" if one is first else interval(one["rise"], 3, 2),
                    }
                    for one in metrics
                ]
            )
        )
    return "\n\n".join(blocks)


def _definitions(result: dict[str, Any]) -> str:
    offered = set(result["offered"])
    blocks = [
        "Which pairs and tokens make the score, all from the same searches. Definitions in bold "
        'are settings: "over all pairs" is `max_pairs=None`, "answers only" is `tokens="answer"`. '
        '"Mean by answer" gives each distinct answer the same weight; "by confidence" weights a '
        "pair by how likely the summary makes its answer (the geometric mean of its tokens' "
        "probabilities). The rise is that of the Pearson correlation, with a paired interval: for "
        "weighted pairs over the same definition without weights, otherwise over the published "
        "one."
    ]
    for title, parts in result["sets"].items():
        for part, ones in parts.items():
            head = f"{title}, {part} rows, n = {ones[0]['n']}"
            rows = [
                {
                    head: f"**{one['name']}**" if one["name"] in offered else one["name"],
                    **_three(one),
                    "rise": "-" if one is ones[0] else interval(one["rise"], 3, 2),
                }
                for one in ones
            ]
            blocks.append(table(rows))
    return "\n\n".join(blocks)


def _three(one: dict[str, Any]) -> dict[str, str]:
    """Return the cells of the three statistics that the page shows."""
    titles = {"pearson": "Pearson", "spearman": "Spearman", "auc": "AUC"}
    return {title: interval(one[key], 3, 2) for key, title in titles.items()}


def _settings(result: dict[str, Any] | None) -> str:
    if result is None:
        return "Not measured yet: `python -m bench.model --settings`."
    quality, cost = result["quality"], result["cost"]
    order = selected(quality)
    sets = list(quality[DEFAULT])
    rows = [
        {"settings": name, "varied": result["groups"][name]}
        | {
            f"{title}, {part} rows": interval(of_sets[title][part]["pearson"], 3, 2)
            for title in sets
            for part in ("odd", "even")
        }
        | {"cost": with_spread(cost[name])}
        for name, of_sets in quality.items()
    ]
    best = order[0]
    return (
        f"Pearson correlation with people, and cost: times the default's, measured in turn on the "
        f"same {result['cost_rows']} rows. {result['rows']} rows of each set at most. All other "
        "settings are the default's.\n\n"
        f"{table(rows)}\n\nBest on the odd rows, by the mean over the sets: {best}"
        + ("." if best == DEFAULT else f"; the default is number {order.index(DEFAULT) + 1}.")
        + "\n\n![agreement with people against cost](model_settings.svg)"
    )


def _choices(result: dict[str, Any] | None) -> str:
    if result is None:
        return "Not measured yet: `python -m bench.choices`."
    models = result["models"]
    first = next(iter(models))
    sets = list(models[first]["with_people"])
    rows = []
    for name, one in models.items():
        row = {"model": name}
        for text in ("short", "long"):
            for part in ("question", "answer"):
                row[f"{text} text: {part}"] = f"{one['nats'][text][part]:.3f}"
        row["faithful above altered"] = f"{one['altered']['higher']} of {one['altered']['n']}"
        row["tokens a pair"] = f"{one['tokens']:.1f}"
        for title in sets:
            of_set = one["with_people"][title]
            row[f"{title}, odd rows"] = interval(of_set["pearson"], 3, 2)
            row[f"{title}, rise"] = "-" if name == first else interval(of_set["rise"], 3, 2)
        rows.append(row)
    return (
        f"Nats a token of people's questions and of their answers, given a text as short as a "
        f"summary or one of up to 340 words ({result['questions']:,} questions of "
        f"{result['data']}); how often a news summary scores above the same one with a name or a "
        "number altered (30 beams); tokens of a pair that the search finds, which is what scoring "
        f"costs; Pearson correlation with people, and its rise over {first} with a paired "
        "bootstrap interval. These are not the bundled weights but those of training, before they "
        f"are stored as int8: {listed(result['weights'])}.\n\n"
        f"{table(rows)}\n\n"
        "How each was trained: [docs/train-your-own.md](../docs/train-your-own.md)."
    )


def plot(result: dict[str, Any], target: Path) -> None:
    """Draw agreement on the even rows against cost, a panel for each set."""
    sets = list(result["quality"][DEFAULT])
    groups = list(dict.fromkeys(result["groups"].values()))
    with figure(target, "model", 1, len(sets), figsize=(6 * len(sets), 5)) as (_, axes):
        for axis, title in zip(axes[0], sets, strict=True):
            for name, of_sets in result["quality"].items():
                one = of_sets[title]["even"]["pearson"]
                if one["value"] is None:
                    continue
                x = result["cost"][name]["median"]
                errors = [[max(0, one["value"] - one["low"])], [max(0, one["high"] - one["value"])]]
                colour = f"C{groups.index(result['groups'][name])}"
                axis.errorbar(x, one["value"], yerr=errors, fmt="o", color=colour, alpha=0.7)
                axis.annotate(name, (x, one["value"]), fontsize=7, xytext=(4, 2),
                              textcoords="offset points")  # fmt: skip
            axis.axhline(result["quality"][DEFAULT][title]["even"]["pearson"]["value"] or 0, lw=0.5)
            axis.set_xscale("log", base=2)
            axis.set(title=f"{title}, even rows", xlabel="cost (default = 1)",
                     ylabel="Pearson correlation with people")  # fmt: skip
