"""A language model in this process, through transformers."""

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from telellm.lm.client import Choice, Turns, cut_before
from telellm.lm.models import load_model, load_tokenizer
from telellm.recipe import LanguageModel

if TYPE_CHECKING:
    from transformers import Cache

SHORTEST_SHARED = 16
"""A shorter common beginning of the prompts is not worth computing ahead (tokens)."""
BATCHES_AHEAD = 2
"""Batches whose prompts are sorted by length together, where prompts come one by one."""


class LocalModel:
    """Answers in batches of prompts of like length; what all prompts begin with is computed once a call."""

    def __init__(self, settings: LanguageModel, name: str, revision: str) -> None:
        self.settings = settings
        self.usage: Counter[str] = Counter()
        self.model = load_model(name, revision, settings.dtype)
        self.tokenizer = load_tokenizer(name, revision)

    def generate(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        *,
        system: str = "",
        examples: Turns = (),
        stop: Sequence[str] = (),
    ) -> list[str]:
        """Return the greedy answer to each prompt, cut before the first of `stop`, stripped."""
        answers = [""] * len(prompts)
        ids = self._tokenize(prompts, system, examples, room=max_tokens)
        for where, tokens, mask, cache in self._batches(ids):
            with torch.inference_mode():
                output = self.model.generate(  # type: ignore[operator]
                    input_ids=tokens,
                    attention_mask=mask,
                    past_key_values=cache,
                    max_new_tokens=max_tokens,
                    do_sample=False,
                    temperature=None,
                    top_p=None,
                    top_k=None,
                    pad_token_id=self.tokenizer.pad_token_id,
                    **({"stop_strings": list(stop), "tokenizer": self.tokenizer} if stop else {}),
                )
            for index, row in zip(where, output[:, tokens.shape[1] :], strict=True):
                text = str(self.tokenizer.decode(row, skip_special_tokens=True))
                self.usage["completion_tokens"] += int((row != self.tokenizer.pad_token_id).sum())
                answers[index] = cut_before(text, stop)
        return answers

    def generate_each(
        self,
        prompts: Iterable[str],
        max_tokens: int,
        *,
        system: str = "",
        examples: Turns = (),
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """Yield the answers in order; prompts of like length among the next few share a batch."""
        remaining = iter(prompts)
        while some := list(islice(remaining, BATCHES_AHEAD * self.settings.batch_size)):
            yield from self.generate(some, max_tokens, system=system, examples=examples, stop=stop)

    def choose(
        self, prompts: Sequence[str], options: Sequence[str], *, system: str = "", examples: Turns = ()
    ) -> list[Choice]:
        """Return the probabilities of the options, from the log-likelihood of each option's tokens."""
        choices: list[Choice] = [Choice({}, 0)] * len(prompts)
        continuations = [self._continuation(option) for option in options]
        room = max((len(tokens) for tokens in continuations), default=0)
        for where, tokens, mask, cache in self._batches(self._tokenize(prompts, system, examples, room)):
            with torch.inference_mode():
                scores = self._log_likelihoods(tokens, mask, cache, continuations)
            shares = scores.softmax(-1).tolist()
            masses = scores.logsumexp(-1).exp().clamp(max=1).tolist()
            for index, share, mass in zip(where, shares, masses, strict=True):
                choices[index] = Choice(dict(zip(options, share, strict=True)), mass)
        return choices

    def _log_likelihoods(
        self, tokens: torch.Tensor, mask: torch.Tensor, cache: "Cache | None", continuations: list[list[int]]
    ) -> torch.Tensor:
        """Return the log-likelihood of each continuation (rows: prompts, columns: continuations)."""
        logits, cache = self._forward(tokens, mask, cache, keep=1)
        first = logits[:, -1].float().log_softmax(-1)
        columns = []
        for continuation in continuations:
            score = first[:, continuation[0]]
            if len(continuation) > 1:
                rest = torch.tensor(continuation, device=tokens.device).expand(len(tokens), -1)
                longer = torch.cat([mask, mask.new_ones(len(tokens), len(continuation) - 1)], dim=1)
                whole = torch.cat([tokens, rest[:, :-1]], dim=1)
                more, _ = self._forward(whole, longer, copy.deepcopy(cache), keep=len(continuation) - 1)
                score = score + more.float().log_softmax(-1).gather(-1, rest[:, 1:, None])[..., 0].sum(-1)
            columns.append(score)
        return torch.stack(columns, dim=1)

    def _forward(
        self, tokens: torch.Tensor, mask: torch.Tensor, cache: "Cache | None", keep: int
    ) -> "tuple[torch.Tensor, Cache]":
        """Compute what the cache does not hold yet; returns the last `keep` logits and the cache."""
        done = cache.get_seq_length() if cache is not None else 0
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        output: Any = self.model(
            input_ids=tokens[:, done:],
            attention_mask=mask,
            position_ids=positions[:, done:],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return output.logits, output.past_key_values

    def _batches(
        self, prompts: list[list[int]]
    ) -> "Iterator[tuple[list[int], torch.Tensor, torch.Tensor, Cache | None]]":
        """Yield the prompts' indices, tokens and mask (padded after the shared beginning), and a cache of that."""
        self.usage["prompt_tokens"] += sum(map(len, prompts))
        shared = _common_beginning([tokens[:-1] for tokens in prompts]) if len(prompts) > 1 else []
        beginning = None
        device = self.model.device
        if len(shared) >= SHORTEST_SHARED:
            ids = torch.tensor([shared], device=device)
            with torch.inference_mode():
                _, beginning = self._forward(ids, torch.ones_like(ids), None, keep=1)
        else:
            shared = []
        order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
        for start in range(0, len(order), self.settings.batch_size):
            where = order[start : start + self.settings.batch_size]
            longest = len(prompts[where[0]])
            gaps = [longest - len(prompts[index]) for index in where]
            pad, head = self.tokenizer.pad_token_id, len(shared)
            rows = [shared + [pad] * gap + prompts[index][head:] for index, gap in zip(where, gaps, strict=True)]
            seen = [[1] * head + [0] * gap + [1] * (longest - head - gap) for gap in gaps]
            cache = copy.deepcopy(beginning)
            if cache is not None:
                cache.batch_repeat_interleave(len(where))
            yield where, torch.tensor(rows, device=device), torch.tensor(seen, device=device), cache

    def _tokenize(self, prompts: Sequence[str], system: str, examples: Turns, room: int) -> list[list[int]]:
        """Return each conversation's tokens; where it is longer than `context_tokens`, its middle is left out."""
        longest = max(self.settings.context_tokens - room, 2)
        texts = [self._render(prompt, system, examples) for prompt in prompts]
        found: list[list[int]] = (
            self.tokenizer(texts, add_special_tokens=not self._has_template).input_ids if texts else []
        )
        return [ids if len(ids) <= longest else ids[: longest // 2] + ids[-(longest - longest // 2) :] for ids in found]

    @property
    def _has_template(self) -> bool:
        return bool(self.tokenizer.chat_template)

    def _render(self, prompt: str, system: str, examples: Turns) -> str:
        """Return the conversation as text; a model without a chat template gets plain paragraphs."""
        if not self._has_template:
            turns = [f"{asked}\n{answered}" for asked, answered in examples]
            return "\n\n".join([*([system] if system else []), *turns, f"{prompt}\n"])
        messages = [{"role": "system", "content": system}] if system else []
        for asked, answered in examples:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        messages.append({"role": "user", "content": prompt})
        try:
            rendered = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception:  # some templates refuse a system message: it goes before the first question
            if not system:
                raise
            first = examples[0][0] if examples else prompt
            ahead = f"{system}\n\n{first}"
            if examples:
                return self._render(prompt, "", [(ahead, examples[0][1]), *examples[1:]])
            return self._render(ahead, "", ())
        return str(rendered)

    def _continuation(self, option: str) -> list[int]:
        """Return an option's tokens as they follow a prompt."""
        before = self._render("?", "", ())
        special = not self._has_template
        ids: list[int] = self.tokenizer(before, add_special_tokens=special).input_ids
        whole: list[int] = self.tokenizer(before + option, add_special_tokens=special).input_ids
        if whole[: len(ids)] == ids and len(whole) > len(ids):
            return whole[len(ids) :]
        alone: list[int] = self.tokenizer(option, add_special_tokens=False).input_ids
        return alone


def _common_beginning(lists: list[list[int]]) -> list[int]:
    first, last = min(lists), max(lists)
    length = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), None)
    return first[: min(len(first), len(last)) if length is None else length]
