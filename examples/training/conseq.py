"""ConSeq from Python, with QUALS and with ROUGE from the same samples.

python examples/training/conseq.py --model YOUR_MODEL --output FOLDER

The same as `quals-fast conseq pairs.jsonl --summariser YOUR_MODEL -o FOLDER [--by rouge]`. Without
a model a random one is trained, which shows that it runs and nothing else.
"""

import tempfile
from pathlib import Path

from small_models import arguments, load_rows, summariser, tokenizer_of

from quals_fast import QualsScorer
from quals_fast.training import ConSeqConfig, run_conseq


def main() -> None:
    """Run both arms."""
    parser = arguments(__doc__)
    parser.add_argument("--output", help="a folder that is thrown away without")
    given = parser.parse_args()
    documents, summaries = load_rows(given.rows)
    scorer = QualsScorer.from_pretrained(given.scorer)
    with tempfile.TemporaryDirectory() as scratch:
        model = given.model
        if model is None:
            model = f"{scratch}/random"
            summariser(None).save_pretrained(model)
            tokenizer_of(None).save_pretrained(model)
        for by in ("quals", "rouge"):
            result = run_conseq(
                documents,
                summaries,
                model=model,
                output=Path(given.output or f"{scratch}/conseq"),
                scorer=scorer,
                # Of a few rows, 30 % and 30 % would leave none.
                config=ConSeqConfig(
                    by=by,
                    num_samples=2,
                    max_length=24,
                    max_source_tokens=200,
                    positive_fraction=1.0,
                    negative_fraction=1.0,
                ),
                on_progress=lambda stage, done, total: print(f"{stage}: {done} of {total}"),
            )
            print(result)


if __name__ == "__main__":
    main()
