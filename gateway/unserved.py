"""What of OpenAI's and vLLM's routes is not served, and what there is instead: better told than a bare 404."""

from __future__ import annotations

from shared.errors import NotFound

#: Routes, also what lies below them, with why not or what instead.
ROUTES = {
    "/v1/embeddings": "Models served here write text and make no embeddings: ask a server of embedding models",
    "/v1/moderations": "Models served here write text and judge none by OpenAI's categories: ask one in words by "
    "/v1/chat/completions",
    "/v1/rerank": "Models served here write text and rank none",
    "/v1/score": "Models served here write text and rank none",
    "/v1/images": "Models served here write text and make no images",
    "/v1/audio": "Models served here write text and take and make no sound",
    "/v1/videos": "Models served here write text and make no videos",
    "/v1/realtime": "Answers are streamed by /v1/chat/completions with stream=true; there is no realtime session",
    "/v1/responses/": "/v1/responses keeps nothing: send what was said before again as input",
    "/v1/conversations": "No conversation is kept: send what was said before again, to /v1/chat/completions or "
    "/v1/responses",
    "/v1/chat/completions/": "No answer is kept: what /v1/chat/completions returns is all that there is of it",
    "/v1/assistants": "There are no assistants: send their instructions as system message to /v1/chat/completions",
    "/v1/threads": "No conversation is kept: send what was said before again, to /v1/chat/completions or /v1/responses",
    "/v1/vector_stores": "Nothing is searched here: find the passages elsewhere and send them as messages",
    "/v1/uploads": "A file is sent in one piece: POST /v1/files or /v1/datasets",
    "/v1/evals": "Evaluations are jobs here: POST /v1/jobs with kind evaluate",
    "/v1/load_lora_adapter": "Adapters are loaded by POST /v1/deployments with the adapter as model",
    "/v1/unload_lora_adapter": "Adapters are unloaded by DELETE /v1/deployments/NAME",
}


def refusal(path: str) -> NotFound:
    """For a path that is no route."""
    for beginning, why in ROUTES.items():
        if path == beginning or path.startswith(f"{beginning.rstrip('/')}/"):
            return NotFound(why)
    return NotFound("There is no route {path}; GET /openapi.json lists all", path=path)
