"""Notify: tell a webhook what the gate decided, and that a night failed."""

import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from telellm.recipe import Notify

TIMEOUT_SECONDS = 10.0
OUTCOMES = {
    "promoted": "{version} of {name} is in production",
    "refused": "{version} of {name} was refused",
    "overtaken": "{version} of {name} was overtaken by another version",
}
"""What became of a candidate → what is said of it."""


def message(
    settings: Notify, store: str, version: Mapping[str, Any], outcome: str, before: str | None
) -> dict[str, Any]:
    """Return what is said of a version that the gate has judged, in the format that the recipe names."""
    gate, place = version["gate"], f"models/{version['name']}/{version['version']}"
    root = settings.link.rstrip("/") or store
    links = {name: f"{root}/{place}/{file}" for name, file in (("report", "report.html"), ("card", "model-card.md"))}
    text = OUTCOMES[outcome].format(name=version["name"], version=version["version"])
    if settings.format == "json":
        return {
            "event": f"telellm.gate.{outcome}",
            "text": f"{text}: {gate['reason']}",
            "name": version["name"],
            "version": version["version"],
            "before": before,
            "run": version["run"],
            "criteria": gate["criteria"],
            "scores": version["scores"],
            "links": links,
        }
    lines = [f"*{_plain(text)}* (before: {before or 'none'})", _plain(gate["reason"])]
    lines += [f"{':white_check_mark:' if c['passed'] else ':x:'} {_plain(c['said'])}" for c in gate["criteria"]]
    is_link = root.startswith(("http://", "https://"))
    lines.append(" · ".join(f"<{link}|{name}>" if is_link else f"{name}: {link}" for name, link in links.items()))
    return {"text": "\n".join(lines)}


def failure(settings: Notify, store: str, name: str, run: str, step: str, reason: str) -> dict[str, Any]:
    """Return what is said of a night that failed, in the format that the recipe names."""
    text = f"the night {run} of {name} failed ({step})"
    link = f"{settings.link.rstrip('/') or store}/runs/{run}"
    if settings.format == "json":
        about = {"name": name, "run": run, "step": step, "reason": reason, "links": {"run": link}}
        return {"event": "telellm.night.failed", "text": f"{text}: {reason}", **about}
    return {"text": "\n".join([f":x: *{_plain(text)}*", _plain(reason), f"run: {link}"])}


def is_wanted(settings: Notify) -> bool:
    """Say whether the environment names a webhook."""
    return bool(os.environ.get(settings.variable, "").strip())


def send(settings: Notify, content: Mapping[str, Any]) -> str:
    """Post a message to the webhook that the environment names; returns what went wrong, "" where nothing did.

    What is told is in the store already: a webhook that does not answer ends no night.
    """
    url = os.environ.get(settings.variable, "").strip()
    if not url:
        return ""
    if urlsplit(url).scheme not in ("http", "https"):
        return f"{settings.variable} is not the URL of a webhook (https://…)"
    request = urllib.request.Request(
        url, json.dumps(content).encode(), {"Content-Type": "application/json", "User-Agent": "telellm"}
    )
    authorities = os.environ.get("AWS_CA_BUNDLE") or None
    try:
        trust = ssl.create_default_context()
        if authorities:  # a site's own authority signs its store and its webhooks
            trust.load_verify_locations(authorities)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=trust) as answer:
            answer.read(1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return f"the webhook of {settings.variable} did not take the message ({reason})"
    return ""


def _plain(text: str) -> str:
    """Return a text in which Slack sees no links or commands."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
