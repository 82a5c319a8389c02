# The worker: torch, transformers and the method. Build context: the root of the repository.
# pip stays in the image: the default model is a wheel, fetched at the first start.
FROM python:3.11-slim AS build
# An index with builds of torch for one kind of machine; empty takes PyPI's build, which on x86-64
# Linux is the one for CUDA, runs on CPUs too, and weighs gigabytes more than a CPU-only build.
ARG TORCH_INDEX=
WORKDIR /src
RUN python -m venv /opt/venv
# The dependencies first: this layer outlives changes of code.
COPY lock/worker.txt lock/torch.txt ./
RUN /opt/venv/bin/pip install --no-cache-dir \
    --require-hashes --no-deps --only-binary :all: -r worker.txt \
 && /opt/venv/bin/pip install --no-cache-dir \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r torch.txt
COPY pyproject.toml ./
COPY contracts contracts
COPY registry registry
COPY memit_core memit_core
COPY worker worker
RUN touch README.md LICENSE \
 && /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
 && rm /opt/venv/bin/memit

FROM python:3.11-slim
RUN useradd --uid 10001 --user-group --home-dir /data --no-create-home memit
COPY --from=build /opt/venv /opt/venv
COPY docker/worker_health.py /opt/memit/
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    TQDM_DISABLE=1 \
    HF_HOME=/models/huggingface \
    MEMIT_MODEL_CACHE=/models \
    MEMIT_HOME=/data \
    MEMIT_LOG_FORMAT=json
USER 10001:10001
CMD ["python", "-m", "worker"]
