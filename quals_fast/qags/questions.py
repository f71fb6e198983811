"""Questions about a summary, each for one answer candidate (docs/semantics.md 2, step 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from quals_fast.batching import pad, run_batches
from quals_fast.models.checkpoint import CheckpointError, check_config
from quals_fast.qags.beams import BeamHypotheses, beam_search
from quals_fast.qags.filtering import Question
from quals_fast.qags.networks import NetworkFiles
from quals_fast.qags.results import StageWork

SettingName = Literal["shipped", "paper"]

# Tokens that a batch's budget counts for each beam: a question and its logits.
_TOKENS_PER_BEAM = 24


@dataclass(frozen=True, slots=True)
class SearchSetting:
    """Named settings of question generation.

    Attributes:
        num_beams: number of beams.
        n_best: number of questions asked for.
        min_tokens: minimum number of tokens before EOS; the maximum is the source's tokens + 1.
    """

    num_beams: int
    n_best: int
    min_tokens: int = 5

    @property
    def n_returned(self) -> int:
        """Questions for an answer.

        The published program ends with as many hypotheses as beams and prints the first `n_best`
        of these, so a beam of 5 gives 5 questions, where Hugging Face refuses to give 10.
        """
        return min(self.num_beams, self.n_best)


# Source: fairseq/scripts/aw/gen_qg.sh of W4ngatang/qags; its qa_utils.py names beam 10.
SETTINGS: dict[SettingName, SearchSetting] = {
    "shipped": SearchSetting(num_beams=5, n_best=10),
    "paper": SearchSetting(num_beams=10, n_best=10),
}


class Job(NamedTuple):
    """A summary and an answer to ask for.

    Attributes:
        summary: the passage.
        answer: the candidate.
        steps: tokens to decode whatever the model says; None leaves that to the search.
    """

    summary: str
    answer: str
    steps: int | None = None


class Generated(NamedTuple):
    """The result of a job.

    Attributes:
        questions: likeliest first.
        steps: tokens that the search decoded.
        truncated_tokens: tokens of the summary that were cut off.
    """

    questions: list[Question]
    steps: int
    truncated_tokens: int


class _Source(NamedTuple):
    input_ids: list[int]
    truncated_tokens: int
    limits: tuple[int, int]


class QuestionGenerator:
    """BART that reads a passage with an answer and writes questions.

    Its config says how: ``sep_token_id`` separates the two; ``qg_source`` is
    ``passage_sep_answer`` (the default) or ``answer_sep_passage``; the other keys are those of a
    question-answer generator (`quals_fast.models.checkpoint.Conventions`).

    Args:
        files: of the network.
        setting: of the search.
        device: where it runs.
        dtype: of its weights.

    Raises:
        CheckpointError: the files cannot be used.
    """

    def __init__(
        self,
        files: NetworkFiles,
        setting: SearchSetting,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if files.config.get("sep_token_id") is None:
            raise CheckpointError(
                f"{files.name}: config.json has no `sep_token_id`, the token between passage and "
                "answer; add the one that the generator was trained with"
            )
        self.layout = files.config.get("qg_source", "passage_sep_answer")
        if self.layout not in ("passage_sep_answer", "answer_sep_passage"):
            raise CheckpointError(
                f"{files.name}: `qg_source` must be 'passage_sep_answer' or 'answer_sep_passage', "
                f"but is {self.layout!r}"
            )
        self.bart = files.build("bart", device, dtype)
        shape, self.settings = check_config(Path(files.name), dict(files.config))
        self.setting = setting
        self._positions = shape.max_position_embeddings
        self._tokenizer = files.load_tokenizer()
        self.bart.final_logits_bias[:, list(self.settings.masked_token_ids)] = -torch.inf

    @torch.inference_mode()
    def generate(
        self, jobs: Sequence[Job], work: StageWork, *, max_batch_tokens: int | None
    ) -> Iterator[tuple[int, Generated | None]]:
        """Generate questions for each job, under inference mode.

        Args:
            jobs: what to ask about.
            work: where the work is counted.
            max_batch_tokens: searches many jobs of like length at once under this budget; None
                runs them one by one through Hugging Face's `generate`, as the published program.

        Yields:
            Each job's index with its result; None if the network gives NaN.
        """
        sources = [self._source(job) for job in jobs]
        if max_batch_tokens is None:
            for index, source in enumerate(sources):
                yield index, self._read(jobs[index], source, self._search_one(source, work))
            return
        beams = self.setting.num_beams
        lengths = [len(source.input_ids) + beams * _TOKENS_PER_BEAM for source in sources]
        searched = run_batches(
            lengths,
            max_batch_tokens,
            lambda batch: self._search([sources[i] for i in batch], work),
        )
        for index, hypotheses in searched:
            yield index, self._read(jobs[index], sources[index], hypotheses)

    def _source(self, job: Job) -> _Source:
        """Return the encoder's input; where it is too long, the passage's end is cut off."""
        s = self.settings
        passage, answer = (self._encode(text) for text in (job.summary, job.answer))
        start = [] if s.bos_token_id is None else [s.bos_token_id]
        room = max(0, s.max_source_tokens - len(start) - 2)
        answer = answer[:room]
        seen = passage[: room - len(answer)]
        first, second = (seen, answer) if self.layout == "passage_sep_answer" else (answer, seen)
        ids = [*start, *first, s.sep_token_id, *second, s.eos_token_id]
        # At most source + 1 tokens and EOS, if the decoder has that many positions.
        most = min(len(ids) + 2, self._positions)
        limits = (self.setting.min_tokens, most) if job.steps is None else (job.steps,) * 2
        return _Source(ids, len(passage) - len(seen), limits)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _search_one(self, source: _Source, work: StageWork) -> BeamHypotheses:
        from transformers import GenerationConfig

        s, setting = self.settings, self.setting
        least, most = source.limits
        # Otherwise a checkpoint's own settings, such as those for summaries, would fill the gaps.
        self.bart.generation_config = GenerationConfig()
        config = GenerationConfig(
            num_beams=setting.num_beams,
            num_return_sequences=setting.num_beams,
            early_stopping=True,
            length_penalty=1.0,
            min_new_tokens=least,
            max_new_tokens=most,
            suppress_tokens=[s.pad_token_id],
            eos_token_id=s.eos_token_id,
            pad_token_id=s.pad_token_id,
            decoder_start_token_id=s.decoder_start_token_id,
            forced_bos_token_id=s.forced_bos_token_id,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
        source_ids = torch.tensor([source.input_ids], device=self.bart.device)
        output = self.bart.generate(
            input_ids=source_ids,
            attention_mask=torch.ones_like(source_ids),
            generation_config=config,
        )
        steps = len(output.scores)
        work.count([len(source.input_ids)], len(source.input_ids))
        self._count_steps(work, steps * setting.num_beams, len(source.input_ids))
        token_ids = []
        for _, *ids in output.sequences.tolist():  # behind EOS stands padding, or EOS once more
            end = ids.index(s.eos_token_id) + 1 if s.eos_token_id in ids else len(ids)
            token_ids.append([token for token in ids[:end] if token != s.pad_token_id])
        return BeamHypotheses(token_ids, output.sequences_scores.tolist())

    def _search(self, sources: list[_Source], work: StageWork) -> list[BeamHypotheses]:
        s = self.settings
        lengths = [len(source.input_ids) for source in sources]
        # Tensor cores want rows of whole vectors.
        multiple = 8 if self.bart.device.type == "cuda" else 1
        ids, mask = pad(
            [source.input_ids for source in sources],
            s.pad_token_id,
            self.bart.device,
            multiple_of=multiple,
            at_most=self._positions,
        )
        work.count(lengths, ids.shape[1])
        states = self.bart.get_encoder()(ids, attention_mask=mask.long()).last_hidden_state
        return beam_search(
            self.bart,
            states,
            mask,
            s,
            self.setting.num_beams,
            [source.limits for source in sources],
            lambda rows, width: self._count_steps(work, rows, width),
        )

    @staticmethod
    def _count_steps(work: StageWork, rows: int, width: int) -> None:
        work.decoded_tokens += rows
        work.attended_tokens += rows * width

    def _read(self, job: Job, source: _Source, hypotheses: BeamHypotheses) -> Generated | None:
        """Return a job's questions; the search ended when its last hypothesis did."""
        if not all(abs(logprob) < float("inf") for logprob in hypotheses.logprobs):
            return None
        s = self.settings
        special = {s.eos_token_id, s.pad_token_id, s.bos_token_id, s.forced_bos_token_id}
        texts = self._tokenizer.decode_batch(
            [[token for token in ids if token not in special] for ids in hypotheses.token_ids],
            skip_special_tokens=False,
        )
        best = list(zip(texts, hypotheses.logprobs, strict=True))[: self.setting.n_returned]
        return Generated(
            [Question(text.strip(), logprob, job.answer) for text, logprob in best],
            max(map(len, hypotheses.token_ids)),
            source.truncated_tokens,
        )
