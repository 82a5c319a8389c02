# The API: no torch, no transformers, no pip. Build context: the root of the repository.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv --without-pip /opt/venv
# The dependencies first: this layer outlives changes of code.
COPY lock/service.txt ./
RUN pip --python /opt/venv install --no-cache-dir \
    --require-hashes --no-deps --only-binary :all: -r service.txt
COPY pyproject.toml ./
COPY contracts contracts
COPY registry registry
COPY service service
RUN touch README.md LICENSE \
 && pip --python /opt/venv install --no-cache-dir --no-deps --no-build-isolation . \
 && pip --python /opt/venv uninstall --yes setuptools \
 && rm /opt/venv/bin/memit

FROM python:3.11-slim
RUN useradd --uid 10001 --user-group --home-dir /data --no-create-home memit
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MEMIT_HOME=/data \
    MEMIT_LOG_FORMAT=json \
    MEMIT_HOST=0.0.0.0 \
    MEMIT_PORT=8000
USER 10001:10001
EXPOSE 8000
CMD ["python", "-m", "service"]
