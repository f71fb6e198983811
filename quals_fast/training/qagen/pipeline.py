"""Fine-tune a BART or T5 to generate question-answer pairs: the story of `quals-fast train-qagen`.

Read the questions, load what to start from, plan the batches, go on from the last whole checkpoint
if there is one, train, and write a folder that `QualsScorer.from_pretrained` loads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from quals_fast.training.qagen.settings import TrainingError, TrainingSettings

try:
    import accelerate  # noqa: F401 - the Trainer needs it
    import transformers
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'training needs {error.name}: pip install ".[train]" in the checkout'
    ) from error

import torch
from transformers import EarlyStoppingCallback, Seq2SeqTrainingArguments

from quals_fast.models.hub import commit_of, is_hub_name
from quals_fast.training.qagen import checkpoints
from quals_fast.training.qagen.batches import Examples, Plan
from quals_fast.training.qagen.clock import Clock
from quals_fast.training.qagen.corpus import Corpus, read_corpus
from quals_fast.training.qagen.cost import training_flops
from quals_fast.training.qagen.encoding import PairEncoder
from quals_fast.training.qagen.starting_point import load_starting_point, save_folder
from quals_fast.training.qagen.trainer import QagenTrainer

RUN_FILE = "run.json"
# Settings that may change when a run is resumed; all others must stay the same.
_MAY_CHANGE = {"output", "dev", "epochs", "examples", "decay", "every", "keep", "patience",
               "dev_questions", "bf16", "cpu", "threads", "skip_invalid", "minutes",
               "workers", "revision"}  # fmt: skip
_REMOVED = {"answer_weight": 1.0}  # settings of earlier versions, and what every run now has
_LOGGING_STEPS = 50  # between lines


def train(settings: TrainingSettings, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Train, or resume from the last complete checkpoint in `output`.

    Args:
        settings: settings of the run.
        report: called with lines about data, progress and skipped entries.

    Returns:
        The final content of ``run.json``: settings, counts, evaluations.

    Raises:
        TrainingError: the data cannot be used, the folder belongs to another run, or the disk is
            full.
        CheckpointError: `init` cannot be used.
    """
    clock = None if settings.minutes is None else Clock(settings.minutes)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    arguments = _arguments(settings)
    if clock is not None and arguments.world_size > 1:
        raise TrainingError(
            f"`minutes` needs a single process, since clocks differ, but got "
            f"{arguments.world_size}; use `examples` instead"
        )
    say = report if arguments.process_index == 0 else _silent
    with arguments.main_process_first():  # a download writes files
        is_on_hub = is_hub_name(settings.init)
        commit = commit_of(settings.init, settings.revision) if is_on_hub else None
        run: dict[str, Any] = {
            "identity": _identity(settings, arguments.world_size, commit),
            "revision": settings.revision,
        }
        if arguments.process_index == 0:
            _check_output(settings.output, run["identity"])
            _write_run(settings.output, run)
    corpus = _read(settings.train, settings, settings.caps)
    with arguments.main_process_first():  # a warm start writes files, too
        transformers.set_seed(settings.seed)
        asked = (text for one in corpus.questions for text in (one.text, one.answer))
        texts = (*corpus.passages, *asked)
        start = load_starting_point(replace(settings, revision=commit), say, texts)
    encoder = PairEncoder(
        start.tokenizer, start.conventions, start.positions, settings.long_contexts
    )
    say(_counts(settings.train, corpus, encoder, settings))
    dev = {} if settings.dev is None else _dev(settings.dev, settings, encoder, say)

    examples = Examples(corpus, encoder, settings)
    plan = Plan(
        examples, settings.batch_tokens, settings.seed, arguments.world_size, settings.workers
    )
    steps = -(-len(plan) // (arguments.world_size * settings.accumulate))
    arguments.warmup_steps = min(settings.warmup_steps, steps)
    decay_steps = min(round(settings.decay * steps), steps - arguments.warmup_steps)
    arguments.lr_scheduler_kwargs = {"num_decay_steps": decay_steps, "decay_type": "linear"}
    flops = training_flops(start.network.config, plan.source_tokens, plan.target_tokens)
    say(
        f"{examples.questions:,} questions on {len(examples):,} texts, in {len(plan):,} batches "
        f"and {steps:,} steps; "
        f"{plan.source_tokens / 1e6:.2f} M source and {plan.target_tokens / 1e6:.2f} M target "
        f"tokens, about {flops:.1e} FLOP"
    )

    resumed = checkpoints.last_whole(settings.output, say)
    trainer = QagenTrainer(start, arguments, examples, plan, dev, say, clock)
    if settings.patience is not None:
        trainer.add_callback(EarlyStoppingCallback(settings.patience))
    if resumed is not None:
        say(f"resuming from {resumed}")
    trained = trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    if trainer.state.global_step < steps and settings.patience is not None:
        say(f"stopped early; the best checkpoint is {trainer.state.best_model_checkpoint}")
    if clock is not None and clock.is_up:
        say(f"time limit reached after {trainer.state.global_step:,} of {steps:,} steps")
    run |= {
        "questions": len(corpus.questions),
        "counts": dict(corpus.counts),
        "steps": steps,
        "steps_done": trainer.state.global_step,
        "examples": examples.questions,
        "texts": sum(map(len, plan)),
        "source_tokens": plan.source_tokens,
        "target_tokens": plan.target_tokens,
        "flop": flops,
        "seconds": trained.metrics["train_runtime"],  # of this call, with its checkpoints
        "evaluations": [log for log in trainer.state.log_history if "eval_loss" in log],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    if arguments.process_index == 0:
        with checkpoints.writing(settings.output / "model.safetensors", removes=False):
            save_folder(start, settings.output)
            _write_run(settings.output, run)
    say(f"wrote {settings.output}; to use it: quals-fast score FILE --model {settings.output}")
    return run


def _arguments(settings: TrainingSettings) -> Seq2SeqTrainingArguments:
    every = "steps" if settings.dev is not None else "no"
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(settings.output),
        num_train_epochs=1,  # the plan holds all passes
        per_device_train_batch_size=1,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        weight_decay=0.01,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=_has_bf16(settings),
        use_cpu=settings.cpu or not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        seed=settings.seed,
        logging_steps=min(_LOGGING_STEPS, settings.every),
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.every,
        save_total_limit=settings.keep,
        eval_strategy=every,
        eval_steps=settings.every,
        load_best_model_at_end=settings.patience is not None,
        metric_for_best_model="loss" if settings.dev is not None else None,
        greater_is_better=False if settings.dev is not None else None,
        accelerator_config={"even_batches": False},
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=settings.workers,
        remove_unused_columns=False,
    )
    # One process uses one GPU: DataParallel would split batches that already have the right size.
    # Use torchrun for several GPUs.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _has_bf16(settings: TrainingSettings) -> bool:
    if settings.bf16 != "auto":
        return settings.bf16 == "on"
    if torch.cuda.is_available() and not settings.cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def _identity(settings: TrainingSettings, processes: int, commit: str | None) -> dict[str, Any]:
    """Return what must not change when a run is resumed.

    A branch moves and a commit has several names, so of a revision it is the commit.
    """
    identity: dict[str, Any] = {"processes": processes}
    for one in fields(settings):
        value = getattr(settings, one.name)
        if one.name == "train":
            value = [
                f"{path.name} ({path.stat().st_size} bytes)" for path in value if path.exists()
            ]
        if one.name not in _MAY_CHANGE:
            is_plain = isinstance(value, int | float | list | dict | None)
            identity[one.name] = value if is_plain else str(value)
    return identity | {"commit": commit}


def _check_output(output: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a folder that belongs to anything but this run."""
    path = output / RUN_FILE
    if not path.is_file():
        if output.is_dir() and any(output.iterdir()):
            raise TrainingError(
                f"{output} must be empty or the folder of a run, but is neither; choose a new "
                "--output folder"
            )
        return
    if not checkpoints.checkpoints(output):
        return  # nothing is lost
    try:
        before = dict(json.loads(path.read_text("utf-8"))["identity"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} cannot be read ({error!r}), so the run cannot be identified; choose a new "
            "--output folder"
        ) from error
    now = json.loads(json.dumps(identity))
    for name in sorted(before.keys() - now.keys() - _MAY_CHANGE):
        if before[name] != _REMOVED.get(name):
            raise TrainingError(
                f"{output} belongs to a run whose `{name}` is {before[name]!r}, a setting that "
                "this version of quals-fast does not have; resume with the version that started "
                "the run, or choose a new --output folder"
            )
    changed = [name for name in now if before.get(name) != now[name]]
    commit = before.get("commit")
    if changed == ["commit"] and None not in (commit, now["commit"]):
        raise TrainingError(
            f"{output} belongs to a run that started from {now['init']} at commit {commit}, but "
            f"got {now['commit']}; resume it with --revision {commit}, or choose a new --output "
            "folder"
        )
    if changed:
        name = changed[0]
        raise TrainingError(
            f"{output} belongs to a run whose `{name}` is {before.get(name)!r}, but got "
            f"{now[name]!r}; use the same value to resume it, or choose a new --output folder"
        )


def _read(paths: tuple[Path, ...], settings: TrainingSettings, caps: Mapping[str, int]) -> Corpus:
    return read_corpus(
        paths,
        seed=settings.seed,
        caps=caps,
        keep_absent=settings.absent_answers == "keep",
        skip_invalid=settings.skip_invalid,
    )


def _counts(
    paths: tuple[Path, ...], corpus: Corpus, encoder: PairEncoder, settings: TrainingSettings
) -> str:
    """Describe what was read, and how many contexts are too long."""
    long = encoder.count_long(corpus.passages)
    part = "a part around the answer" if settings.long_contexts == "around" else "the start"
    cut = f"; {long:,} contexts are longer than {encoder.room:,} tokens, so only {part} is shown"
    return f"{', '.join(path.name for path in paths)}: {corpus.summary()}{cut if long else ''}"


def _dev(
    path: Path, settings: TrainingSettings, encoder: PairEncoder, say: Callable[[str], None]
) -> dict[str, Examples]:
    """Return the questions to evaluate on, in each view that is used for training."""
    corpus = _read((path,), settings, caps={})
    say(_counts((path,), corpus, encoder, settings))
    corpus = corpus.drawn(settings.dev_questions)
    views = [
        v for v, share in zip(settings.views.names(), settings.views.shares, strict=True) if share
    ]
    return {view: Examples(corpus, encoder, settings, view) for view in views}


def _write_run(output: Path, run: Mapping[str, Any]) -> None:
    temporary = output / f"{RUN_FILE}.tmp"
    try:
        output.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(run, indent=1) + "\n", "utf-8")
        os.replace(temporary, output / RUN_FILE)
    except OSError as error:
        raise TrainingError(f"cannot write {output / RUN_FILE}: {error.strerror}") from error


def _silent(_: str) -> None:
    """Print nothing: the first process does."""
