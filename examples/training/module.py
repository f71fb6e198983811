"""QUALS with the interface of Hugging Face's evaluate.

python examples/training/module.py
"""

from small_models import arguments, load_rows

from quals_fast.training import QualsModule


def main() -> None:
    """Score faithful summaries."""
    given = arguments(__doc__).parse_args()
    documents, summaries = load_rows(given.rows)
    found = QualsModule(given.scorer).compute(predictions=summaries, references=documents)
    print(f"{found['quals']:.3f} [{found['quals_low']:.3f}, {found['quals_high']:.3f}]")
    print(found["scores"], found["signature"], sep="\n")


if __name__ == "__main__":
    main()
