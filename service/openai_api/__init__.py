"""OpenAI's API: models, completions and chats, every version of the facts as a model name.

Shapes and names follow OpenAI's reference (https://platform.openai.com/docs/api-reference) and,
where that has none, vLLM's server.
"""
