"""An HTTP server with OpenAI's API, and a page to try a model in."""
