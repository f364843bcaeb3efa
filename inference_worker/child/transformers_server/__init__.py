"""An OpenAI-compatible server on plain transformers, for models that vLLM cannot load: `engine: transformers`.

It answers under the routes and with the members that vLLM's server has, so that gateway, worker and generation jobs
need not know which of the two they ask. One thread computes (scheduler.py), one event loop talks (app.py). It pages no
cache and has no kernels of its own: where vLLM loads a model, vLLM is several times faster.
"""
