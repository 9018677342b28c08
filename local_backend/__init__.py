"""Everything about torch: the embedded model, decoding and an OpenAI-compatible server."""
