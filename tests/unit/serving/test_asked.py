"""What is answered before a model sees it."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest

from telellm.serving.asked import has_chat_template
from telellm.serving.named_models import NamedModel
from telellm.serving.serve import Engine, Front, application


def test_a_chat_template_is_found_in_a_file_of_its_own_and_in_the_settings(tmp_path: Path) -> None:
    assert not has_chat_template(tmp_path)
    settings = tmp_path / "tokenizer_config.json"
    for text, there in (("{", False), ('{"chat_template": null}', False), ('{"chat_template": "{{ 1 }}"}', True)):
        settings.write_text(text)
        assert has_chat_template(tmp_path) is there
    settings.unlink()
    (tmp_path / "chat_template.jinja").write_text("{{ 1 }}")
    assert has_chat_template(tmp_path)


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
def test_a_base_model_that_is_asked_for_a_chat_says_where_it_can_be_asked(path: str) -> None:
    running = cast("Any", SimpleNamespace(poll=lambda: None))
    engine = Engine(NamedModel("base", "/models/base"), "/models/base", 9, running, converses=False)
    app = application(cast("Front", SimpleNamespace(name="base", current=engine)))

    async def ask() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
            return await client.post(f"/v1/{path}", content=json.dumps({"messages": []}))

    answer = asyncio.run(ask())
    assert answer.status_code == 400
    assert "base has no chat template" in answer.text and "ask it at /v1/completions" in answer.text
