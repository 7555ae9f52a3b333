"""Answers of an OpenAI-compatible server that come from a real, tiny model: chat, completions, and likelihoods."""

from pathlib import Path
from threading import Lock
from typing import Any

import torch

from telellm.lm.models import load_model, load_tokenizer
from tests.language_model_server import Answer


class TinyServed:
    """What a server of a tiny model says; `completes` and `echoes` are what it offers beside chat."""

    def __init__(self, folder: Path, *, completes: bool = True, echoes: bool = True) -> None:
        self.model, self.tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
        self.completes, self.echoes = completes, echoes
        self.lock = Lock()

    def answer(self, request: dict[str, Any], number: int) -> Answer:
        """Answer as vLLM does: `echo` puts the prompt before what is written, and its tokens' log-probabilities too."""
        if "messages" in request:
            text, num_read, logprobs = self._write(request["messages"][-1]["content"], request)
            choice = {"message": {"role": "assistant", "content": text}}
        elif not self.completes:
            return 404, {"detail": "Not Found"}
        else:
            text, num_read, logprobs = self._write(request["prompt"], request)
            echoes = self.echoes and request.get("echo", False)
            choice = {"text": request["prompt"] + text if echoes else text}
            if "logprobs" in request:
                choice["logprobs"] = {"token_logprobs": logprobs if echoes else logprobs[num_read:]}
        usage = {"prompt_tokens": num_read, "completion_tokens": len(logprobs) - num_read}
        return 200, {"choices": [choice], "usage": usage}

    def _write(self, prompt: str, request: dict[str, Any]) -> tuple[str, int, list[float | None]]:
        ids: list[int] = self.tokenizer(prompt)["input_ids"]
        num_read, logprobs = len(ids), [None]
        with self.lock, torch.inference_mode():
            rates = self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
            logprobs += [float(rates[at, token]) for at, token in enumerate(ids[1:])]
            for _ in range(min(request["max_tokens"], 255 - num_read)):
                token = int(rates[-1].argmax())
                ids.append(token)
                logprobs.append(float(rates[-1, token]))
                if token == self.tokenizer.eos_token_id:
                    break
                rates = self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        return self.tokenizer.decode(ids[num_read:], skip_special_tokens=True), num_read, logprobs
