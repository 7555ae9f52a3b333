"""Startup probe of a model's server: it must answer one question of Tele-Eval. Python's own library alone.

python3 probe.py MODEL QUESTION.json
"""

import json
import os
import sys
import urllib.request
from pathlib import Path

name, file = sys.argv[1:]
question = json.loads(Path(file).read_text(encoding="utf-8")).get("statement") or "What does a base station do?"
prompt = f"The following is a question about telecommunications and networking.\nQuestion: {question}\nAnswer:"
asked = {"model": name, "prompt": prompt, "max_tokens": 16, "min_tokens": 1, "temperature": 0}
request = urllib.request.Request(
    f"http://127.0.0.1:{os.environ.get('SERVER_PORT', '8000')}/v1/completions",
    data=json.dumps(asked).encode(),
    headers={"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('VLLM_API_KEY', '')}"},
)
with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
    text = json.load(answer)["choices"][0]["text"]
sys.exit(0 if text else "the model says nothing")
