"""The OpenAI view: the same records as the native API under OpenAI's names, so that the official client just works."""
