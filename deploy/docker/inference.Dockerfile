# Inference worker: brings deployments about as replicas of vLLM; a second process takes the queue `generate`.
# CUDA: --build-arg BASE_IMAGE=vllm/vllm-openai:v0.32.0 --build-arg LOCK=inference-gpu.txt (vLLM is in that base).
ARG BASE_IMAGE=python:3.11-slim-bookworm

# The stages python, light and code are the same in all Dockerfiles: built once, and their layers kept once.
FROM ${BASE_IMAGE} AS python
# tini: keepers that outlive their worker become children of process 1, which must wait for them.
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini \
 && if ! command -v python3; then apt-get install -y --no-install-recommends python3 python3-venv; fi \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --no-create-home --home-dir /var/lib/tunesmith tunesmith \
 && install -d -o tunesmith -g tunesmith /var/lib/tunesmith

FROM python AS light
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
COPY deploy/locks/tunesmith.txt /src/
RUN python3 -m venv /opt/tunesmith \
 && /opt/tunesmith/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps -r /src/tunesmith.txt \
 && echo /opt/code >"$(echo /opt/tunesmith/lib/python3.*/site-packages)/tunesmith.pth" \
 && /opt/tunesmith/bin/pip uninstall --yes --quiet setuptools pip

# Dependencies before code: a change of code makes one small layer anew, for every image the same.
FROM python AS code
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check setuptools==84.2.1
WORKDIR /src
COPY pyproject.toml README.md ./
COPY shared shared
COPY gateway gateway
COPY trainer_worker trainer_worker
COPY export_worker export_worker
COPY inference_worker inference_worker
RUN /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check --no-build-isolation --no-deps --target /opt/code . \
 && sed -i "1s|.*|#!/opt/tunesmith/bin/python3|" /opt/code/bin/tunesmith

FROM python AS heavy
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG LOCK=inference.txt
COPY deploy/locks/inference.txt deploy/locks/inference-gpu.txt /src/
# System site packages let a base's own vLLM be seen. Without dependencies, as the CPU lock names them all: torchvision,
# torchaudio and torchcodec of the CPU wheel are CUDA builds that cannot load beside a CPU torch, and the reader of
# bitsandbytes files would bring another vLLM.
RUN python3 -m venv --system-site-packages /opt/inference \
 && { grep '^torch==' "/src/${LOCK}" >/src/torch.txt || true; } \
 && grep -vE '^vllm==' "/src/${LOCK}" >/src/rest.txt \
 && /opt/inference/bin/pip install --no-cache-dir --disable-pip-version-check -r /src/torch.txt \
 && /opt/inference/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps -r /src/rest.txt \
 && echo /opt/code >"$(echo /opt/inference/lib/python3.*/site-packages)/tunesmith.pth" \
 && /opt/inference/bin/pip uninstall --yes --quiet pip

FROM python
COPY --from=light /opt/tunesmith /opt/tunesmith
# libnuma and OpenMP: what vLLM's CPU build loads.
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ libnuma1 libgomp1 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=heavy /opt/inference /opt/inference
COPY --from=code /opt/code /opt/code
ENV PATH=/opt/code/bin:/opt/tunesmith/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    TUNESMITH_HOME=/var/lib/tunesmith TUNESMITH_METRICS_PORT=9100 TUNESMITH_METRICS_HOST=0.0.0.0 \
    TUNESMITH_INFERENCE_PYTHON=/opt/inference/bin/python3 HOME=/var/lib/tunesmith HF_HOME=/var/lib/tunesmith/huggingface \
    VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
USER 10001
WORKDIR /var/lib/tunesmith
VOLUME ["/var/lib/tunesmith"]
EXPOSE 9100
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9100/metrics', timeout=3)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "-s", "--"]
CMD ["python3", "-m", "inference_worker"]
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE
LABEL org.opencontainers.image.title="tunesmith-inference" \
      org.opencontainers.image.description="Tunesmith inference worker with vLLM" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
