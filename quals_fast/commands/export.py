"""`quals-fast export`: a model as ONNX graphs."""

from __future__ import annotations

from typing import Any

import click

from quals_fast.commands.options import SETTING_OPTIONS, with_options
from quals_fast.commands.running import options_given, require, score_settings, usage_errors
from quals_fast.errors import BackendUnavailableError


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("output", metavar="OUT")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    help="int8: the search stays exact but for a screen of the vocabulary.",
)
@click.option(
    "--single-file",
    is_flag=True,
    help="Write all of the score as one graph, the file OUT, in float32 and with the settings "
    "below, for any program with ONNX Runtime: token ids in, scores and kept pairs out. The "
    "model's tokenizer must be WordPiece.",
)
@with_options(*SETTING_OPTIONS)
def export(model: str, output: str, dtype: str, single_file: bool, **options: Any) -> None:
    """Write MODEL as ONNX graphs to the new folder OUT, and check them on real texts.

    MODEL is the bundled model's name or a local folder. What is written is scored with --model OUT,
    by ONNX Runtime and without PyTorch. Exit code: 1 when the graphs differ from the model by more
    than their type explains, 2 on wrong usage.
    """
    require("torch", message="exporting needs PyTorch: pip install 'quals-fast[onnx]'")
    from quals_fast.export.exporter import ExportParityError

    run = _export_single_file if single_file else _export_folder
    try:
        with usage_errors(ValueError, TypeError, ModuleNotFoundError, BackendUnavailableError):
            click.echo(run(model, output, dtype, options))
    except ExportParityError as error:
        raise click.ClickException(str(error)) from error


def _export_folder(model: str, output: str, dtype: str, options: dict[str, Any]) -> str:
    """Export graphs and say what their check found."""
    from quals_fast.export.exporter import export as export_folder

    for option in options_given(options):
        raise ValueError(f"`{option}` is for --single-file; without it, give it to score")
    parity = export_folder(model, output, dtype=dtype)
    return (
        f"wrote {output} ({dtype}); log-probabilities differ by {parity['max_abs_delta']:.1e} at "
        f"most and {parity['mean_abs_delta']:.1e} on average, and "
        f"{100 * parity['identical_sequences']:.0f} % of the sequences are the same"
    )


def _export_single_file(model: str, output: str, dtype: str, options: dict[str, Any]) -> str:
    """Export one graph and say what its check found."""
    from quals_fast.export.single_file import export_single_file

    if dtype != "float32":
        raise ValueError(f"`--single-file` is for --dtype float32, but got {dtype}")
    parity = export_single_file(model, output, **score_settings(options))
    return (
        f"wrote {output}; {100 * parity['identical_pairs']:.0f} % of {parity['pairs']} pairs are "
        f"the model's, and log-probabilities and scores differ by {parity['max_abs_delta']:.1e} at "
        "most"
    )
