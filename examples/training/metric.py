"""QUALS as a torchmetrics metric, batch by batch.

python examples/training/metric.py
"""

from small_models import arguments, load_rows

from quals_fast.training import QualsMetric


def main() -> None:
    """Score faithful summaries two at a time."""
    given = arguments(__doc__).parse_args()
    documents, summaries = load_rows(given.rows)
    metric = QualsMetric(given.scorer)
    for first in range(0, len(documents), 2):
        batch = slice(first, first + 2)
        print(f"batch: {metric(summaries[batch], documents[batch]):.3f}")
    print(f"all: {metric.compute():.3f} {metric.status_counts()}")


if __name__ == "__main__":
    main()
