"""Fixed upper bounds of what a client may send; settings may lower, never raise, some of them."""

MAX_SUBJECT_CHARS = 500
MAX_PROMPT_CHARS = 2_000
MAX_TARGET_CHARS = 2_000
MAX_EVAL_PROMPTS = 32
MAX_CHAT_PROMPTS = 8
MAX_CHAT_MESSAGES = 16
MAX_METADATA_ITEMS = 32
MAX_METADATA_CHARS = 1_000
MAX_FACTS_PER_EDIT = 10_000
MAX_NAME_CHARS = 1_000
MAX_HPARAMS = 100
MAX_HPARAM_ITEMS = 1_000
MAX_GENERATE_CHARS = 100_000
MAX_NEW_TOKENS = 4_096
MAX_STOP_STRINGS = 8
MAX_STOP_CHARS = 200
MAX_STOP_TOKENS = 64
MAX_TOKEN_ID = 2**31 - 1
MAX_TEMPERATURE = 10.0
MAX_TOP_K = 1_000
MAX_PENALTY = 2.0
"""Of presence and frequency, either way."""
MAX_LOGIT_BIASES = 300
MAX_BIAS = 100.0
"""Of a logit, either way."""
MAX_LOGPROBS = 20
"""Alternatives shown for each token."""
MAX_CHOICES = 16
MAX_MESSAGES = 1_000
MAX_TASKS = 32
"""Prompts or versions of one request, each with its choices."""
MAX_STICKY_CHARS = 200
MAX_SPLIT_VERSIONS = 8
MAX_SPLIT_WEIGHT = 1_000
MAX_PAGE = 500
MAX_WAIT_SECONDS = 60
MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 * 1024
MAX_URL_BYTES = 8 * 1024
LEAST_BODY_RATE = 16 * 1024
"""Bytes a second: so much of a body gives a client another second."""
MAX_IDEMPOTENCY_CHARS = 255
MAX_KEY_NAME_CHARS = 100
MAX_KEY_ALIASES = 64
MAX_RATE = 10**9
"""Of requests or tokens a minute."""
