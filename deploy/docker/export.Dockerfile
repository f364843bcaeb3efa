# Tunesmith export worker: Celery supervises, the child runs torch, transformers, peft and llmcompressor.
# CPU: the default base. CUDA: --build-arg BASE_IMAGE=nvidia/cuda:13.0.2-devel-ubuntu24.04, whose nvcc DeepSpeed builds its ops with.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE} AS build
WORKDIR /src
RUN apt-get update \
 && if ! command -v python3; then apt-get install -y --no-install-recommends python3 python3-venv; fi \
 && rm -rf /var/lib/apt/lists/*
COPY deploy/locks/trainer.txt deploy/locks/tunesmith.txt deploy/locks/
# torch first: the rest then takes the build that is there.
RUN python3 -m venv /opt/tunesmith \
 && grep '^torch==' deploy/locks/trainer.txt > torch.txt \
 && /opt/tunesmith/bin/pip install --no-cache-dir --disable-pip-version-check -r torch.txt \
 && /opt/tunesmith/bin/pip install --no-cache-dir --disable-pip-version-check -r deploy/locks/trainer.txt
COPY pyproject.toml README.md ./
COPY shared shared
COPY gateway gateway
COPY trainer_worker trainer_worker
COPY export_worker export_worker
COPY inference_worker inference_worker
RUN /opt/tunesmith/bin/pip install --no-cache-dir --disable-pip-version-check -c deploy/locks/trainer.txt ".[worker]"

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="tunesmith-export" \
      org.opencontainers.image.description="Tunesmith export worker" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# g++: DeepSpeed builds its CPU ops at first use.
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && if ! command -v python3; then apt-get install -y --no-install-recommends python3 python3-dev; fi \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --no-create-home --home-dir /var/lib/tunesmith tunesmith \
 && install -d -o tunesmith -g tunesmith /var/lib/tunesmith
COPY --from=build /opt/tunesmith /opt/tunesmith
ENV PATH=/opt/tunesmith/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    TUNESMITH_HOME=/var/lib/tunesmith TUNESMITH_METRICS_PORT=9100 TUNESMITH_METRICS_HOST=0.0.0.0 \
    HOME=/var/lib/tunesmith HF_HOME=/var/lib/tunesmith/huggingface
USER 10001
WORKDIR /var/lib/tunesmith
VOLUME ["/var/lib/tunesmith"]
EXPOSE 9100
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9100/metrics', timeout=3)"]
STOPSIGNAL SIGTERM
CMD ["celery", "-A", "export_worker.tasks", "worker", "-Q", "export,push", "--pool", "threads", "-c", "1", "--loglevel", "INFO"]
