"""QUALS with the interface of Hugging Face's evaluate.

python examples/training/module.py
"""

from small_models import arguments, load_rows

from quals_fast.training import QualsModule


def main() -> None:
    """Score faithful summaries."""
    given = arguments(__doc__).parse_args()
    documents, summaries = load_rows(given.rows)
    result = QualsModule(given.scorer).compute(predictions=summaries, references=documents)
    print(f"{result['quals']:.3f} [{result['quals_low']:.3f}, {result['quals_high']:.3f}]")
    print(result["scores"], result["signature"], sep="\n")


if __name__ == "__main__":
    main()
